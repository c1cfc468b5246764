"""The migrated database agrees with the code, counts exactly, and shows nobody what is not theirs."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy.dialects import postgresql

from models import ledger, schema
from models.database import open_engine
from models.outcome import Disposition
from models.sightings import Sight
from models.statements import statement
from models.statuses import ATTEMPT_TRANSITIONS, CALL_TRANSITIONS, DIALABLE, CampaignStatus, Status, legal_events
from scheduler.grants import MOST_A_ROUND
from tests.integration.conftest import Database
from tests.integration.ledger_rows import FROM, TIMER_B, Rows, ended, saw

NOT_IN_SCHEMA = {"alembic_version", "campaign_count_deltas", "campaign_counts", "cel"}
"""Tables that are written in SQL by hand and nowhere else."""


@pytest.fixture
def owner(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """The owner's connection, each statement by itself."""
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    engine = open_engine(database.settings, "trunkline-test", pool_size=12)
    yield Rows(engine=engine)
    engine.dispose()


@contextmanager
def acting_as(owner: psycopg.Connection[Any], role: LiteralString) -> Iterator[None]:
    owner.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    try:
        yield
    finally:
        owner.execute("RESET ROLE")


# --- tables ---------------------------------------------------------------------------------------


def test_the_columns_in_the_code_are_those_of_the_migrated_database_and_the_other_way_round(
    owner: psycopg.Connection[Any],
) -> None:
    found = {
        (table, column): (type, required)
        for table, column, type, required in owner.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull"
            " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped"
            " AND (c.relname = 'campaign_status' OR c.relkind IN ('r', 'p') AND NOT c.relispartition)"
        ).fetchall()
        if table not in NOT_IN_SCHEMA
    }
    declared = {
        (table.name, column.name): (
            str(column.type.compile(postgresql.dialect())).lower(),  # type: ignore[no-untyped-call]
            not column.nullable and table is not schema.campaign_status,  # a view's columns are never NOT NULL
        )
        for table in [*schema.metadata.tables.values(), schema.campaign_status]
        for column in table.columns
    }
    assert found == declared


def test_the_primary_keys_in_the_code_are_those_of_the_database(owner: psycopg.Connection[Any]) -> None:
    found: dict[str, set[str]] = {}
    for table, column in owner.execute(
        "SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)"
        " WHERE i.indisprimary AND c.relnamespace = 'public'::regnamespace"
    ).fetchall():
        found.setdefault(table, set()).add(column)
    for table in schema.metadata.tables.values():
        assert {column.name for column in table.primary_key} == found.get(table.name, set()), table.name


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("calls", set(Status) - {Status.WITHDRAWN}),
        ("attempts", set(Status) - {Status.SCHEDULED}),
        ("campaigns", set(CampaignStatus)),
    ],
)
def test_a_table_takes_the_statuses_of_the_enum_and_no_others(
    owner: psycopg.Connection[Any], table: str, words: set[str]
) -> None:
    (check,) = owner.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s",
        (table, f"{table}_status_check"),
    ).fetchall()
    assert set(re.findall(r"'([^']+)'", check[0])) == {str(word) for word in words}


# --- transitions ----------------------------------------------------------------------------------


def test_the_database_takes_the_transitions_of_the_code_over_every_pair_and_no_others(
    owner: psycopg.Connection[Any],
) -> None:
    for subject, table in (("attempt", ATTEMPT_TRANSITIONS), ("call", CALL_TRANSITIONS), ("campaign", {})):
        for old, new in product(Status, Status):
            legal = new in table.get(old, frozenset())
            said = owner.execute("SELECT legal_transition(%s, %s, %s)", (subject, old, new)).fetchone()
            assert said == (legal,), (subject, old, new)
            insert = "INSERT INTO call_events (subject, call_id, from_status, to_status) VALUES (%s, %s, %s, %s)"
            if legal:
                owner.execute(insert, (subject, uuid4(), old, new))
            else:
                with pytest.raises(psycopg.errors.CheckViolation):
                    owner.execute(insert, (subject, uuid4(), old, new))
    assert owner.execute("SELECT count(*) FROM call_events").fetchone() == (len(legal_events()),)


