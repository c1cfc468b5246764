"""Each sentence names the cause and the mend, for the trunk's form; the README holds the same ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from models.contexts import Context
from models.explanations import (
    ENTRIES,
    MARKERS,
    Ending,
    Entry,
    Verdict,
    Waiting,
    advise,
    explain,
    needs_context,
    put_into,
    said_by_far_side,
)
from models.outcome import Disposition
from models.sip_codes import in_words

D = Disposition
TALKED = timedelta(seconds=20)
SILENT = Ending(why=D.ANSWERED, talked=TALKED, rx_packets=0, tx_packets=1000)
AUDIO: dict[str, dict[str, int]] = {
    "none": {"rx_packets": 0, "tx_packets": 0},
    "none-received": {"rx_packets": 0, "tx_packets": 900},
    "none-sent": {"rx_packets": 900, "tx_packets": 0},
    "lossy": {"rx_packets": 900, "tx_packets": 1000, "rx_lost": 100, "tx_lost": 20},
}
ACME = Context(
    trunk="acme",
    trunk_active=True,
    auth_type="userpass",
    transport="transport-udp",
    media_encryption="no",
    allow="ulaw,g729",
    leading_plus=True,
    rtp_symmetric=True,
    direct_media=False,
    caller_id="+12025550100",
    gateway="sip.acme.example:5060",
    sip_address="8.8.4.1",
    agent="audiosocket://127.0.0.1:9092",
)
FORMS = [
    replace(
        ACME,
        auth_type=auth,
        transport=transport,
        media_encryption=encryption,
        leading_plus=plus,
        rtp_symmetric=plus,
        direct_media=not plus,
        sip_address=address,
        seen_as=seen,
        finding=finding,
        detail=detail,
    )
    for auth, (transport, encryption), plus, (address, seen), (finding, detail) in product(
        ("userpass", "ip-based"),
        (("transport-udp", "no"), ("transport-tcp", "no"), ("transport-tls", "no"), ("transport-tls", "sdes")),
        (True, False),
        ((None, None), ("127.0.0.1", None), ("0.0.0.0", "8.8.4.4"), ("10.0.0.5", "8.8.4.4"), ("8.8.4.4", "8.8.4.4")),
        ((None, None), ("answered", "It answered in 12 ms."), ("silent", "Nothing came back in 4 s.")),
    )
]

# What each sentence has to say of the cause, and of the mend.
SAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "answered": (("Answered.",), ()),
    "answered/no-audio": (("not one packet",), ("symmetric RTP", "direct media", "NAT", "firewall", "the agent")),
    "answered/nothing-received": (("no audio was received",), ("symmetric RTP", "direct media", "NAT", "firewall")),
    "answered/nothing-sent": (("no audio was sent",), ("symmetric RTP", "direct media", "NAT", "firewall", "the agent")),
    "answered/lossy": (("lost on the way", "10%", "2%"), ("line", "--max-concurrent-calls")),
    "not-allowed": (("may", "start with"), ("--allowed-prefix", "upload")),
    "next-gateway": (("did not deliver", "next"), ()),
    "gateways-rest": (("no gateway", "keeps failing"), ("trunk check", "by itself")),
    "agent-unreachable": (("answered", "the agent"), ("runs", "listens")),
    "agent-unreachable/hung-up": (("accepted the connection", "closed it at once"), ("log", "behind it runs")),
    "agent-unreachable/no-sound": (("no such sound",), ("sound",)),
    "agent-unreachable/no-extension": (("no such extension",), ("dialplan",)),
    "busy": (("busy",), ("again later",)),
    "no-answer": (("no ringing was heard",), ("again later",)),
    "no-answer/rang": (("It rang",), ("again later",)),
    "no-answer/rang-out": (("It rang", "within our 30 seconds"), ("again later",)),
    "no-answer/gave-up": (("within our 30 seconds", "TRUNKLINE_RING_TIMEOUT_SECONDS", "no ringing"), ("again later",)),
    "no-answer/not-reached": (("could not reach", "no ringing was heard"), ("again later",)),
    "invalid-number": (("does not exist",), ("Correct", "off the list", "leading-plus`")),
    "invalid-number/incomplete": (("digits are missing",), ("Correct", "leading-plus`")),
    "invalid-number/gone": (("no more",), ("off the list",)),
    "auth-failed/credentials": (("username and password", "wrong"), ("--username", "--password")),
    "auth-failed/address": (("asks for credentials", "address", "not on its allow-list"), ("allow-list", "--auth-type userpass")),
    "forbidden/address": (("address", "not on its allow-list"), ("allow-list", "the caller ID")),
    "forbidden/caller-id": (("the caller ID", "wrong password"), ("Register or verify", "country", "--password")),
    "rejected": (("declined",), ("Call-ID",)),
    "rejected/declined": (("declined",), ("again soon", "reputation")),
    "rejected/unwanted": (("unwanted",), ("off the list", "reputation")),
    "rejected/unpaid": (("paid",), ("Top up",)),
    "rejected/unattested": (("STIR/SHAKEN",), ("sign",)),
    "codec-mismatch": (("codecs", "SRTP"), ("--allow", "--transport transport-tls --media-encryption sdes")),
    "codec-mismatch/srtp": (("SRTP", "codecs"), ("--media-encryption no", "--allow")),
    "codec-mismatch/plain-over-tls": (("in the clear", "SRTP"), ("--media-encryption sdes", "--allow")),
    "congestion": (("no line free", "cannot be reached"), ("trunk check", "--max-concurrent-calls")),
    "congestion/loopback": (("loopback",), ("TRUNKLINE_SIP_BIND", "TRUNKLINE_EXTERNAL_ADDRESS")),
    "congestion/no-name": (("does not resolve",), ("--gateway", "DNS")),
    "congestion/refused": (("refuses connections",), ("address, port and transport", "--gateway", "--transport")),
    "congestion/tls-failed": (("TLS", "certificate"), ("--gateway", "5061")),
    "congestion/not-reached": (("could not be reached", "said nothing"), ("trunk check",)),
    "congestion/said": (("no line free",), ("--max-concurrent-calls",)),
    "congestion/silent": (("does not answer our probes", "rather than short of lines"), ("firewall", "trunk check")),
    "congestion/answering": (("no line free", "answers our probes"), ("--max-concurrent-calls",)),
    "gateway-error": (("error of its own",), ("again later", "Call-ID")),
    "gateway-unreachable": (("did not answer", "port", "transport", "firewall"), ("trunk check", "--gateway", "--transport")),
    "gateway-unreachable/loopback": (("loopback",), ("TRUNKLINE_SIP_BIND", "TRUNKLINE_EXTERNAL_ADDRESS")),
    "gateway-unreachable/answering": (("did not answer this call", "answers our probes"), ("allow-list", "firewall")),
    "redirected": (("never followed",), ("--gateway",)),
    "not-placed": (("RTP port",), ("RTP range", "--max-concurrent-calls")),
    "not-placed/trunk-off": (("switched off",), ("trunk enable",)),
    "not-placed/gateway-removed": (("taken off",), ("next attempt",)),
    "not-placed/no-endpoint": (("Postgres",), ("trunkline doctor",)),
    "poison": (("workers died",), ("log",)),
    "canceled": (("by an operator",), ()),
    "expired": (("time was over",), ("earlier",)),
    "lost": (("not seen", "cannot be known"), ("Decide", "--call-again", "--leave")),
    "lost/left": (("cannot be known", "operator has left it"), ()),
    "taken-back": (("paused",), ("goes on",)),
    "trunk-off": (("switched off",), ("trunk enable",)),
    "campaign-waits": (("not running",), ("campaign resume",)),
    "void": (("too long ago",), ("TRUNKLINE_WORKERS",)),
    "unclaimed": (("no worker",), ("Redis",)),
    "turn-passed": (("calls a second",), ("later",)),
    "refused": (("the reason given",), ("Correct the agent",)),
    "booting": (("the reason given",), ("takes calls again",)),
    "no-channel": (("never made a channel",), ("logs",)),
    "overtaken": (("earlier attempt",), ()),
    "not-due": (("its time",), ()),
    "campaign": (("campaign is the reason given",), ("campaign start", "resume")),
    "number-unregistered": (("not registered",), ("number add",)),
    "trunk-is-off": (("switched off",), ("trunk enable",)),
    "no-node": (("no Asterisk is heard",), ("trunkline up", "doctor")),
    "nodes-rest": (("takes no calls", "left alone"), ("doctor", "by itself")),
    "agent-down": (("agent is down", "paused itself"), ("campaign resume",)),
    "slot": (("turn",), ("scheduler", "trunkline doctor")),
    "slot/campaign": (("turn",), ("trunkline explain spring",)),
    "worker": (("no worker",), ("trunkline doctor",)),
}  # fmt: skip
ALL = pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.in_table], ids=lambda entry: entry.key)


def answered(audio: str) -> Ending:
    return replace(Ending(why=D.ANSWERED, talked=TALKED), **AUDIO[audio])  # type: ignore[arg-type]


def cases(entry: Entry) -> list[tuple[Ending, Context]]:
    """Each form of a trunk with what the entry is for."""
    seen: dict[str, Any] = {"why": entry.why, "error": "the reason given", "talked": TALKED}
    around: dict[str, Any] = {}
    for name, wanted in entry.when.items():
        one = wanted[0] if isinstance(wanted, tuple) else wanted
        match name:
            case "audio":
                seen |= AUDIO[str(one)]
            case "bound_to_loopback":
                around |= {"sip_address": "127.0.0.1"}
            case "gave_up":
                seen |= {"gave_up_after": timedelta(seconds=30)}
            case "spoke":
                seen |= {"last_reply": None if one is None else 503 if one else 0}
            case "of_campaign":
                around |= {"campaign": "spring"}
            case "gateway_removed":
                around |= {"gateway": None}
            case _ if name in Ending.__dataclass_fields__:
                seen[name] = one
            case _:
                around[name] = one
    return [(Ending(**seen), replace(form, **around)) for form in FORMS]


@ALL
def test_every_entry_is_found_by_what_it_is_for_and_says_cause_and_mend_for_every_form(entry: Entry) -> None:
    causes, mends = SAYS[entry.key]
    found = 0
    for ending, context in cases(entry):
        advice = advise(ending, context)
        if advice.key == entry.key:
            found += 1
            assert all(word in advice.means for word in causes), advice
            assert all(word in advice.do for word in mends), advice
        text = explain(ending, context)
        assert not any(left in text for left in ("{", "}", "None", "TRUNK ", "  ", "..", " ,")), text
        assert text[0].isupper()
        assert text.rstrip(")").endswith((".", "`")) or ending.sip_code, text
    assert found > 0, "no trunk's form leads to it"


def test_every_reason_has_an_entry_even_where_nothing_is_known_of_the_trunk() -> None:
    for why in (*Disposition, *Verdict, *Waiting):
        text = explain(Ending(why=why, error="x"))
        assert text[0].isupper()
        assert "{" not in text
    assert {entry.key for entry in ENTRIES if entry.in_table} == set(SAYS)


@pytest.mark.parametrize("disposition", Disposition)
def test_every_disposition_has_a_sentence_of_its_own_with_the_sip_status_in_words_where_the_far_side_gave_one(
    disposition: Disposition,
) -> None:
    sentence = explain(Ending(why=disposition))
    assert sentence.endswith(".")
    assert [other for other in Disposition if explain(Ending(why=other)) == sentence] == [disposition]
    theirs = disposition not in {D.ANSWERED, D.AGENT_UNREACHABLE, D.GATEWAY_UNREACHABLE}
    with_status = explain(Ending(why=disposition, sip_code=486))
    assert with_status == (f"{sentence} (SIP 486 Busy Here)" if theirs else sentence)


def test_a_480_of_our_own_ring_timeout_is_not_laid_to_the_far_side() -> None:
    ours = Ending(why=D.NO_ANSWER, sip_code=480, gave_up_after=timedelta(seconds=30))
    for rang in (True, False):
        assert "SIP" not in explain(replace(ours, rang=rang))
        assert said_by_far_side(replace(ours, rang=rang)) is None
    theirs = Ending(why=D.NO_ANSWER, sip_code=480)
    assert said_by_far_side(theirs) == "480 Temporarily Unavailable"
    assert "our" not in explain(theirs)


def test_a_status_that_nobody_registered_stays_a_number() -> None:
    assert in_words(604) == "604 Does Not Exist Anywhere"
    assert explain(Ending(why=D.REJECTED, sip_code=499)).endswith("(SIP 499)")


@pytest.mark.parametrize(
    ("told", "seen", "named"),
    [
        ("10.0.0.5", "8.8.4.4", "8.8.4.4"),
        ("8.8.4.1", None, "8.8.4.1"),
        ("127.0.0.1", None, None),
        ("0.0.0.0", None, None),
        ("[::]", None, None),
        (None, None, None),
    ],
)
def test_our_address_is_the_one_the_carrier_sees_and_never_loopback(
    told: str | None, seen: str | None, named: str | None
) -> None:
    by_address = replace(ACME, auth_type="ip-based", sip_address=told, seen_as=seen)
    for sip_code, why in ((403, D.FORBIDDEN), (401, D.AUTH_FAILED)):
        text = explain(Ending(why=why, sip_code=sip_code), by_address)
        assert f"our address {named}" in text if named else "our public address" in text
        assert "allow-list" in text


def test_a_403_speaks_of_the_address_or_of_the_caller_id_as_the_trunk_is() -> None:
    forbidden = Ending(why=D.FORBIDDEN, sip_code=403)
    assert "allow-list" not in explain(forbidden, ACME)
    assert "the caller ID +12025550100" in advise(forbidden, ACME).means
    assert "allow-list" in advise(forbidden, replace(ACME, auth_type="ip-based")).means


def test_a_number_refused_says_which_form_it_had_and_how_to_have_the_other() -> None:
    unknown = Ending(why=D.INVALID_NUMBER, sip_code=404)
    assert "with a leading plus, try without: `trunkline trunk update acme --no-leading-plus`" in explain(unknown, ACME)
    without = explain(unknown, replace(ACME, leading_plus=False))
    assert "without a leading plus, try with it: `trunkline trunk update acme --leading-plus`" in without


def test_what_is_right_already_is_not_to_be_switched() -> None:
    silent = Ending(why=D.ANSWERED, talked=TALKED, rx_packets=0, tx_packets=1000)
    good, bad = explain(silent, ACME), explain(silent, replace(ACME, rtp_symmetric=False, direct_media=True))
    assert "--rtp-symmetric" not in good
    assert "--no-direct-media" not in good
    assert "`trunkline trunk update acme --rtp-symmetric`" in bad
    assert "`trunkline trunk update acme --no-direct-media`" in bad


def test_the_causes_of_one_way_audio_come_in_their_order() -> None:
    for audio in ("none", "none-received", "none-sent"):
        text = explain(answered(audio), ACME)
        order = [text.index(word) for word in ("symmetric RTP", "direct media", "behind NAT", "firewall")]
        assert order == sorted(order), text


@pytest.mark.parametrize(
    ("told", "seen", "says"),
    [
        ("10.0.0.5", "8.8.4.4:5060", "set TRUNKLINE_EXTERNAL_ADDRESS=8.8.4.4"),
        ("10.0.0.5", None, "are told the private 10.0.0.5"),
        ("8.8.4.4", "8.8.4.4", "are told 8.8.4.4"),
        ("pbx.example.com", None, "are told pbx.example.com"),
        ("127.0.0.1", None, "set TRUNKLINE_EXTERNAL_ADDRESS to our public address"),
        (None, None, "set TRUNKLINE_EXTERNAL_ADDRESS to our public address"),
    ],
)
def test_behind_nat_the_address_to_set_is_named_where_it_is_known(
    told: str | None, seen: str | None, says: str
) -> None:
    text = explain(SILENT, replace(ACME, sip_address=told, seen_as=seen))
    assert says in text
    if "so set " in says or "set TRUNKLINE" in says:
        assert "`trunkline down` and `trunkline up`" in text
        assert "`trunkline asterisk export`" in text, "alone it changes nothing for an Asterisk of one's own"


@pytest.mark.parametrize("told", ["8.8.4.4", "10.0.0.5", "pbx.example.com", None])
@pytest.mark.parametrize(("gateway", "seen"), [("pbx.lan", "192.168.1.5"), ("192.168.1.9:5060", None)])
def test_a_gateway_on_our_side_of_the_nat_gives_no_address_to_set(told: str | None, gateway: str, seen: str) -> None:
    text = explain(SILENT, replace(ACME, sip_address=told, seen_as=seen, gateway=gateway))
    assert "on our side" in text
    assert "TRUNKLINE_EXTERNAL_ADDRESS" not in text


@pytest.mark.parametrize(
    ("transport", "encryption", "others"),
    [
        (
            "transport-udp",
            "no",
            "--transport transport-tcp` or `trunkline trunk update acme --transport transport-tls`",
        ),
        (
            "transport-tcp",
            "no",
            "--transport transport-udp` or `trunkline trunk update acme --transport transport-tls`",
        ),
        ("transport-tls", "sdes", "--transport transport-tcp --media-encryption no`"),
    ],
)
def test_the_transport_that_a_trunk_has_is_not_advised(transport: str, encryption: str, others: str) -> None:
    context = replace(ACME, transport=transport, media_encryption=encryption)
    for ending, around in [
        (Ending(why=D.GATEWAY_UNREACHABLE, sip_code=408), context),
        (Ending(why=D.CONGESTION, sip_code=503), replace(context, finding="refused")),
    ]:
        text = explain(ending, around)
        assert f"--transport {transport}" not in text
        assert others in text


def test_the_codecs_that_a_trunk_has_are_not_advised() -> None:
    for form in FORMS:
        text = explain(Ending(why=D.CODEC_MISMATCH, sip_code=488), replace(form, allow="ulaw,alaw"))
        assert "--allow ulaw,alaw" not in text


def test_names_in_commands_are_quoted() -> None:
    context = replace(ACME, trunk="my trunk", campaign="my list", trunk_active=False)
    assert "`trunkline trunk enable 'my trunk'`" in explain(Ending(why=Waiting.TRUNK_OFF), context)
    assert "`trunkline campaign start 'my list'`" in explain(Ending(why=Waiting.CAMPAIGN, error="ready"), context)
    assert "`trunkline explain 'my list'`" in explain(Ending(why=Waiting.SLOT), context)


def test_a_single_call_is_not_sent_to_its_campaign() -> None:
    assert "CAMPAIGN" not in explain(Ending(why=Waiting.SLOT), ACME)


@pytest.mark.parametrize(
    ("figures", "talked", "audio"),
    [
        ({}, TALKED, None),
        ({"rx_packets": 0}, TALKED, "none-received"),
        ({"tx_packets": 0}, TALKED, "none-sent"),
        ({"rx_packets": 0, "tx_packets": 0}, timedelta(milliseconds=400), None),
        ({"rx_packets": 0, "tx_packets": 0}, None, None),
        ({"rx_packets": 95, "tx_packets": 100, "rx_lost": 5, "tx_lost": 5}, TALKED, None),
        ({"rx_packets": 94, "tx_packets": 100, "rx_lost": 6, "tx_lost": 0}, TALKED, "lossy"),
        ({"rx_packets": 100, "tx_packets": 100, "rx_lost": 0, "tx_lost": 6}, TALKED, "lossy"),
    ],
)
def test_what_is_not_known_of_the_audio_is_not_held_against_the_call(
    figures: dict[str, int], talked: timedelta | None, audio: str | None
) -> None:
    ending = replace(Ending(why=D.ANSWERED, talked=talked), **figures)  # type: ignore[arg-type]
    assert ending.audio == audio
    assert needs_context(ending) == (audio is not None)
    assert (explain(ending, ACME) == "Answered.") == (audio is None)


def test_loopback_is_the_cause_only_for_a_gateway_that_is_elsewhere() -> None:
    silence = Ending(why=D.GATEWAY_UNREACHABLE, sip_code=408)
    for gateway, is_cause in [
        ("sip.acme.example", True),
        ("8.8.4.4:5060", True),
        ("127.0.0.1:5070", False),
        ("localhost:5070", False),
        ("[::1]:5070", False),
    ]:
        text = explain(silence, replace(ACME, sip_address="127.0.0.1", gateway=gateway))
        assert ("loopback" in text) == is_cause, gateway


def test_where_nothing_was_sent_no_status_is_laid_to_the_far_side() -> None:
    ended = Ending(why=D.CONGESTION, sip_code=503)
    for finding in ("no-name", "refused", "tls-failed"):
        assert "SIP 503" not in explain(ended, replace(ACME, finding=finding))
    for context in (ACME, replace(ACME, finding="silent"), replace(ACME, finding="answered")):
        assert explain(ended, context).endswith("(SIP 503 Service Unavailable)")


def test_no_context_is_asked_for_where_it_would_change_no_word() -> None:
    for entry in ENTRIES:
        for ending, context in cases(entry):
            if not needs_context(ending):
                assert explain(ending, context) == explain(ending)


def test_the_readme_holds_these_very_sentences() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert put_into(readme) == readme, "run `make docs`"


def test_a_file_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no"):
        put_into(f"{MARKERS[0]} and no end")
