"""`trunkline doctor` finds what is well, names what is not with what to do, and is held up by nothing."""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import redis
from pydantic import SecretStr

from deploy.doctor.api import examine_api
from deploy.doctor.broker import examine_redis
from deploy.doctor.examination import examine
from deploy.doctor.ledger import breaker_finding, examine_postgres
from deploy.doctor.nodes import examine_node, slots_finding
from deploy.embedded.valkey import Valkey
from deploy.part import free_port
from models.findings import Finding, Verdict
from models.settings import Settings
from tests.integration.conftest import Database, PostgresServer
from tests.integration.system import System, until
from tests.integration.test_up import Home


def said(findings: list[Finding], verdict: Verdict, words: str) -> Finding:
    """The finding that says this; fails the test when there is none, or it gives no advice where some is needed."""
    found = [f for f in findings if f.verdict is verdict and words in f.sentence]
    assert found, "\n".join(f"{f.verdict} {f.part}: {f.sentence}" for f in findings)
    assert verdict is Verdict.OK or found[0].advice, found[0]
    return found[0]


# --- the whole round --------------------------------------------------------------------------------


def test_a_healthy_system_has_nothing_wrong_and_nobody_is_dialled_for_it(system: System) -> None:
    system.add_trunk("doctor")
    found = json.loads(system.trunkline("doctor", "--json"))
    # `trunkline up` does not run here: the test has started the parts itself
    assert [f for f in found if f["verdict"] in ("wrong", "unknown") and f["part"] != "home"] == []
    parts = {f["part"] for f in found}
    assert parts >= {
        "postgres",
        "redis",
        "asterisk local",
        "scheduler",
        "workers",
        "webhooks",
        "queue",
        "api",
        "slots",
        "disk",
        "open files",
    }
    assert str(system.value("SELECT version FROM nodes")).startswith("22.")
    assert system.carrier_calls() == []
    assert system.value("SELECT count(*) FROM cel WHERE uniqueid LIKE 'doctor-%%'") == 0, "it leaves nothing behind"


def test_before_up_it_says_what_is_not_running_and_what_to_do(tmp_path: Path) -> None:
    lines = Home(tmp_path).trunkline("doctor", status=1).splitlines()
    for part in ("postgres", "redis", "asterisk"):
        line = next(line for line in lines if line.split()[1] == part)
        assert line.startswith("wrong")
        assert "trunkline up" in line
    assert not [line for line in lines if "Traceback" in line]


@contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield server.getsockname()[1]


@pytest.mark.parametrize("dead", ["refuses", "is silent", "has no name"])
def test_parts_that_do_not_answer_are_said_and_hold_nothing_up(tmp_path: Path, dead: str) -> None:
    with silence() as port:
        address = {
            "refuses": f"127.0.0.1:{free_port()}",
            "is silent": f"127.0.0.1:{port}",
            "has no name": "nowhere.invalid:5432",
        }[dead]
        settings = Settings(
            home=tmp_path,
            database_url=SecretStr(f"postgresql://a:b@{address}/c"),
            redis_url=SecretStr(f"redis://:x@{address}/0"),
            asterisk_nodes=SecretStr(f"far=ami://a:b@{address}"),
        )
        found = examine(settings)
    for part in ("postgres", "redis", "asterisk far"):
        assert [f for f in found if f.part == part and f.verdict is Verdict.WRONG and f.advice], (part, found)
    assert {f.verdict for f in found if f.part in ("scheduler", "workers")} == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("scheduler", "nobody leads"),
        ("worker-1", "none answers"),
        ("listener-local", "no listener runs"),
        ("api", "does not answer at"),
    ],
)
def test_a_process_of_ours_that_is_down_is_said(system: System, part: str, words: str) -> None:
    system.kill(part)
    try:
        until(
            lambda: [f for f in examine(system.settings) if words in f.sentence and f.verdict is Verdict.WRONG],
            what=f"doctor says that {words}",
        )
    finally:
        system.start(part)
        until_all_is_well(system)


def test_webhooks_that_nobody_delivers_are_said_and_are_wrong_when_some_wait_for_minutes(system: System) -> None:
    def of_webhooks() -> Finding:
        [finding] = [f for f in examine(system.settings) if f.part == "webhooks"]
        return finding

    url = "http://127.0.0.1:1/waits-for-a-worker"
    system.kill("webhooks")
    try:
        until(lambda: of_webhooks().verdict is Verdict.WARNING, what="nobody delivers, and nothing waits")
        system.run(
            "INSERT INTO webhook_deliveries (call_id, status, url, due_at)"
            " SELECT gen_random_uuid(), 'busy', %(url)s, now() - interval '9 minutes' FROM generate_series(1, 3)",
            url=url,
        )
        found = of_webhooks()
        assert found.verdict is Verdict.WRONG
        assert found.sentence == "no worker of theirs answers, and 3 wait, one of them for 9 minutes"
        assert "trunkline run webhooks" in found.advice
    finally:
        system.start("webhooks")
        until(lambda: not system.rows("SELECT 1 FROM webhook_deliveries WHERE url = %(url)s AND tries = 0", url=url))
        system.run("DELETE FROM webhook_deliveries WHERE url = %(url)s", url=url)
        until_all_is_well(system)