def test_an_update_that_is_no_legal_move_is_refused_whoever_writes_it(
    rows: Rows, owner: psycopg.Connection[Any]
) -> None:
    (attempt,) = rows.grant(rows.campaign(1))
    rows.claim([attempt])
    rows.record(ended(attempt, 17, 486))
    for table, status in [("calls", "ringing"), ("attempts", "in-progress"), ("attempts", "queued")]:
        with pytest.raises(psycopg.errors.CheckViolation):
            owner.execute(f"UPDATE {table} SET status = %s".encode(), (status,))
    assert (rows.attempt(attempt).status, rows.call_of(attempt).status) == ("busy", "busy")


def test_events_go_to_the_partition_of_their_month_and_next_months_is_there(owner: psycopg.Connection[Any]) -> None:
    owner.execute("SELECT ensure_event_partitions()")
    owner.execute("SELECT ensure_event_partitions()")
    for month in ("0 months", "1 month"):
        owner.execute(
            "INSERT INTO call_events (at, subject, call_id, from_status, to_status)"
            " VALUES (date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + %s::interval,"
            " 'call', %s, 'scheduled', 'queued')",
            (month, uuid4()),
        )
    names = {row[0] for row in owner.execute("SELECT tableoid::regclass::text FROM call_events").fetchall()}
    assert len(names) == 2
    assert "call_events_default" not in names


# --- counts ---------------------------------------------------------------------------------------

COUNTED = [status for status in Status if status is not Status.WITHDRAWN]


def counts_differ(rows: Rows) -> list[Any]:
    """Where the view and a real count of the calls disagree, in one snapshot."""
    columns = ", ".join(f"('{status}', s.{status.name.lower()})" for status in COUNTED)
    sql = (
        "SELECT s.campaign_id, told.status, told.calls, coalesce(real.calls, 0)"
        f" FROM campaign_status s CROSS JOIN LATERAL (VALUES {columns}) AS told (status, calls)"
        " LEFT JOIN (SELECT campaign_id, status, count(*) AS calls FROM calls GROUP BY 1, 2) real"
        " ON real.campaign_id = s.campaign_id AND real.status = told.status"
        " WHERE told.calls <> coalesce(real.calls, 0)"
        " UNION ALL SELECT s.campaign_id, 'total', s.total, (SELECT count(*) FROM calls c WHERE c.campaign_id = s.campaign_id)"
        " FROM campaign_status s WHERE s.total <> (SELECT count(*) FROM calls c WHERE c.campaign_id = s.campaign_id)"
    )
    return rows.all(sql)


