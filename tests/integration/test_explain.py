"""Each fault, made in earnest at a carrier: the call says its cause and the mend, and `trunkline explain` tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from uuid import UUID

import pytest

from deploy.carrier.carrier import Carrier
from deploy.part import free_port
from tests.integration.system import PASSWORD, USERNAME, System, until

_people = count(100)
OURS = "198.51.100.7"
"""Our address, as a probe of the gateway would have learned it."""


@pytest.fixture(scope="module")
def open_carrier(whole_system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    """A carrier that asks nobody for credentials."""
    carrier = Carrier(
        tree=whole_system.tree.root,
        directory=tmp_path_factory.mktemp("open-carrier"),
        username=USERNAME,
        password=PASSWORD,
    )
    carrier.start()
    try:
        yield carrier
    finally:
        carrier.stop()


def add_trunk(system: System, name: str, *, plus: bool = True, userpass: bool = True) -> str:
    """A trunk that the prober leaves alone: what a probe has found the tests say themselves."""
    return system.add_trunk(name, plus=plus, userpass=userpass, qualify_frequency=0)


def make_call(system: System, trunk: str, number: str, digits: str, connect: str = "playback://hello-world") -> UUID:
    """A call from a number of the trunk's to somebody who ends like this, waited for."""
    call = system.call(
        system.add_agent(f"{trunk}-{next(_people)}", connect), number, f"+12125{next(_people):04}{digits}"
    )
    until(lambda: system.value("SELECT ended_at IS NOT NULL FROM calls WHERE id = %(id)s", id=call), what="it is over")
    return call


def explanation(system: System, call: UUID) -> str:
    """The sentence of the call, which is its last attempt's, and which the command tells as well."""
    [row] = system.rows(
        "SELECT c.explanation AS of_call, a.explanation AS of_attempt"
        " FROM calls c JOIN attempts a ON a.id = c.current_attempt_id WHERE c.id = %(id)s",
        id=call,
    )
    assert row.of_call == row.of_attempt
    assert row.of_call in system.trunkline("explain", call)
    return str(row.of_call)


def says(text: str, *words: str) -> None:
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in {text!r}"


def probed(system: System, trunk: str, finding: str, detail: str = "", seen_as: str | None = None) -> None:
    """What a probe of the trunk's gateway has just found."""
    system.run(
        "INSERT INTO gateway_probes (gateway_id, probed_at, finding, detail, seen_as)"
        " SELECT g.id, now(), %(finding)s, %(detail)s, %(seen)s FROM trunk_gateways g JOIN trunks t ON t.id = g.trunk_id"
        " WHERE t.name = %(trunk)s ON CONFLICT (gateway_id) DO UPDATE SET probed_at = now(),"
        " finding = excluded.finding, detail = excluded.detail, seen_as = excluded.seen_as",
        finding=finding,
        detail=detail,
        seen=seen_as,
        trunk=trunk,
    )


def set_gateway(system: System, trunk: str, host: str, port: int | None) -> None:
    system.run(
        "UPDATE trunk_gateways SET gateway_address = %(host)s, port = %(port)s"
        " WHERE trunk_id = (SELECT id FROM trunks WHERE name = %(trunk)s)",
        host=host,
        port=port,
        trunk=trunk,
    )


def test_a_wrong_password_is_named_with_the_command_that_sets_it(system: System) -> None:
    number = add_trunk(system, "why-password")
    system.run(
        "UPDATE trunk_credentials SET auth_password = 'wrong' WHERE trunk_id = (SELECT id FROM trunks WHERE name = 'why-password')"
    )
    text = explanation(system, make_call(system, "why-password", number, "01"))
    says(text, "wrong password", "trunkline trunk update why-password --username U --password -", "(SIP 403 Forbidden)")


def test_a_carrier_that_asks_an_address_trunk_for_credentials_is_told_which_address_to_allow(system: System) -> None:
    number = add_trunk(system, "why-401", userpass=False)
    probed(system, "why-401", "answered", seen_as=OURS)
    text = explanation(system, make_call(system, "why-401", number, "01"))
    says(
        text,
        "asks for credentials",
        f"our address {OURS}",
        "allow-list",
        "--auth-type userpass",
        "(SIP 401 Unauthorized)",
    )


