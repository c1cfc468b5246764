"""Only what was seen to hold is ok, only what was seen not to is wrong, and each wrong says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from models.findings import Verdict
from models.settings import Settings
from models.statuses import Status
from scheduler.gateway_names import Target
from scheduler.probe import Finding, Gateway, Probe
from scheduler.trunk_evidence import Attempt
from scheduler.trunk_points import Look, Point, points_of
from scheduler.trunks import Trunk

MADE = datetime(2030, 1, 1, tzinfo=UTC)
NUMBER, OTHER = "+12025550100", "+12025550101"
GATEWAY = uuid4()

TRUNK = Trunk(
    id=uuid4(),
    name="acme",
    provider=None,
    description=None,
    auth_type="userpass",
    gateways=(),
    phone_numbers=(NUMBER, OTHER),
    ip_identifiers=(),
    allow="ulaw,alaw",
    disallow="all",
    transport="transport-udp",
    direct_media=False,
    rtp_symmetric=True,
    force_rport=True,
    media_encryption="no",
    media_encryption_optimistic=False,
    qualify_frequency=60,
    inbound_enabled=False,
    outbound_leading_plus_enabled=True,
    is_active=True,
    max_concurrent_calls=10,
    max_calls_per_second=10.0,
    allowed_prefixes=None,
    from_user=None,
    from_domain=None,
    contact_user=None,
    send_pai=False,
    created_at=MADE,
    updated_at=MADE,
)
HERE = Target(address="127.0.0.1", port=5060)
FAR = Target(address="203.0.113.5", port=5060)


def probed(finding: Finding, target: Target = FAR, **fields: Any) -> Probe:
    return Probe(finding=finding, detail="What was found.", targets=(target,), target=target, **fields)


ANSWERED = probed(Finding.ANSWERED, rtt_ms=1.0)
SILENT = probed(Finding.SILENT)


def look(found: Probe, transport: str = "UDP", host: str = "sip.example.com") -> Look:
    return Look(id=GATEWAY, gateway=Gateway(host=host, port=None, transport=transport), found=found)


def attempt(minute: int, disposition: str, sip_code: int | None = None, *, number: str = NUMBER) -> Attempt:
    """The later the minute, the newer."""
    at = MADE + timedelta(minutes=minute)
    answered = disposition == "answered"
    return Attempt(
        id=uuid4(),
        call_id=uuid4(),
        gateway_id=GATEWAY,
        from_number=number,
        status=Status.COMPLETED if answered else Status.BUSY if disposition == "busy" else Status.FAILED,
        disposition=disposition,
        sip_code=sip_code,
        initiated_at=at,
        ringing_at=None,
        answered_at=at if answered else None,
        codec=None,
    )


def settings(**given: Any) -> Settings:
    return Settings(home=Path("/nowhere"), **{"sip_bind": "0.0.0.0:5060", **given})


def points(
    *attempts: Attempt,
    trunk: Trunk = TRUNK,
    looks: Sequence[Look] = (look(ANSWERED),),
    given: Settings | None = None,
) -> dict[str, Point]:
    newest_first = sorted(attempts, key=lambda one: one.initiated_at, reverse=True)
    return {point.about: point for point in points_of(given or settings(), trunk, looks, newest_first)}


def verdicts(found: dict[str, Point], *about: str) -> list[str]:
    return [found[one].verdict.value for one in about]


BY_CALLS = ("credentials", "caller-id", "codecs")
BY_ADDRESS = replace(TRUNK, auth_type="ip-based")


def test_without_a_call_what_only_a_call_shows_is_unknown_and_a_test_call_is_named() -> None:
    found = points()
    assert verdicts(found, *BY_CALLS) == ["unknown"] * 3
    assert all("trunk check acme --call" in found[about].sentence for about in BY_CALLS)
    assert verdicts(found, "active", "numbers", "name", "options", "sip-address") == ["ok"] * 5


def test_of_a_name_with_several_addresses_it_is_said_that_a_call_goes_to_one() -> None:
    several = replace(ANSWERED, targets=(FAR, replace(FAR, address="203.0.113.6")))
    said = points(looks=(look(several),))["name"].sentence
    assert "203.0.113.5:5060, 203.0.113.6:5060" in said
    assert "one of them" in said
    assert "one of them" not in points()["name"].sentence


def test_an_answered_call_proves_all_three() -> None:
    assert verdicts(points(attempt(1, "answered")), *BY_CALLS) == ["ok"] * 3


def test_a_busy_line_proves_who_we_are_but_no_codec() -> None:
    assert verdicts(points(attempt(1, "busy", 486)), *BY_CALLS) == ["ok", "ok", "unknown"]


@pytest.mark.parametrize(
    ("disposition", "code", "wrong"),
    [
        ("auth-failed", 401, ["wrong", "unknown", "unknown"]),
        ("auth-failed", 407, ["wrong", "unknown", "unknown"]),
        ("forbidden", 403, ["unknown", "wrong", "unknown"]),
        ("codec-mismatch", 488, ["unknown", "unknown", "wrong"]),
        ("invalid-number", 404, ["unknown"] * 3),
        ("congestion", 503, ["unknown"] * 3),
        ("gateway-unreachable", None, ["unknown"] * 3),
    ],
)
def test_a_refusal_is_wrong_until_a_call_gets_through(disposition: str, code: int, wrong: list[str]) -> None:
    refused = attempt(2, disposition, code)
    assert verdicts(points(refused), *BY_CALLS) == wrong
    assert verdicts(points(refused, attempt(3, "answered")), *BY_CALLS) == ["ok"] * 3


def test_what_was_proven_before_a_refusal_does_not_hold_for_what_was_refused() -> None:
    before = attempt(1, "answered")
    assert verdicts(points(before, attempt(2, "auth-failed", 401)), *BY_CALLS) == ["wrong", "ok", "ok"]
    assert verdicts(points(before, attempt(2, "forbidden", 403)), *BY_CALLS) == ["ok", "wrong", "ok"]
    assert verdicts(points(before, attempt(2, "codec-mismatch", 488)), *BY_CALLS) == ["ok", "ok", "wrong"]


def test_one_caller_id_that_is_refused_is_not_hidden_by_another_that_gets_through() -> None:
    found = points(attempt(1, "forbidden", 403, number=OTHER), attempt(2, "answered"))
    assert verdicts(found, "caller-id") == ["wrong"]
    assert OTHER in found["caller-id"].sentence
    assert NUMBER not in found["caller-id"].sentence


def test_a_refused_address_is_named_and_a_refused_password_is_not_blamed_on_it() -> None:
    seen = (look(probed(Finding.ANSWERED, rtt_ms=1.0, seen_as="203.0.113.9")),)
    for code, disposition, about in ((401, "auth-failed", "credentials"), (403, "forbidden", "caller-id")):
        by_address = points(attempt(1, disposition, code), trunk=BY_ADDRESS, looks=seen)[about].sentence
        by_password = points(attempt(1, disposition, code), looks=seen)[about].sentence
        assert "address (203.0.113.9)" in by_address
        assert "address" not in by_password
        assert "password" in by_password


def test_silence_to_options_alone_is_unknown_and_wrong_when_calls_meet_it_too() -> None:
    silent = (look(SILENT),)
    assert verdicts(points(looks=silent), "options") == ["unknown"]
    assert verdicts(points(attempt(1, "busy", 486), looks=silent), "options") == ["unknown"]
    assert verdicts(points(attempt(1, "gateway-unreachable", 408), looks=silent), "options") == ["wrong"]
    both = (attempt(1, "gateway-unreachable", 408), attempt(2, "rejected", 603))
    assert verdicts(points(*both, looks=silent), "options") == ["unknown"]


@pytest.mark.parametrize(
    ("found", "transport", "wrong"),
    [
        (probed(Finding.NO_NAME), "UDP", "name"),
        (probed(Finding.REFUSED), "UDP", "port"),
        (probed(Finding.REFUSED), "TCP", "port"),
        (probed(Finding.SILENT), "TCP", "port"),
        (probed(Finding.TLS_FAILED, connected=True), "TLS", "tls"),
    ],
)
def test_what_no_call_can_pass_is_wrong_and_ends_the_look(found: Probe, transport: str, wrong: str) -> None:
    there = points(looks=(look(found, transport),))
    assert [about for about, point in there.items() if point.verdict is Verdict.WRONG] == [wrong]
    assert there[wrong].sentence == found.detail
    assert "options" not in there


def test_tls_that_holds_is_said_before_options() -> None:
    tls = probed(Finding.ANSWERED, rtt_ms=1.0, connected=True, tls="TLSv1.2, certificate valid until 2031-01-01")
    assert verdicts(points(looks=(look(tls, "TLS"),)), "name", "port", "tls", "options") == ["ok"] * 4


def test_a_trunk_that_is_off_or_has_no_number_is_wrong_with_the_command_that_mends_it() -> None:
    found = points(trunk=replace(TRUNK, name="a b", is_active=False, phone_numbers=()))
    assert verdicts(found, "active", "numbers") == ["wrong", "wrong"]
    assert "trunk enable 'a b'" in found["active"].sentence
    assert "number add +E164 --trunk 'a b'" in found["numbers"].sentence


def test_loopback_reaches_gateways_on_this_machine_only() -> None:
    loopback = settings(sip_bind="127.0.0.1:5060")
    assert verdicts(points(given=loopback), "sip-address") == ["wrong"]
    assert "TRUNKLINE_SIP_BIND" in points(given=loopback)["sip-address"].sentence
    here = (look(probed(Finding.ANSWERED, HERE, rtt_ms=1.0)),)
    assert verdicts(points(given=loopback, looks=here), "sip-address") == ["ok"]
    assert verdicts(points(attempt(1, "rejected", 603), given=loopback), "sip-address") == ["ok"], "it was heard there"
    assert verdicts(points(attempt(1, "congestion", 503), given=loopback), "sip-address") == ["wrong"], "ours, maybe"
    yours = settings(sip_bind="127.0.0.1:5060", asterisk_nodes="mine=ami://u:s@192.0.2.1:5038")
    assert verdicts(points(given=yours), "sip-address") == ["unknown"]


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "unknown"),  # behind NAT, and many carriers cope
        ({"external_address": "203.0.113.9"}, "ok"),
        ({"external_address": "203.0.113.1"}, "wrong"),
        ({"external_address": "me.example.com"}, "ok"),
        ({"external_address": "203.0.113.1", "local_networks": "203.0.113.0/24"}, "ok"),  # not sent there
    ],
)
def test_our_address_as_the_gateway_sees_it_is_held_against_the_one_we_give(
    given: dict[str, str], verdict: str
) -> None:
    seen = probed(Finding.ANSWERED, rtt_ms=1.0, seen_as="203.0.113.9", sent_from="10.0.0.2")
    found = points(looks=(look(seen),), given=settings(**given))
    assert verdicts(found, "our-address") == [verdict]
    assert "203.0.113.9" in found["our-address"].sentence


def test_without_nat_our_address_is_ours() -> None:
    seen = probed(Finding.ANSWERED, rtt_ms=1.0, seen_as="203.0.113.9", sent_from="203.0.113.9")
    assert verdicts(points(looks=(look(seen),)), "our-address") == ["ok"]