def test_campaign_status_is_exact_in_every_snapshot_and_every_move_is_written_down(rows: Rows) -> None:
    """Writers move calls in every legal way from several connections while the leader folds and others read."""
    campaigns = [rows.campaign(25), rows.campaign(25), rows.campaign(0)]
    finished = threading.Event()
    ready = threading.Barrier(6)

    def ids(seed: random.Random, *statuses: str) -> list[UUID]:
        found = [r[0] for r in rows.all("SELECT id FROM attempts WHERE status = ANY (%(s)s)", s=list(statuses))]
        return seed.sample(found, min(len(found), 6))

    def move(number: int) -> None:
        seed = random.Random(number)
        ready.wait(30)
        for _ in range(120):
            match seed.randrange(9):
                case 0 | 1:
                    rows.grant(seed.choice(campaigns), 5)
                case 2 | 3:
                    rows.claim(ids(seed, "queued"))
                case 4:
                    with rows.engine.begin() as connection:
                        ledger.withdraw(
                            connection,
                            ids(seed, "queued", "initiated"),
                            of={Status.QUEUED, Status.INITIATED},
                            explanation="a test",
                            disposition=seed.choice([None, None, Disposition.NOT_PLACED]),
                            second_look_after=seed.choice([None, timedelta(0)]),
                        )
                case 5:
                    with rows.engine.begin() as connection:
                        ledger.give_back(connection, ids(seed, "withdrawn"))
                case 6:
                    with rows.engine.begin() as connection:
                        found = ledger.lock_attempts(connection, ids(seed, "initiated", "ringing", "in-progress")[:1])
                        lost = [replace(row, status=Status.UNKNOWN) for row in found.values() if row.status in DIALABLE]
                        ledger.write(connection, [ledger.Change(attempt=row) for row in lost])
                case _:
                    seen = [
                        seed.choice(
                            [
                                saw(id, Sight.RINGING),
                                saw(id, Sight.ANSWERED),
                                saw(id, Sight.NOT_PLACED),
                                ended(id, 17, 486),
                                ended(id, 0),
                            ]
                        )
                        for id in ids(seed, "initiated", "ringing", "in-progress", "withdrawn", "unknown")
                    ]
                    with rows.engine.begin() as connection:
                        ledger.record(connection, seen, timer_b=TIMER_B)
                    rows.run("UPDATE calls SET due_at = now() WHERE id IN (SELECT id FROM calls"
                             " WHERE status = 'scheduled' ORDER BY id FOR UPDATE SKIP LOCKED)")  # fmt: skip

    def fold() -> int:
        folds = 0
        ready.wait(30)
        while not finished.is_set():
            rows.run(statement("fold_counts"))
            folds += 1
        return folds

    def compare() -> list[Any]:
        ready.wait(30)
        while not finished.is_set():
            if wrong := counts_differ(rows):
                return wrong
        return []

    with ThreadPoolExecutor(6) as pool:
        folding, comparing = pool.submit(fold), pool.submit(compare)
        try:
            for done in [pool.submit(move, number) for number in range(4)]:
                done.result(120)
        finally:
            finished.set()
        assert comparing.result(60) == []
        assert folding.result(60) > 1
    assert counts_differ(rows) == []
    rows.run(statement("fold_counts"))
    assert counts_differ(rows) == []
    assert rows.value("SELECT count(*) FROM campaign_count_deltas") == 0
    seen = {row[0] for row in rows.all("SELECT DISTINCT to_status FROM call_events")}
    assert {"busy", "completed", "unknown", "withdrawn", "scheduled"} <= seen, "the walk went everywhere"
    assert unexplained(rows) == []


def unexplained(rows: Rows) -> list[Any]:
    """Calls and attempts whose events do not lead from their birth to where they are."""
    return rows.all(
        "WITH flow AS ("
        "  SELECT subject, CASE subject WHEN 'call' THEN call_id ELSE attempt_id END AS id, status, sum(n) AS n FROM ("
        "    SELECT subject, call_id, attempt_id, to_status AS status, 1 AS n FROM call_events"
        "    UNION ALL SELECT subject, call_id, attempt_id, from_status, -1 FROM call_events) moves GROUP BY 1, 2, 3"
        "), stands AS ("
        "  SELECT subject, id, status, sum(n) AS n FROM ("
        "    SELECT 'call' AS subject, id, status, 1 AS n FROM calls"
        "    UNION ALL SELECT 'call', id, 'scheduled', -1 FROM calls"
        "    UNION ALL SELECT 'attempt', id, status, 1 FROM attempts"
        "    UNION ALL SELECT 'attempt', id, 'queued', -1 FROM attempts) ends GROUP BY 1, 2, 3"
        ") SELECT * FROM flow FULL JOIN stands USING (subject, id, status)"
        " WHERE coalesce(flow.n, 0) <> coalesce(stands.n, 0)"
    )


def test_an_update_that_moves_nothing_writes_neither_event_nor_delta(rows: Rows) -> None:
    rows.campaign(3)
    rows.run(statement("fold_counts"))
    rows.run("UPDATE calls SET name = 'Doe', status = status")
    assert rows.value("SELECT count(*) FROM call_events") == 0
    assert rows.value("SELECT count(*) FROM campaign_count_deltas") == 0


def test_a_removed_upload_is_counted_out_again(rows: Rows) -> None:
    kept, removed = rows.campaign(2), rows.campaign(3)
    rows.run("DELETE FROM calls WHERE campaign_id = %(id)s", id=removed)
    assert dict(rows.all("SELECT campaign_id, total FROM campaign_status")) == {kept: 2, removed: 0}


