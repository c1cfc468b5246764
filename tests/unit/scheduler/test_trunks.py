"""The fields of a trunk: what is taken, what is refused, and that a refusal names the field and no secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Invalid
from scheduler.fields import NAME_LIMIT, thing_name, validated, value, variables
from scheduler.trunk_fields import Gateway, TrunkCreate, TrunkUpdate

LEAST: dict[str, Any] = {
    "name": "acme",
    "auth_type": "ip-based",
    "gateways": [{"gateway_address": "sip.example.com"}],
}


def test_the_defaults_are_those_of_the_reference_service() -> None:
    trunk = validated(TrunkCreate, LEAST)
    assert trunk.gateways == (Gateway(gateway_address="sip.example.com", port=5060, priority=1),)
    assert trunk.model_dump(exclude={"name", "auth_type", "gateways"}) == {
        "provider": None,
        "description": None,
        "phone_numbers": (),
        "auth_username": None,
        "auth_password": None,
        "ip_identifiers": (),
        "allow": "ulaw,alaw",
        "disallow": "all",
        "transport": "transport-udp",
        "direct_media": False,
        "rtp_symmetric": True,
        "force_rport": True,
        "media_encryption": "no",
        "media_encryption_optimistic": False,
        "qualify_frequency": 60,
        "ice_support": False,
        "inbound_enabled": False,
        "outbound_leading_plus_enabled": True,
        "is_active": True,
        "max_concurrent_calls": 10,
        "max_calls_per_second": 10.0,
        "allowed_prefixes": None,
        "from_user": None,
        "from_domain": None,
        "contact_user": None,
        "send_pai": False,
    }


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", ""),
        ("name", " acme"),
        ("name", "acme\n"),
        ("name", "ac\0me"),
        ("name", "ac\x1b[31mme"),
        ("name", "\udcff"),
        ("name", "x" * (NAME_LIMIT + 1)),
        ("auth_type", "none"),
        ("gateways", []),
        ("max_concurrent_calls", 0),
        ("max_concurrent_calls", -1),
        ("max_concurrent_calls", 10**12),
        ("max_calls_per_second", 0),
        ("max_calls_per_second", -0.1),
        ("max_calls_per_second", 1e-300),  # a time that Redis cannot hold
        ("max_calls_per_second", float("nan")),
        ("max_calls_per_second", float("inf")),
        ("qualify_frequency", -1),
        ("inbound_enabled", True),
        ("transport", "transport-sctp"),
        ("media_encryption", "dtls"),
        ("allow", "ulaw, alaw"),
        ("allow", ""),
        ("allow", "ulaw;x"),
        ("allowed_prefixes", []),
        ("from_user", "a b"),
        ("from_user", "a\n"),
        ("from_domain", "a;b"),
        ("contact_user", ""),
        ("auth_password", ""),
        ("auth_password", "a\0b"),
        ("auth_username", "x" * 256),
        ("colour", "red"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(field: str, wrong: object) -> None:
    with pytest.raises(Invalid) as refused:
        validated(TrunkCreate, {**LEAST, field: wrong})
    assert refused.value.field == field
    with pytest.raises(Invalid) as refused:
        validated(TrunkUpdate, {field: wrong})
    assert refused.value.field == field


@pytest.mark.parametrize("wrong", ["49", "+", "+0", "+4a", "+49 30", "++49", "+49\n", "+1234567890123456"])
def test_a_prefix_is_a_plus_and_digits(wrong: str) -> None:
    with pytest.raises(Invalid, match=r"^allowed_prefixes\.1: must be \+ and the first digits"):
        validated(TrunkCreate, {**LEAST, "allowed_prefixes": ["+49", wrong]})


@pytest.mark.parametrize("wrong", ["a b", "a;b", "a@b", "a/b", "sip:a", "[::1", ""])
def test_a_gateway_is_a_host(wrong: str) -> None:
    with pytest.raises(Invalid, match=r"^gateways\.0\.gateway_address: must have a host name"):
        validated(TrunkCreate, {**LEAST, "gateways": [{"gateway_address": wrong}]})


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_is_one(port: int) -> None:
    with pytest.raises(Invalid, match=r"^gateways\.0\.port: must be (greater|less) than"):
        validated(TrunkCreate, {**LEAST, "gateways": [{"gateway_address": "a.de", "port": port}]})


def test_inbound_is_refused_with_a_sentence() -> None:
    with pytest.raises(Invalid, match=r"^inbound_enabled: inbound calls are not supported yet: must be false$"):
        validated(TrunkCreate, {**LEAST, "inbound_enabled": True})


def test_a_refusal_never_repeats_a_password() -> None:
    secret = "hunter2" * 40
    with pytest.raises(Invalid) as refused:
        validated(TrunkCreate, {**LEAST, "auth_type": "userpass", "auth_username": "me", "auth_password": secret})
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(validated(TrunkUpdate, {"auth_password": "hunter2"}))


def test_only_what_was_given_counts_in_an_update() -> None:
    assert validated(TrunkUpdate, {"from_user": None}).model_fields_set == {"from_user"}


@given(st.text(max_size=200))
def test_a_name_that_is_taken_is_printable_bounded_and_trimmed(text: str) -> None:
    try:
        thing_name(text, field="name")
    except Invalid:
        return
    assert 1 <= len(text) <= NAME_LIMIT
    assert text == text.strip()
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
    text.encode()


@pytest.mark.parametrize("name", ["Doe, Jo", "O'Brien", '"Jo"', "a|b;c", "李小龙", "👩‍👩‍👧 x", "[red]x[/]", "$(rm)"])
def test_names_of_people_are_taken_as_they_are(name: str) -> None:
    assert value(name, field="name") == name


@pytest.mark.parametrize("wrong", ["a\0", "a\x1b", "a\x7f", "a\x85", "a\nb", "\udc80", "é" * 513])
def test_what_no_name_holds_is_refused(wrong: str) -> None:
    with pytest.raises(Invalid, match=r"^name: must"):
        value(wrong, field="name")


@pytest.mark.parametrize("name", ["", "a b", "a-b", "x" * 33, "call_id", "Campaign"])
def test_a_variable_has_a_name_that_is_free(name: str) -> None:
    with pytest.raises(Invalid, match=r"^variables: must have names"):
        variables({name: "x"})


def test_a_variable_that_is_too_long_is_named() -> None:
    with pytest.raises(Invalid, match=r"^variables\.city: must be at most 1024 bytes"):
        variables({"ok": "x", "city": "x" * 1025})