@pytest.mark.parametrize(("part", "words"), [("asterisk", "cannot log in"), ("valkey", "does not answer")])
def test_a_service_that_hangs_is_said(system: System, part: str, words: str) -> None:
    system.freeze(part)
    try:
        found = examine(system.settings)
    finally:
        system.thaw(part)
        until_all_is_well(system)
    said(found, Verdict.WRONG, words)


def until_all_is_well(system: System) -> None:
    until(
        lambda: not [f for f in examine(system.settings) if f.verdict is Verdict.WRONG],
        within=60,
        what="all is well again",
    )


# --- Asterisk (what is wrong inside one is in test_own_asterisk) ------------------------------------


def test_an_rtp_range_too_small_for_its_slots_and_trunks_with_more_than_the_nodes_are_said(system: System) -> None:
    system.add_trunk("broad", slots=5000)
    try:
        _, ledger = examine_postgres(system.settings)
        node = replace(system.settings.nodes[0], max_calls=5000)
        said(examine_node(system.settings, node, ledger), Verdict.WRONG, "hold 400 calls and the node is given 5000")
        finding = slots_finding(system.settings, ledger)
        assert finding is not None
        assert finding.verdict is Verdict.WARNING
    finally:
        system.run("UPDATE trunks SET is_active = false WHERE name = 'broad'")


def test_loopback_is_said_to_reach_no_carrier_and_is_wrong_once_there_is_one(system: System) -> None:
    node = system.settings.nodes[0]
    _, ledger = examine_postgres(system.settings)
    said(examine_node(system.settings, node, ledger), Verdict.WARNING, "loopback reaches no carrier")
    system.add_trunk("far", qualify_frequency=0)  # nobody is to be asked there
    system.run(
        "UPDATE trunk_gateways SET gateway_address = 'sip.example.invalid' WHERE trunk_id = (SELECT id FROM trunks WHERE name = 'far')"
    )
    try:
        _, ledger = examine_postgres(system.settings)
        said(examine_node(system.settings, node, ledger), Verdict.WRONG, "loopback does not reach sip.example.invalid")
    finally:
        system.run("DELETE FROM trunks WHERE name = 'far'")


# --- Redis ------------------------------------------------------------------------------------------


def test_a_redis_that_evicts_or_keeps_nothing_is_said(valkey: Valkey, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, redis_url=SecretStr(valkey.url))
    healthy = examine_redis(settings)
    assert {f.verdict for f in healthy} == {Verdict.OK}
    assert "Valkey 9" in healthy[0].sentence, "its real version, not the one it pretends for old clients"
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        try:
            found = examine_redis(settings)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
    assert "noeviction" in said(found, Verdict.WRONG, "evicts keys").advice
    assert "appendonly" in said(found, Verdict.WARNING, "keeps nothing on disk").advice
    wrong_password = SecretStr(valkey.url.replace(":", ":x", 2).replace(":x//", "://"))
    said(examine_redis(Settings(home=tmp_path, redis_url=wrong_password)), Verdict.WRONG, "refuses the password")


# --- Postgres ---------------------------------------------------------------------------------------


def test_a_database_without_our_tables_or_with_older_ones_or_newer_ones_is_said(
    postgres: PostgresServer, database: Database, tmp_path: Path
) -> None:
    name = f"empty_{secrets.token_hex(6)}"
    postgres.execute(f"CREATE DATABASE {name}")
    try:
        empty = Settings(home=tmp_path, database_url=SecretStr(postgres.url(name)))
        assert "trunkline up" in said(examine_postgres(empty)[0], Verdict.WRONG, "no tables of trunkline").advice
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
    said(examine_postgres(database.settings)[0], Verdict.OK, "tables are of this version")
    for version, words in (("0001", "an older trunkline"), ("9999", "a newer trunkline")):
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", [version])
        said(examine_postgres(database.settings)[0], Verdict.WRONG, words)