# --- rights ---------------------------------------------------------------------------------------

WRITTEN_BY_SERVICES = {
    "trunks", "trunk_gateways", "gateway_health", "gateway_probes", "phone_numbers", "agents", "agent_health", "nodes",
    "node_health", "repairs", "api_keys", "idempotency_keys", "deleted_campaigns", "webhook_deliveries", "webhook_keys",
    "roles", "campaigns", "rejected_rows", "calls", "attempts", "campaign_counts", "campaign_count_deltas",
}  # fmt: skip
ASTERISK_READS = (
    "ps_endpoints",
    "ps_auths",
    "ps_aors",
    "ps_endpoint_id_ips",
    "asterisk_call_context",
    "asterisk_call_person",
    "asterisk_doctor",
)
RIGHTS: dict[str, dict[str, set[str]]] = {
    "trunkline_services": {
        **{table: {"SELECT", "INSERT", "UPDATE", "DELETE"} for table in WRITTEN_BY_SERVICES},
        "cel": {"SELECT", "DELETE"},
        "call_events": {"SELECT"},
        "campaign_status": {"SELECT"},
        "call_context": {"SELECT"},
        "asterisk_doctor": {"SELECT"},
        "alembic_version": {"SELECT"},
        "trunk_credentials": {"INSERT", "UPDATE", "DELETE"},
    },
    "trunkline_asterisk": {
        **{view: {"SELECT"} for view in ASTERISK_READS},
        "cel": {"SELECT", "INSERT"},
    },
}


@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_has_these_rights_and_no_others(owner: psycopg.Connection[Any], role: str) -> None:
    granted: dict[str, set[str]] = {}
    for relation, privilege in owner.execute(
        "SELECT c.relname, p FROM pg_class c,"
        " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
        " AND has_table_privilege(%s, c.oid, p)",
        (role,),
    ).fetchall():
        granted.setdefault(relation, set()).add(privilege)
    assert granted == RIGHTS[role]
    columns = owner.execute(
        "SELECT a.attrelid::regclass::text, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0"
        " AND has_column_privilege(%s, c.oid, a.attnum, 'SELECT') AND NOT has_table_privilege(%s, c.oid, 'SELECT')",
        (role, role),
    ).fetchall()
    assert columns == ([("trunk_credentials", "trunk_id")] if role == "trunkline_services" else [])
    (may_create, owns, is_super) = owner.execute(
        "SELECT has_schema_privilege(oid, 'public', 'CREATE') OR has_database_privilege(oid, current_database(), 'CREATE'),"
        " EXISTS (SELECT FROM pg_class WHERE relowner = r.oid), rolsuper OR rolcreaterole OR rolcanlogin"
        " FROM pg_roles r WHERE rolname = %s",
        (role,),
    ).fetchone() or (True, True, True)
    assert (may_create, owns, is_super) == (False, False, False)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT auth_password FROM trunk_credentials",
        "SELECT auth_username FROM trunk_credentials",
        "SELECT * FROM trunk_credentials",
        "SELECT trunk_credentials::text FROM trunk_credentials",
        "UPDATE trunk_credentials SET auth_username = 'x' RETURNING auth_password",
        "SELECT trunk_id FROM trunk_credentials WHERE auth_password LIKE 's%%'",
        "DELETE FROM trunk_credentials WHERE auth_password LIKE 's%%'",
        "COPY trunk_credentials TO STDOUT",
        "SELECT * FROM ps_auths",
        "CREATE TABLE mine ()",
        "ALTER TABLE trunk_credentials DISABLE ROW LEVEL SECURITY",
        "INSERT INTO call_events (subject, call_id, from_status, to_status)"
        " VALUES ('call', gen_random_uuid(), 'scheduled', 'queued')",
    ],
)
def test_the_services_can_neither_read_a_credential_nor_change_what_was_recorded(
    rows: Rows, owner: psycopg.Connection[Any], query: LiteralString
) -> None:
    owner.execute("INSERT INTO trunk_credentials VALUES (%s, 'user', 'secret')", (rows.trunk,))
    with acting_as(owner, "trunkline_services"), pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(query.replace("%%", "%"))