def test_a_403_speaks_of_the_caller_id_on_a_credentials_trunk(system: System) -> None:
    number = add_trunk(system, "why-403")
    text = explanation(system, make_call(system, "why-403", number, "03"))
    says(text, f"the caller ID {number}", "Register or verify", "country", "(SIP 403 Forbidden)")
    assert "allow-list" not in text


def test_a_403_speaks_of_our_address_on_an_address_trunk(system: System, open_carrier: Carrier) -> None:
    number = add_trunk(system, "why-address", userpass=False)
    set_gateway(system, "why-address", open_carrier.host, open_carrier.port)
    probed(system, "why-address", "answered", seen_as=OURS)
    text = explanation(system, make_call(system, "why-address", number, "03"))
    says(text, f"our address {OURS} is not on its allow-list", "allow-list", "(SIP 403 Forbidden)")


@pytest.mark.parametrize("plus", [True, False])
def test_a_404_says_how_the_number_was_written_and_how_to_write_it_otherwise(system: System, plus: bool) -> None:
    trunk = f"why-404-{'plus' if plus else 'bare'}"
    number = add_trunk(system, trunk, plus=plus)
    text = explanation(system, make_call(system, trunk, number, "04"))
    other = "--no-leading-plus" if plus else "--leading-plus"
    says(text, "does not exist", f"trunkline trunk update {trunk} {other}`", "(SIP 404 Not Found)")


def test_a_488_names_the_codecs_offered_and_srtp(system: System) -> None:
    number = add_trunk(system, "why-488")
    system.run("UPDATE trunks SET allow = 'alaw,ulaw' WHERE name = 'why-488'")
    text = explanation(system, make_call(system, "why-488", number, "88"))
    says(text, "codecs alaw,ulaw", "SRTP", "--allow", "--transport transport-tls --media-encryption sdes", "(SIP 488 ")


def test_a_503_is_congestion_unless_the_last_probe_knows_better(system: System) -> None:
    number = add_trunk(system, "why-503")
    text = explanation(system, make_call(system, "why-503", number, "53"))
    says(text, "no line free for us", "--max-concurrent-calls", "(SIP 503 Service Unavailable)")
    probed(system, "why-503", "answered", "It answered in 3 ms.")
    says(
        explanation(system, make_call(system, "why-503", number, "53")), "answers our probes", "--max-concurrent-calls"
    )
    probed(system, "why-503", "silent", "Nothing came back in 4 s.")
    text = explanation(system, make_call(system, "why-503", number, "53"))
    says(text, "does not answer our probes", "Nothing came back in 4 s.", "firewall")
    assert "no line free" not in text
    system.run("UPDATE gateway_probes SET probed_at = now() - interval '1 hour'")
    assert "no line free" in explanation(system, make_call(system, "why-503", number, "53")), (
        "an old probe says nothing"
    )


def test_a_gateway_whose_name_is_not_found_is_told_from_congestion_by_its_probe(system: System) -> None:
    number = add_trunk(system, "why-name")
    set_gateway(system, "why-name", "no-such-carrier.invalid", 5060)
    probed(system, "why-name", "no-name", "No address is known for no-such-carrier.invalid.")
    call = make_call(system, "why-name", number, "01")
    says(explanation(system, call), "no-such-carrier.invalid:5060 does not resolve", "--gateway HOST:PORT", "DNS")
    said = system.trunkline("explain", call)
    says(said, "gateway no-such-carrier.invalid:5060 now: No address is known for no-such-carrier.invalid. (probed at ")


def test_silence_names_address_port_transport_and_firewall(system: System) -> None:
    number = add_trunk(system, "why-silence")
    text = explanation(system, make_call(system, "why-silence", number, "93"))
    gateway = f"Gateway {system.carrier.address}"
    says(text, gateway, "did not answer at all over UDP", "port", "firewall", "trunkline trunk check why-silence")
    assert "SIP 408" not in text, "that status is Asterisk's own"


