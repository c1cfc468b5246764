"""`/sip-trunks/trunks`: trunks with their numbers, over HTTP; and that a trunk that was made so carries calls."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import trustme

from deploy.carrier.carrier import Carrier, Certificate
from deploy.embedded.valkey import Valkey
from models.errors import Unavailable
from models.slots import Bell, connect
from scheduler.api.limits import CHECKS
from tests.integration.api.test_agents_api import fields_of
from tests.integration.conftest import Database, SmallApi, serving
from tests.integration.gateways import silent_port
from tests.integration.ledger_rows import FROM, Rows
from tests.integration.system import PASSWORD, USERNAME, System, until

TRUNKS = "/sip-trunks/trunks"
SECRET = "never to be seen"
GATEWAY = {"gateway_address": "sip.invalid", "port": 5060, "priority": 1}
LEAST: dict[str, Any] = {"name": "acme", "auth_type": "ip-based", "gateways": [{"gateway_address": "sip.invalid"}]}
USERPASS = {**LEAST, "auth_type": "userpass", "auth_username": "me", "auth_password": SECRET}


@pytest.fixture
def asks(small_api: SmallApi) -> Iterator[httpx.Client]:
    with small_api.client() as client:
        yield client


def made(asks: httpx.Client, body: dict[str, Any] = LEAST, **other: object) -> dict[str, Any]:
    answer = asks.post(TRUNKS, json={**body, **other})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def changed(asks: httpx.Client, trunk: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = asks.patch(f"{TRUNKS}/{trunk['id']}", json=fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_trunk_has_the_defaults_of_the_reference_service(asks: httpx.Client) -> None:
    trunk = made(asks)
    assert trunk == {
        "id": trunk["id"],
        "name": "acme",
        "provider": None,
        "description": None,
        "auth_type": "ip-based",
        "gateways": [{**GATEWAY, "trouble": None}],
        "phone_numbers": [],
        "ip_identifiers": [],
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
        "pause": None,
        "max_concurrent_calls": 10,
        "max_calls_per_second": 10.0,
        "allowed_prefixes": None,
        "from_user": None,
        "from_domain": None,
        "contact_user": None,
        "send_pai": False,
        "created_at": trunk["created_at"],
        "updated_at": trunk["created_at"],
    }
    assert trunk["created_at"].endswith("Z")
    assert asks.get(f"{TRUNKS}/{trunk['id']}").json() == trunk


def test_a_change_is_what_is_given_and_replaces_lists_whole(asks: httpx.Client) -> None:
    networks = [{"ip_address": "192.0.2.0/24"}, {"ip_address": "192.0.2.9"}]
    trunk = made(asks, ip_identifiers=networks, allowed_prefixes=["+1", "+49"], provider="Acme")
    assert trunk["ip_identifiers"] == networks
    two: list[dict[str, Any]] = [
        {"gateway_address": "b.invalid", "port": None, "priority": 1},
        {**GATEWAY, "priority": 2},
    ]
    after = changed(asks, trunk, gateways=two, ip_identifiers=["192.0.2.1"])
    assert after["gateways"] == [{**gateway, "trouble": None} for gateway in two]
    assert after["ip_identifiers"] == [{"ip_address": "192.0.2.1"}]
    assert {field for field in trunk if trunk[field] != after[field]} == {"gateways", "ip_identifiers", "updated_at"}
    last = changed(asks, trunk, gateways=[GATEWAY], allowed_prefixes=None, provider=None, is_active=False, name="new")
    assert (last["gateways"], last["allowed_prefixes"], last["provider"]) == (
        [{**GATEWAY, "trouble": None}],
        None,
        None,
    )
    assert [each["name"] for each in asks.get(TRUNKS, params={"is_active": "false"}).json()] == ["new"]
    assert asks.get(TRUNKS, params={"is_active": "true"}).json() == []
    made(asks)
    assert [each["name"] for each in asks.get(TRUNKS).json()] == ["acme", "new"]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", None),
        ("name", "a\0b"),
        ("name", ["acme"]),
        ("provider", "\x1b[31m"),
        ("auth_type", None),
        ("auth_type", "digest"),
        ("gateways", None),
        ("gateways", []),
        ("gateways", [GATEWAY] * 2),
        ("gateways.0.gateway_address", [{"gateway_address": "a b"}]),
        ("gateways.0.port", [{**GATEWAY, "port": 0}]),
        ("gateways.0.port", [{**GATEWAY, "port": 10**30}]),
        ("gateways.0.weight", [{**GATEWAY, "weight": 1}]),
        ("ip_identifiers", None),
        ("ip_identifiers.0", ["nowhere"]),
        ("ip_identifiers.0", [{"ip_address": "192.0.2.1", "more": 1}]),
        ("allow", None),
        ("allow", "ulaw;x"),
        ("transport", "udp"),
        ("is_active", None),
        ("is_active", "true"),
        ("inbound_enabled", True),
        ("ice_support", True),
        ("ice_support", None),
        ("description", "a\nb"),
        ("description", "x" * 1001),
        ("media_encryption", "sdes"),
        ("qualify_frequency", -1),
        ("max_concurrent_calls", None),
        ("max_concurrent_calls", 0),
        ("max_concurrent_calls", 10**30),
        ("max_concurrent_calls", "5"),
        ("max_calls_per_second", None),
        ("max_calls_per_second", 0),
        ("allowed_prefixes", []),
        ("allowed_prefixes.0", ["49"]),
        ("from_user", "a b"),
        ("nonsense", 1),
    ],
)
def test_a_field_that_is_wrong_is_named_when_a_trunk_is_made_and_when_it_is_changed(
    asks: httpx.Client, field: str, wrong: object
) -> None:
    trunk = made(asks, name="first")
    name = field.partition(".")[0]
    for answer in (
        asks.post(TRUNKS, json={**LEAST, name: wrong}),
        asks.patch(f"{TRUNKS}/{trunk['id']}", json={name: wrong}),
    ):
        assert fields_of(answer) == [field]
    assert asks.get(TRUNKS).json() == [trunk], "nothing was written"


@pytest.mark.parametrize(
    ("number", "status"), [("NaN", 400), ("Infinity", 400), ("-Infinity", 400), ("1e999", 400), ("1e-300", 422)]
)
def test_a_rate_that_is_no_rate_is_refused(asks: httpx.Client, number: str, status: int) -> None:
    body = json.dumps(LEAST)[:-1] + f', "max_calls_per_second": {number}}}'
    answer = asks.post(TRUNKS, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status


def test_a_password_goes_in_and_never_comes_out(
    asks: httpx.Client, small_api: SmallApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    trunk = made(asks, USERPASS)
    where = f"{TRUNKS}/{trunk['id']}"
    wrong: list[dict[str, Any]] = [
        {"auth_password": SECRET, "auth_username": 5},
        {"auth_password": [SECRET]},
        {"auth_password": {"is": SECRET}},
        {"auth_password": SECRET + "\0"},
        {"auth_password": SECRET * 50},
        {"auth_password": SECRET, "auth_type": "ip-based"},
        {"auth_password": SECRET, "allow": SECRET + ";"},
        {"auth_password": None},
        {"auth_username": None},
    ]
    answers = [asks.get(where), asks.get(TRUNKS), asks.post(TRUNKS, json=USERPASS)]
    answers += [asks.post(TRUNKS, content=json.dumps(USERPASS)[:-1]), asks.post(TRUNKS, content=json.dumps([USERPASS]))]
    for fields in wrong:
        answers += [asks.patch(where, json=fields), asks.post(TRUNKS, json={**USERPASS, "name": "b", **fields})]
        assert [answer.status_code for answer in answers[-2:]] == [422, 422], (fields, answers[-1].text)
    assert changed(asks, trunk, auth_password="another")["id"] == trunk["id"]
    shown = "".join(answer.text for answer in answers) + caplog.text
    assert SECRET not in shown
    assert "auth_password" not in asks.get(where).json()
    with psycopg.connect(small_api.database.owner_url) as owner:
        asked = "SELECT auth_username, auth_password FROM trunk_credentials"
        assert owner.execute(asked).fetchall() == [("me", "another")]
    assert changed(asks, trunk, auth_type="ip-based")["auth_type"] == "ip-based"
    with psycopg.connect(small_api.database.owner_url) as owner:
        assert owner.execute(asked).fetchall() == []
    assert fields_of(asks.patch(where, json={"auth_type": "userpass"})) == ["auth_username"]


def test_a_name_that_is_taken_is_a_conflict_and_a_trunk_that_is_not_there_is_not_found(asks: httpx.Client) -> None:
    made(asks)
    other = made(asks, name="other")
    for answer in (asks.post(TRUNKS, json=LEAST), asks.patch(f"{TRUNKS}/{other['id']}", json={"name": "acme"})):
        assert answer.status_code == 409
        assert "already a trunk 'acme'" in answer.json()["detail"]
    nowhere = f"{TRUNKS}/{uuid4()}"
    for answer in (
        asks.get(nowhere),
        asks.patch(nowhere, json={}),
        asks.delete(nowhere),
        asks.get(f"{nowhere}/numbers"),
        asks.post(f"{nowhere}/numbers", json={"phone_number": FROM}),
        asks.get(f"{nowhere}/numbers/{uuid4()}"),
        asks.delete(f"{nowhere}/numbers/{uuid4()}"),
        asks.post(f"{nowhere}/check"),
        asks.post(f"{nowhere}/check", json={"phone_number": "+12125550101"}),
    ):
        assert answer.status_code == 404, answer.text
    assert fields_of(asks.get(f"{TRUNKS}/1")) == ["trunk_id"]
    assert fields_of(asks.get(TRUNKS, params={"is_active": "maybe"})) == ["is_active"]
    assert fields_of(asks.get(TRUNKS, params={"active": "true"})) == ["active"]


def test_numbers_are_added_listed_and_removed_under_their_own_trunk(asks: httpx.Client) -> None:
    first, other = made(asks), made(asks, name="other")
    numbers = f"{TRUNKS}/{first['id']}/numbers"
    answer = asks.post(numbers, json={"phone_number": FROM})
    assert answer.status_code == 201
    number = answer.json()
    assert number == {
        "id": number["id"],
        "phone_number": FROM,
        "name": None,
        "byot_trunk_id": first["id"],
        "telephony_provider": "sip-trunk",
        "created_at": number["created_at"],
    }
    assert asks.get(numbers).json() == [number]
    assert asks.get(f"{numbers}/{number['id']}").json() == number
    assert asks.get(f"{TRUNKS}/{first['id']}").json()["phone_numbers"] == [number]
    for wrong in (None, "", "2025550100", "+1\0", 12025550100):
        assert fields_of(asks.post(numbers, json={"phone_number": wrong})) == ["phone_number"]
    more: dict[str, list[object]] = {
        "name": ["", " x", "x" * 101, "a\0b", 5],
        "e164_check_enabled": [None, "true"],
        "is_active": [False, None, 1],
        "nonsense": [1],
    }
    for field, values in more.items():
        for value in values:
            refused = asks.post(numbers, json={"phone_number": "+12025550102", field: value})
            assert fields_of(refused) == [field], refused.text
    taken = asks.post(f"{TRUNKS}/{other['id']}/numbers", json={"phone_number": FROM})
    assert taken.status_code == 409
    assert FROM in taken.json()["detail"]
    assert "trunk 'acme'" in taken.json()["detail"]

    others = f"{TRUNKS}/{other['id']}/numbers/{number['id']}"
    assert (asks.get(others).status_code, asks.delete(others).status_code) == (404, 404)
    assert asks.get(numbers).json() == [number], "it is another trunk's"
    assert asks.delete(f"{numbers}/{number['id']}").status_code == 200
    assert asks.delete(f"{numbers}/{number['id']}").status_code == 404
    assert asks.get(numbers).json() == []


def test_a_number_keeps_the_name_that_it_was_given(asks: httpx.Client) -> None:
    trunk = made(asks)
    numbers = f"{TRUNKS}/{trunk['id']}/numbers"
    body = {"phone_number": FROM, "name": "Mumbai ☎", "e164_check_enabled": False, "is_active": True}
    number = asks.post(numbers, json=body).json()
    assert (number["phone_number"], number["name"]) == (FROM, "Mumbai ☎")
    assert asks.get(numbers).json() == [asks.get(f"{numbers}/{number['id']}").json()] == [number]


def test_a_description_is_kept_changed_and_taken_away(asks: httpx.Client) -> None:
    trunk = made(asks, description="Outbound sales, “north”", ice_support=False)
    assert trunk["description"] == "Outbound sales, “north”"
    assert changed(asks, trunk, provider="Acme")["description"] == trunk["description"]
    assert changed(asks, trunk, description="x" * 1000, ice_support=False)["description"] == "x" * 1000
    assert changed(asks, trunk, description=None)["description"] is None


def test_a_trunk_comes_with_its_numbers_or_not_at_all(asks: httpx.Client) -> None:
    second = {"phone_number": "+12025550101", "name": "Support", "e164_check_enabled": True}
    trunk = made(asks, phone_numbers=[second, FROM])
    shown = [(number["phone_number"], number["name"], number["byot_trunk_id"]) for number in trunk["phone_numbers"]]
    assert shown == [(FROM, None, trunk["id"]), ("+12025550101", "Support", trunk["id"])]
    assert asks.get(f"{TRUNKS}/{trunk['id']}/numbers").json() == trunk["phone_numbers"]

    other = {**LEAST, "name": "other"}
    wrong: list[tuple[object, str]] = [
        (None, "phone_numbers"),
        ("+12025550102", "phone_numbers"),
        (["+12025550102", "2025550103"], "phone_numbers.1.phone_number"),
        ([5], "phone_numbers.0"),
        ([{"phone_number": "+12025550102", "e164_check_enabled": None}], "phone_numbers.0.e164_check_enabled"),
        ([{"phone_number": "+12025550102", "trunk": 1}], "phone_numbers.0.trunk"),
        (["+12025550102", {"phone_number": " +12025550102"}], "phone_numbers"),
        ([f"+1202555{at:04}" for at in range(1001)], "phone_numbers"),
    ]
    for value, field in wrong:
        refused = asks.post(TRUNKS, json={**other, "phone_numbers": value})
        assert fields_of(refused) == [field], refused.text
    taken = asks.post(TRUNKS, json={**other, "phone_numbers": ["+12025550102", FROM]})
    assert (taken.status_code, "on trunk 'acme'" in taken.json()["detail"]) == (409, True)
    assert asks.get(TRUNKS).json() == [trunk], "nothing was written"
    assert fields_of(asks.patch(f"{TRUNKS}/{trunk['id']}", json={"phone_numbers": []})) == ["phone_numbers"]


def test_a_trunk_is_deleted_with_its_numbers_and_says_how_many(asks: httpx.Client) -> None:
    trunk = made(asks)
    for number in (FROM, "+12025550101"):
        asks.post(f"{TRUNKS}/{trunk['id']}/numbers", json={"phone_number": number})
    assert asks.delete(f"{TRUNKS}/{trunk['id']}").json() == {
        "message": "The trunk is deleted, and 2 phone numbers with it.",
        "phone_numbers_removed": 2,
    }
    assert asks.get(TRUNKS).json() == []
    other = made(asks)
    assert asks.post(f"{TRUNKS}/{other['id']}/numbers", json={"phone_number": FROM}).status_code == 201


def test_what_is_in_use_stays_and_it_is_said_by_what(asks: httpx.Client, small_api: SmallApi) -> None:
    rows = Rows(engine=small_api.database.engine)
    campaign = rows.campaign(1)
    trunk = f"{TRUNKS}/{rows.trunk}"
    [number] = asks.get(f"{trunk}/numbers").json()
    for path in (trunk, f"{trunk}/numbers/{number['id']}"):
        refused = asks.delete(path)
        assert refused.status_code == 409
        assert f"campaign '{campaign}' calls from it" in refused.json()["detail"]
    rows.grant(campaign)
    refused = asks.delete(trunk)
    assert refused.status_code == 409
    assert refused.json()["detail"].endswith("has 1 open call: switch it off, and delete it when they are over")


def test_what_keeps_failing_is_said_as_the_command_line_says_it(asks: httpx.Client, small_api: SmallApi) -> None:
    rows = Rows(engine=small_api.database.engine)
    rows.run(
        "INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
        " VALUES (%(g)s, 5, 'congestion', 1, '2099-01-02 03:04:05Z')",
        g=rows.gateway,
    )
    trunk = asks.get(f"{TRUNKS}/{rows.trunk}").json()
    assert trunk["gateways"][0]["trouble"] == (
        "rests until 2099-01-02 03:04:05 UTC after 5 failures in a row, the last one: congestion"
    )
    assert "is paused" in trunk["pause"]
    assert "trunk check" in trunk["pause"]


def test_every_change_wakes_the_leader(asks: httpx.Client, small_api: SmallApi) -> None:
    assert small_api.settings.redis_url is not None
    with connect(small_api.settings.redis_url.get_secret_value()) as client:
        bell = Bell(client)
        bell.wait(timedelta(0))

        def rings() -> None:
            until(lambda: bell.wait(timedelta(seconds=0.1)), within=5, what="the bell rings")

        trunk = made(asks)
        rings()
        changed(asks, trunk, max_concurrent_calls=3)
        rings()
        numbers = f"{TRUNKS}/{trunk['id']}/numbers"
        number = asks.post(numbers, json={"phone_number": FROM}).json()
        rings()
        asks.delete(f"{numbers}/{number['id']}")
        rings()
        asks.delete(f"{TRUNKS}/{trunk['id']}")
        rings()
        bell.close()


def test_a_check_looks_at_each_gateway_and_says_a_sentence_a_finding(asks: httpx.Client) -> None:
    with silent_port() as port:
        gateways = [{"gateway_address": "127.0.0.1", "port": port}, {"gateway_address": "sip.invalid", "priority": 2}]
        trunk = made(asks, gateways=gateways)
        answer = asks.post(f"{TRUNKS}/{trunk['id']}/check")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["trunk"], found["is_wrong"]) == ("acme", True)
    by_about = {(point["about"], point["gateway"]): point for point in found["points"]}
    assert by_about["name", "sip.invalid:5060"]["verdict"] == "wrong"
    assert by_about["options", f"127.0.0.1:{port}"]["verdict"] == "unknown"
    assert by_about["numbers", None]["verdict"] == "wrong"
    assert all(point["sentence"].endswith(".") for point in found["points"])


@pytest.mark.parametrize(("is_trusted", "found"), [(True, "ok"), (False, "wrong")], ids=["trusted", "rogue"])
def test_a_check_of_a_carrier_on_tls_says_whether_its_certificate_holds(
    database: Database, valkey: Valkey, tree: Path, tmp_path: Path, is_trusted: bool, found: str
) -> None:
    trusted, rogue = trustme.CA(), trustme.CA()
    authorities = database.settings.home / "asterisk" / "ca.crt"  # that the embedded Asterisk trusts
    authorities.parent.mkdir(parents=True)
    trusted.cert_pem.write_to_path(authorities)
    leaf = (trusted if is_trusted else rogue).issue_cert("127.0.0.1")
    (tmp_path / "chain.pem").write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    shows = Certificate(chain=tmp_path / "chain.pem", key=tmp_path / "key.pem")
    with (
        Carrier(
            tree=tree, directory=tmp_path / "carrier", username=USERNAME, password=PASSWORD, certificate=shows
        ) as carrier,
        serving(database, valkey) as api,
        api.client() as asks,
    ):
        gateways = [{"gateway_address": carrier.host, "port": carrier.port}]
        trunk = made(asks, gateways=gateways, transport="transport-tls")
        points = {
            point["about"]: point
            for point in asks.post(f"{TRUNKS}/{trunk['id']}/check").raise_for_status().json()["points"]
        }
    assert points["tls"]["verdict"] == found, points
    if is_trusted:
        assert "certificate valid until" in points["tls"]["sentence"]
        assert points["options"]["verdict"] == "ok"
    else:
        assert "not trusted" in points["tls"]["sentence"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"from_number": FROM}, "from_number"),
        ({"phone_number": "12"}, "phone_number"),
        ({"phone_number": "+12125550101", "from_number": "+12025550199"}, "from_number"),
        ({"phone_number": "+12125550101", "from_number": "x\0"}, "from_number"),
        ({"number": "+12125550101"}, "number"),
    ],
)
def test_a_test_call_that_cannot_be_made_is_refused(
    asks: httpx.Client, small_api: SmallApi, body: dict[str, str], field: str
) -> None:
    rows = Rows(engine=small_api.database.engine)
    assert fields_of(asks.post(f"{TRUNKS}/{rows.trunk}/check", json=body)) == [field]
    assert rows.value("SELECT count(*) FROM calls") == 0


def test_so_many_checks_at_once_and_no_more(asks: httpx.Client) -> None:
    trunk = made(asks)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(CHECKS.one())
            except Unavailable:
                break
        refused = asks.post(f"{TRUNKS}/{trunk['id']}/check")
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
    assert asks.post(f"{TRUNKS}/{trunk['id']}/check").status_code == 200


# ------------------------------------------------------------------------------------------------ the whole system


def test_a_trunk_that_was_made_over_http_carries_a_call_and_is_checked_by_one(
    system: System, api: httpx.Client
) -> None:
    gateways = [{"gateway_address": system.carrier.host, "port": system.carrier.port}]
    trunk = made(api, USERPASS, name="over http", auth_username=USERNAME, auth_password="wrong", gateways=gateways)
    number = "+12025558801"
    api.post(f"{TRUNKS}/{trunk['id']}/numbers", json={"phone_number": number})
    agent = api.post("/agents", json={"name": "over http", "connect": "playback://hello-world"}).json()
    check = f"{TRUNKS}/{trunk['id']}/check"

    def found(body: object = None) -> dict[str, dict[str, Any]]:
        answer = api.post(check, json=body)
        assert answer.status_code == 200, answer.text
        assert PASSWORD not in answer.text
        assert answer.json()["is_wrong"] is any(point["verdict"] == "wrong" for point in answer.json()["points"])
        return {point["about"]: point for point in answer.json()["points"]}

    assert found()["credentials"]["verdict"] == "unknown"
    refused = found({"phone_number": "+12145550100"})
    assert (refused["caller-id"]["verdict"], refused["test-call"]["verdict"]) == ("wrong", "wrong")
    assert "password" in refused["credentials"]["sentence"]
    changed(api, trunk, auth_password=PASSWORD)
    proven = found({"phone_number": "+12155550100", "from_number": number})
    assert {point["verdict"] for point in proven.values()} == {"ok"}
    [carried] = system.carried("+12155550100")
    assert carried.end is not None

    call = system.call(UUID(agent["id"]), number, "+12165550101")
    until(lambda: system.status(call) == "completed", what="the call is over")
    [carried] = system.carried("+12165550101")
    changed(api, trunk, is_active=False)
    assert found()["active"]["verdict"] == "wrong"