def test_the_services_can_write_a_credential_that_they_cannot_read(rows: Rows, owner: psycopg.Connection[Any]) -> None:
    rows.run("INSERT INTO trunk_credentials VALUES (%(t)s, 'user', 'old')", t=rows.trunk)
    rows.run("UPDATE trunk_credentials SET auth_password = 'new' WHERE trunk_id = %(t)s", t=rows.trunk)
    assert owner.execute("SELECT auth_password FROM trunk_credentials").fetchall() == [("new",)]


def test_asterisk_reads_its_views_and_writes_its_own_ledger_and_nothing_else(
    rows: Rows, owner: psycopg.Connection[Any]
) -> None:
    with acting_as(owner, "trunkline_asterisk"):
        for view in ASTERISK_READS:
            owner.execute(f"SELECT * FROM {view}".encode())
        owner.execute("INSERT INTO cel (eventtype, eventtime, uniqueid) VALUES ('CHAN_START', now(), 'x')")
        for query in (
            b"SELECT FROM calls",
            b"SELECT FROM attempts",
            b"SELECT FROM call_context",
            b"SELECT FROM trunk_credentials",
            b"UPDATE cel SET uniqueid = 'y'",
            b"DELETE FROM cel",
            b"CREATE TABLE mine ()",
            b"SELECT ensure_event_partitions()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(query)


# --- what Asterisk reads --------------------------------------------------------------------------


def as_realtime_reads(value: str) -> list[str]:
    """res_config_pgsql splits a value at `;` and decodes ^XX in each part."""
    return [re.sub(r"\^([0-9A-F]{2})", lambda code: chr(int(code[1], 16)), part) for part in value.split(";")]


@pytest.mark.parametrize("text", ["a;b^c", "^3B", ";", "^", "^^;;5E", "p%40ss wörd 🎈", "^5E3B"])
def test_passwords_and_names_reach_asterisk_whole(rows: Rows, owner: psycopg.Connection[Any], text: str) -> None:
    owner.execute("INSERT INTO trunk_credentials VALUES (%s, %s, %s)", (rows.trunk, "u" + text, text))
    campaign = rows.campaign(1)
    (attempt,) = rows.grant(campaign)
    rows.run("UPDATE calls SET name = %(n)s, variables = jsonb_build_object('k', %(n)s::text)", n=text)
    rows.run("UPDATE campaigns SET name = %(n)s", n=text)
    rows.run("UPDATE agents SET name = %(n)s", n=text)
    rows.claim([attempt])
    with acting_as(owner, "trunkline_asterisk"):
        auth = owner.execute("SELECT username, password FROM ps_auths WHERE id = %s", (str(rows.trunk),)).fetchone()
        context = owner.execute(
            "SELECT name, campaign, agent, variables FROM asterisk_call_context JOIN asterisk_call_person USING (attempt_id)"
            " WHERE attempt_id = %s",
            (str(attempt),),
        ).fetchone()
    assert auth is not None
    assert context is not None
    assert [as_realtime_reads(value) for value in auth] == [["u" + text], [text]]
    assert [as_realtime_reads(value) for value in context[:3]] == [[text]] * 3
    assert as_realtime_reads(context[3]) == [f'{{"k": "{text}"}}']


@pytest.mark.parametrize(
    ("transport", "port", "expected"),
    [
        ("transport-udp", 5070, "sip:+12121000000@127.0.0.1:5070"),
        ("transport-tcp", 5070, "sip:+12121000000@127.0.0.1:5070^3Btransport=tcp"),
        ("transport-tls", None, "sip:+12121000000@127.0.0.1^3Btransport=tls"),
    ],
)
def test_the_contact_is_the_number_at_the_gateway_by_its_transport(
    rows: Rows, owner: psycopg.Connection[Any], transport: str, port: int | None, expected: str
) -> None:
    rows.run("UPDATE trunks SET transport = %(t)s", t=transport)
    rows.run("UPDATE trunk_gateways SET port = %(p)s", p=port)
    (attempt,) = rows.grant(rows.campaign(1))
    find = b"SELECT id, contact FROM ps_aors"
    assert owner.execute(find).fetchall() == []
    rows.claim([attempt])
    assert owner.execute(find).fetchall() == [(str(attempt), expected)]


def test_a_trunk_that_is_off_has_no_endpoint_and_every_other_is_kept_from_dialling_by_itself(
    rows: Rows, owner: psycopg.Connection[Any]
) -> None:
    find = b"SELECT id, aors, context, redirect_method, outbound_auth FROM ps_endpoints"
    assert owner.execute(find).fetchall() == [(str(rows.gateway), "", "trunkline-endpoint", "user", None)]
    rows.run("UPDATE trunks SET auth_type = 'userpass'")
    assert owner.execute(find).fetchall()[0][4] == str(rows.trunk)
    rows.run("UPDATE trunks SET is_active = false")
    assert owner.execute(find).fetchall() == []


BREAKS_OUT = [*"/@&;,^ \n\t\"'<>?=%$:\\\u0661", "\x7f"]


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ("UPDATE trunk_gateways SET gateway_address = %s", "sip.example.net"),
        ("UPDATE phone_numbers SET phone_number = %s", FROM),
        ("UPDATE calls SET phone_number = %s", "+12125550101"),
        ("UPDATE attempts SET dialed_number = %s", "12125550101"),
        ("UPDATE attempts SET from_number = %s", FROM),
        ("UPDATE trunks SET from_user = %s", "user"),
        ("UPDATE trunks SET from_domain = %s", "example.net"),
        ("UPDATE trunks SET contact_user = %s", "user"),
        ("UPDATE trunks SET allow = %s", "ulaw,alaw"),
        ("UPDATE trunks SET disallow = %s", "all"),
    ],
)
def test_nothing_that_could_break_out_of_a_sip_address_gets_as_far_as_the_wire(
    rows: Rows, owner: psycopg.Connection[Any], change: LiteralString, good: str
) -> None:
    rows.grant(rows.campaign(1))
    owner.execute(change, (good,))
    for bad in BREAKS_OUT:
        for text in (good + bad, bad + good, f"{good[:8]}{bad}{good[8:]}" if len(good) > 8 else bad):
            if bad == "," and "allow" in change and text == f"{good[:8]}{bad}{good[8:]}":
                continue
            with pytest.raises(psycopg.errors.CheckViolation):
                owner.execute(change, (text,))
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute(change, ("",))