def test_sip_on_loopback_is_named_as_what_keeps_a_carrier_out_of_reach(system: System) -> None:
    assert system.value("SELECT sip_address FROM nodes") == "127.0.0.1", "the listener says what Asterisk is bound to"
    number = add_trunk(system, "why-loopback")
    set_gateway(system, "why-loopback", "192.0.2.1", 5060)
    text = explanation(system, make_call(system, "why-loopback", number, "01"))
    says(text, "loopback, which reaches no carrier", "TRUNKLINE_SIP_BIND", "TRUNKLINE_EXTERNAL_ADDRESS")


def test_an_agent_that_is_not_reached_is_named_with_its_address(system: System) -> None:
    number, port = add_trunk(system, "why-agent"), free_port()
    call = make_call(system, "why-agent", number, "00", connect=f"audiosocket://127.0.0.1:{port}")
    says(
        explanation(system, call), "The person answered", f"audiosocket://127.0.0.1:{port} could not be reached", "runs"
    )
    number = add_trunk(system, "why-sound")
    call = make_call(system, "why-sound", number, "00", connect="playback://no-such-sound")
    says(explanation(system, call), "no such sound", "playback://no-such-sound")


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("86", ("busy", "(SIP 486 Busy Here)")),
        ("80", ("no ringing was heard", "(SIP 480 Temporarily Unavailable)")),
        ("50", ("error of its own", "Call-ID", "(SIP 500 Server Internal Error)")),
        ("63", ("declined", "(SIP 603 Decline)")),
        ("01", ("Answered.",)),
    ],
)
def test_other_ends_are_said_in_words(system: System, digits: str, words: tuple[str, ...]) -> None:
    trunk = f"why-{digits}"
    says(explanation(system, make_call(system, trunk, add_trunk(system, trunk), digits)), *words)


@pytest.mark.parametrize(
    ("digits", "words"),
    [("90", ("It rang, and nobody answered",)), ("92", ("Nobody answered", "no ringing was heard"))],
)
def test_our_ring_timeout_is_not_laid_to_the_far_side(system: System, digits: str, words: tuple[str, ...]) -> None:
    trunk = f"why-{digits}"
    call = make_call(system, trunk, add_trunk(system, trunk), digits)
    text = explanation(system, call)
    says(text, *words, "within our 8 seconds (TRUNKLINE_RING_TIMEOUT_SECONDS)")
    assert "SIP" not in text
    said = system.trunkline("explain", call)
    says(said, f"the far side said: {'ringing' if digits == '90' else '100 Trying, and nothing more'}\n")
    [attempt] = json.loads(system.trunkline("explain", call, "--json"))["attempts"]
    assert (attempt["sip"], attempt["sip_code"]) == (None, None)


def test_a_call_is_told_attempt_by_attempt_to_people_and_to_programs(system: System) -> None:
    number = add_trunk(system, "why-story")
    call = make_call(system, "why-story", number, "02")
    said = system.trunkline("explain", call)
    says(
        said, f"call {call}", "completed, answered", "attempt 1 of 1", "trunk why-story", system.carrier.address, number
    )
    says(said, "ringing, then 200 OK", "talked ", "post-dial delay", "hung up by: ")
    told = json.loads(system.trunkline("explain", call, "--json"))
    [attempt] = told["attempts"]
    assert (told["call_id"], told["status"], told["campaign"]) == (str(call), "completed", None)
    assert (attempt["trunk"], attempt["gateway"]) == ("why-story", system.carrier.address)
    assert 1 < attempt["talk_time"] < 10
    assert attempt["rang"] is True
    assert {"sip", "sip_call_id", "rx_packets", "tx_packets", "codec", "media_address", "hangup_by"} <= set(attempt)


def test_a_call_that_is_still_to_be_made_says_what_it_waits_for(system: System) -> None:
    number, agent = add_trunk(system, "why-waits"), system.add_agent("why-waits")
    system.trunkline("trunk", "disable", "why-waits")
    call = system.call(agent, number, f"+12125{next(_people):04}86")
    says(
        system.trunkline("explain", call),
        "scheduled",
        "trunk why-waits is switched off",
        "trunkline trunk enable why-waits",
    )
    system.run("DELETE FROM phone_numbers WHERE phone_number = %(n)s", n=number)
    says(system.trunkline("explain", call), f"{number} is not registered", "trunkline number add")
    system.trunkline("hang-up", call)
    says(system.trunkline("explain", call), "canceled", "Stopped by an operator.")