def test_a_login_that_may_not_act_as_the_services_or_a_wrong_password_is_said(
    postgres: PostgresServer, database: Database
) -> None:
    login = f"stranger_{secrets.token_hex(6)}"
    postgres.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'pw'")
    host = database.owner_url.partition("@")[2]
    try:

        def found(secret: str) -> list[Finding]:
            url = SecretStr(f"postgresql://{login}:{secret}@{host}")
            return examine_postgres(database.settings.model_copy(update={"database_url": url}))[0]

        assert (
            "GRANT trunkline_services" in said(found("pw"), Verdict.WRONG, "may not act as trunkline_services").advice
        )
        said(found("other"), Verdict.WRONG, "refuses the login")
        postgres.execute(f"GRANT trunkline_services TO {login}")
        said(found("pw"), Verdict.OK, f"the login {login} may do what the services need")
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute("REVOKE INSERT ON attempts FROM trunkline_services")
        said(found("pw"), Verdict.WRONG, "lacks rights: attempts INSERT")
    finally:
        postgres.execute(f"DROP ROLE {login}")


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """The same Postgres behind what a pooler shows its clients: a connection with a key that is not the backend's."""
    host, _, rest = url.partition("@")[2].partition(":")
    port, _, name = rest.partition("/")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(4)

        def serve() -> None:
            client, _ = server.accept()
            with client, socket.create_connection((host, int(port))) as backend:
                threading.Thread(target=pump, args=(client, backend, False), daemon=True).start()
                pump(backend, client, True)

        def pump(source: socket.socket, target: socket.socket, with_other_key: bool) -> None:
            with suppress(OSError):
                while data := source.recv(1 << 16):
                    at = data.find(b"K\x00\x00\x00") if with_other_key else -1
                    if at >= 0:
                        data = data[: at + 5] + (1).to_bytes(4, "big") + data[at + 9 :]
                        with_other_key = False
                    target.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{url.partition('@')[0]}@127.0.0.1:{server.getsockname()[1]}/{name}"
        thread.join(10)


def test_a_pooler_in_between_is_said(database: Database) -> None:
    said(examine_postgres(database.settings)[0], Verdict.OK, "a direct one")
    with pooled(database.owner_url) as url:
        settings = database.settings.model_copy(update={"database_url": SecretStr(url)})
        said(examine_postgres(settings)[0], Verdict.WRONG, "a pooler answers in its place")


@pytest.mark.parametrize(
    ("known", "verdict", "words"),
    [
        ("2, 0, NULL", Verdict.WARNING, "closed, and 2 calls in a row were not taken, the last one: no password"),
        ("7, 1, '2099-01-02 03:04:05Z'", Verdict.WRONG, "open, it gets no call until 03:04:05 UTC: 7 calls in a row"),
        ("7, 1, now()", Verdict.WARNING, "half-open, it gets one call at a time: 7 calls in a row"),
    ],
)
def test_the_breaker_of_each_node_is_said(database: Database, known: str, verdict: Verdict, words: str) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO nodes (name, max_calls) VALUES ('n1', 10)")
        connection.exec_driver_sql(
            "INSERT INTO node_health (node, last_failure, failures, rests, rests_until)"
            f" VALUES ('n1', 'no password', {known})"
        )
    _, ledger = examine_postgres(database.settings)
    assert ledger is not None
    finding = breaker_finding("asterisk n1", "n1", ledger)
    assert finding is not None
    said([finding], verdict, words)


# --- the API ----------------------------------------------------------------------------------------


def test_an_api_on_a_public_address_and_another_program_in_its_place_are_said(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as theirs:
        port = theirs.getsockname()[1]

        def answer() -> None:
            with theirs.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

        threading.Thread(target=answer, daemon=True).start()
        found = examine_api(Settings(home=tmp_path, api_bind=f"0.0.0.0:{port}"))
    said(found, Verdict.WRONG, f"another program answers at http://0.0.0.0:{port}")
    said(found, Verdict.WARNING, "listens on 0.0.0.0 without TLS")
    said(examine_api(Settings(home=tmp_path)), Verdict.UNKNOWN, "does not run here")


@pytest.mark.parametrize(
    ("host", "address", "warns"), [("localhost", "", False), ("dialer.invalid", "192.0.2.1", True)]
)
def test_an_api_that_is_given_by_its_name_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, address: str, warns: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]

        def answer() -> None:
            with theirs.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"status": "ok"}')

        threading.Thread(target=answer, daemon=True).start()
        if address:  # a name of elsewhere, whose address leads here for the connection alone
            answers = iter(["127.0.0.1"])
            monkeypatch.setattr(
                socket,
                "getaddrinfo",
                lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers, address), port))],
            )
        found = examine_api(Settings(home=tmp_path, api_url=f"http://{host}:{port}"))
    said(found, Verdict.OK, f"answers at http://{host}:{port}")
    assert any(finding.verdict is Verdict.WARNING for finding in found) is warns