@pytest.mark.parametrize("address", ["203.0.113.7", "sip.example.net", "[2001:db8::1]", "a", "xn--bcher-kva.example"])
def test_a_gateway_may_be_a_name_or_an_address(rows: Rows, owner: psycopg.Connection[Any], address: str) -> None:
    owner.execute("UPDATE trunk_gateways SET gateway_address = %s", (address,))


@pytest.mark.parametrize("address", ["-a.example", "a.example-", ".a", "2001:db8::1", "[::1]x", "[::1%eth0]", "[sip]"])
def test_a_gateway_that_is_neither_is_refused(rows: Rows, owner: psycopg.Connection[Any], address: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("UPDATE trunk_gateways SET gateway_address = %s", (address,))


def test_a_trunk_that_would_call_hardly_ever_is_refused(rows: Rows, owner: psycopg.Connection[Any]) -> None:
    owner.execute("UPDATE trunks SET max_calls_per_second = 0.001")
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("UPDATE trunks SET max_calls_per_second = 0.0009")


# --- plans ----------------------------------------------------------------------------------------


def plan(rows: Rows, sql: str, **parameters: object) -> str:
    return "\n".join(row[0] for row in rows.all(f"EXPLAIN {sql}", **parameters))


@pytest.fixture
def many(rows: Rows, owner: psycopg.Connection[Any]) -> tuple[Rows, UUID]:
    """20,000 calls of a campaign and 20,000 single ones, most of them over with their attempts; statistics are fresh."""
    campaign = rows.campaign(0)
    owner.execute("SET session_replication_role = replica")  # as they came, without the triggers
    for id, from_number, code in [(campaign, None, "+1212"), (None, FROM, "+1213")]:
        owner.execute(
            "INSERT INTO calls (id, campaign_id, agent_id, phone_number, from_number, status, due_at)"
            " SELECT gen_random_uuid(), %s, %s, %s || (1000000 + n), %s,"
            " CASE WHEN n %% 2 = 0 THEN 'scheduled' ELSE 'completed' END, now() - interval '1 hour' FROM generate_series(1, 20000) n",
            (id, rows.agent, code, from_number),
        )
    owner.execute(
        "INSERT INTO attempts (id, call_id, campaign_id, trunk_id, gateway_id, node, dialed_number, from_number, status)"
        " SELECT gen_random_uuid(), id, campaign_id, %s, %s, 'n1', phone_number, %s,"
        " CASE WHEN row_number() OVER () %% 200 = 0 THEN 'initiated' ELSE 'completed' END FROM calls WHERE status = 'completed'",
        (rows.trunk, rows.gateway, FROM),
    )
    owner.execute("ANALYZE")
    return rows, campaign


def test_the_next_calls_are_picked_by_their_indexes(many: tuple[Rows, UUID]) -> None:
    rows, campaign = many
    of_campaign = plan(
        rows, statement("pick_campaign_calls"), campaigns=[campaign], wanted=[MOST_A_ROUND], most=MOST_A_ROUND
    )
    assert "calls_due on calls" in of_campaign, of_campaign
    single = plan(rows, statement("pick_single_calls"), from_numbers=[FROM], wanted=MOST_A_ROUND, agents=[])
    assert "calls_due_single on calls" in single, single
    for text in (of_campaign, single):
        assert "Seq Scan on calls" not in text
        assert "Sort Key: calls" not in text, "the index has the order already"


def test_the_gate_is_asked_by_its_index(many: tuple[Rows, UUID]) -> None:
    rows, _ = many
    with psycopg.connect(rows.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)) as owner:
        owner.execute("SET ROLE trunkline_asterisk")
        asked = owner.execute("EXPLAIN SELECT * FROM ps_aors WHERE id = %s LIMIT 1", (str(uuid4()),)).fetchall()
    text = "\n".join(row[0] for row in asked)
    assert "attempts_gate on attempts" in text, text
    assert "Seq Scan on attempts" not in text


