"""The witness's reading of the log, and the table and scenario it rests on."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from deploy.carrier.numbers import ANY_OTHER, BEHAVIOURS, STAYS, behaviour_of, fictional_number
from deploy.carrier.scenario import render
from deploy.carrier.witness import (
    CarrierCall,
    NotACarrierLog,
    by_number,
    duplicates,
    parse,
    peak_a_second,
    peak_at_once,
    read,
)


def line(at: float, event: str, call_id: str = "a", rest: str = "") -> str:
    return f"2026-07-01\t12:00:00.000000\t{at:.6f} {event} {call_id}{rest and ' ' + rest}"


def invite(
    at: float, call_id: str = "a", *, number: str = "+12025550100", asserted: str = "", formats: str = "0"
) -> str:
    return line(
        at, "invite", call_id, fields(f"sip:{number}@127.0.0.1:5060", asserted=asserted, formats=formats + " 101")
    )


def fields(
    uri: str,
    *,
    via: str = "UDP",
    caller: str = "+12025550199@10.0.0.1:5062",
    contact: str = "asterisk@10.0.0.1:5062",
    asserted: str = "",
    profile: str = "RTP/AVP",
    crypto: str = "",
    dtmf: str = "101",
    formats: str = "0 101",
) -> str:
    return (
        f"uri={uri} via={via} from={caller} contact={contact} asserted={asserted} profile={profile} crypto={crypto}"
        f" dtmf={dtmf} formats={formats}"
    )


def call(invited_at: float, ended_at: float | None = None, *, number: str = "+12025550100") -> CarrierCall:
    return CarrierCall(
        sip_call_id=f"{number}-{invited_at}",
        number=number,
        from_number="+12025550199",
        asserted_number=None,
        request_uri=f"sip:{number}@127.0.0.1",
        codecs=("ulaw",),
        invited_at=invited_at,
        ringing_at=invited_at,
        ended_at=ended_at,
        end=None if ended_at is None else "bye-sent",
    )


def only(lines: list[str]) -> CarrierCall:
    (found,) = parse(lines)
    return found


def test_answered_call_with_everything() -> None:
    found = only(
        [
            invite(10.000001, asserted="+12025550198", formats="8 0 107"),
            line(10.1, "ringing"),
            line(10.2, "answered"),
            line(11.5, "bye-sent"),
        ]
    )
    assert found == CarrierCall(
        sip_call_id="a",
        number="+12025550100",
        from_number="+12025550199",
        asserted_number="+12025550198",
        request_uri="sip:+12025550100@127.0.0.1:5060",
        codecs=("alaw", "ulaw", "payload-107"),
        invited_at=10.000001,
        transport="UDP",
        from_domain="10.0.0.1:5062",
        contact_user="asterisk",
        profile="RTP/AVP",
        crypto=None,
        ringing_at=10.1,
        answered_at=10.2,
        ended_at=11.5,
        end="bye-sent",
        status=200,
    )


@pytest.mark.parametrize(
    ("event", "rest", "end", "status"),
    [
        ("bye-received", "", "bye-received", None),
        ("bye-sent", "", "bye-sent", None),
        ("cancel", "", "cancel", 487),
        ("final", "486", "final", 486),
        ("challenge", "", "final", 401),
    ],
)
def test_ends(event: str, rest: str, end: str, status: int | None) -> None:
    found = only([invite(1), line(2, event, rest=rest)])
    assert (found.end, found.status, found.ended_at) == (end, status, 2.0)


@pytest.mark.parametrize("digest", ["right", "wrong"])
def test_challenge_that_is_answered_is_the_same_call_and_no_end(digest: str) -> None:
    found = only([invite(1), line(2, "challenge"), line(3, "credentials", rest=digest)])
    assert (found.digest, found.invites_with_credentials) == (digest, 1)
    assert (found.end, found.ended_at, found.status) == (None, None, None)
    assert found.invited_at == 1.0
    assert not found.ignored


def test_ringing_progress_and_trying_are_signs_of_life() -> None:
    assert only([invite(1)]).ignored
    assert not only([invite(1), line(2, "ringing")]).ignored
    assert only([invite(1), line(2, "progress")]).progress_at == 2.0
    assert not only([invite(1), line(2, "trying")]).ignored


def test_same_call_id_again_is_no_new_call_and_changes_nothing() -> None:
    found = only([invite(1), line(2, "final", rest="486"), invite(3)])
    assert (found.invited_at, found.ended_at) == (1.0, 2.0)


def test_events_of_calls_before_the_log_are_left_out() -> None:
    assert parse([line(1, "bye-received", "unknown"), "", "  "]) == []


def test_interleaved_calls_keep_apart_and_keep_their_order() -> None:
    first, second = parse(
        [invite(1, "a"), invite(2, "b", number="+12025550186"), line(3, "final", "b", "486"), line(4, "answered", "a")]
    )
    assert (first.sip_call_id, first.answered_at, first.end) == ("a", 4.0, None)
    assert (second.sip_call_id, second.status) == ("b", 486)


def test_what_a_trunks_form_changes_is_read() -> None:
    rest = fields(
        "sip:1@[::1]:5061;transport=tls",
        via="TLS",
        caller="acme@sip.example.com",
        contact="+12025550199@10.0.0.1:5063",
        profile="RTP/SAVP",
        crypto="AES_CM_128_HMAC_SHA1_80",
    )
    found = only([line(1, "invite", rest=rest)])
    assert (found.transport, found.from_number, found.from_domain) == ("TLS", "acme", "sip.example.com")
    assert (found.contact_user, found.profile, found.crypto) == ("+12025550199", "RTP/SAVP", "AES_CM_128_HMAC_SHA1_80")


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        line(1, "invite", rest="uri=?"),
        line(1, "invite", rest=fields("sip:1@h", via="SCTP")),
        line(1, "invite", rest=fields("sip:1@h") + " more"),
        invite(1) + "\n" + line(1, "unheard-of"),
    ],
)
def test_a_line_of_another_hand_is_an_error(text: str) -> None:
    with pytest.raises(NotACarrierLog):
        parse(text.split("\n"))


def test_missing_caller_and_codecs_are_empty() -> None:
    rest = fields("tel:1", caller="", contact="", profile="", dtmf="", formats="")
    found = only([line(1, "invite", rest=rest)])
    assert (found.number, found.from_number, found.contact_user, found.codecs) == ("", "", "", ())


def test_read_leaves_a_line_without_its_end(tmp_path: Path) -> None:
    log = tmp_path / "carrier.log"
    log.write_text(invite(1) + "\n" + line(2, "final", rest="486")[:-4])
    assert read(log)[0].end is None
    log.write_text("")
    assert read(log) == []


def test_peak_at_once_counts_from_invite_to_end() -> None:
    assert peak_at_once([]) == 0
    assert peak_at_once([call(1, 5), call(2, 3), call(4, 6)]) == 2
    assert peak_at_once([call(1, 5), call(2, 4.5), call(4, 6)]) == 3
    assert peak_at_once([call(1, 2), call(2, 3)]) == 1
    assert peak_at_once([call(1), call(100)]) == 2


def test_peak_at_once_lets_go_of_an_ignored_call() -> None:
    ignored = parse([invite(1, "a"), invite(5, "b"), invite(100, "c")])
    assert peak_at_once(ignored) == 2
    assert peak_at_once(ignored, silence=1.0) == 1


def test_peak_a_second_slides() -> None:
    assert peak_a_second([]) == 0
    assert peak_a_second([call(at) for at in (0.9, 1.1, 1.5, 1.8)]) == 4
    assert peak_a_second([call(at) for at in (1.0, 2.0, 3.0)]) == 1
    assert peak_a_second([call(at) for at in (3.0, 1.0, 1.999)]) == 2


def test_by_number_and_duplicates() -> None:
    calls = [call(2, number="+1"), call(1, number="+1"), call(3, number="+2")]
    assert {number: [one.invited_at for one in same] for number, same in by_number(calls).items()} == {
        "+1": [1, 2],
        "+2": [3],
    }
    assert list(duplicates(calls)) == ["+1"]


def test_every_pair_of_digits_means_one_thing() -> None:
    assert len({behaviour.digits for behaviour in BEHAVIOURS}) == len(BEHAVIOURS)
    assert len({behaviour.does for behaviour in BEHAVIOURS}) == len(BEHAVIOURS)
    assert all(behaviour_of(fictional_number(415, one.digits)) is one for one in BEHAVIOURS)
    assert behaviour_of("+12025550100") is behaviour_of("12025550100") is STAYS
    assert behaviour_of("+12025550177") is ANY_OTHER


@pytest.mark.parametrize(("area", "digits"), [(199, "00"), (1000, "00"), (202, "0"), (202, "0x")])
def test_numbers_outside_the_fictional_range_are_refused(area: int, digits: str) -> None:
    with pytest.raises(ValueError, match="no number"):
        fictional_number(area, digits)


@pytest.mark.parametrize("challenge", [False, True])
def test_scenario_has_every_label_it_jumps_to(challenge: bool) -> None:
    scenario = ElementTree.fromstring(  # noqa: S314 - our own text
        render(username="<u>", password='"p"&', challenge=challenge, server="s")
    )
    jumps = {one.get(name) for one in scenario.iter() for name in ("next", "ontimeout") if one.get(name)}
    labels = [label.get("id") for label in scenario.iter("label")]
    assert jumps <= set(labels)
    assert len(labels) == len(set(labels))
    assert {f"number_{behaviour.digits}" for behaviour in BEHAVIOURS} <= jumps
    (verify,) = scenario.iter("verifyauth")
    assert (verify.get("username"), verify.get("password")) == ("<u>", '"p"&')


@pytest.mark.parametrize("password", ["[pid]", "two\nlines"])
def test_credentials_that_sipp_would_read_otherwise_are_refused(password: str) -> None:
    with pytest.raises(ValueError, match="credentials"):
        render(username="u", password=password, challenge=False, server="s")