def test_what_runs_for_every_call_or_every_second_scans_no_big_table(many: tuple[Rows, UUID]) -> None:
    rows, campaign = many
    ids = [row[0] for row in rows.all("SELECT id FROM attempts LIMIT 16")]
    calls = [row[0] for row in rows.all("SELECT id FROM calls LIMIT 16")]
    asked: dict[str, dict[str, object]] = {
        "claim": {"ids": ids, "void_after": ledger.VOID_AFTER},
        "lock_attempts": {"ids": ids},
        "lock_calls": {"ids": calls},
        "lock_queued_attempts": {"ids": ids},
        "open_attempts": {},
        "sweep_lost": {"unclaimed_for": timedelta(seconds=5), "void_after": ledger.VOID_AFTER},
        "void_grants": {"void_after": ledger.VOID_AFTER},
        "second_looks": {"node": "n1"},
        "campaign_attempts": {"campaign": campaign, "statuses": ["queued"]},
        "up_attempts": {"campaign": campaign},
        "dialling_attempts": {"campaign": campaign},
        "just_granted_trunks": {"since": UUID(int=0xFF << 120)},
        "overdue_attempts": {
            "node": "n1",
            "since": None,
            "silent_for": timedelta(seconds=10),
            "in_hand": timedelta(seconds=3),
            "longest": timedelta(hours=1),
        },
        "lock_done_campaigns": {},
        "complete_campaigns": {"ids": [campaign]},
        "cel_of_attempts": {"ids": [str(id) for id in ids]},
    }
    scanned = {}
    for name, parameters in asked.items():
        text = plan(rows, statement(name), **parameters)
        if re.search(r"Seq Scan on (calls|attempts|call_events)", text):
            scanned[name] = text
    assert not scanned, "\n".join(scanned.values())
