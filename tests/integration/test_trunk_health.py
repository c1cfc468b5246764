"""A trunk none of whose gateways is well has paused, and says so with the reason wherever an operator looks."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from deploy.doctor.ledger import examine_postgres, examine_trunks
from models.database import open_engine
from models.findings import Verdict
from scheduler import trunk_health
from scheduler.trunk_health import Pause
from tests.integration.conftest import Database
from tests.integration.ledger_rows import Rows


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    engine = open_engine(database.settings, "trunkline-test")
    yield Rows(engine=engine)
    engine.dispose()


def gateway(rows: Rows, port: int) -> UUID:
    return UUID(
        str(
            rows.value(
                "INSERT INTO trunk_gateways (trunk_id, gateway_address, port, priority)"
                " VALUES (%(trunk)s, '127.0.0.1', %(port)s, %(port)s) RETURNING id",
                trunk=rows.trunk,
                port=port,
            )
        )
    )


def fails(rows: Rows, gateway_id: UUID, disposition: str, rests_for: str) -> None:
    rows.run(
        "INSERT INTO gateway_health (gateway_id, failures, last_failure, rests, rests_until)"
        " VALUES (%(id)s, 7, %(d)s, 2, clock_timestamp() + %(for)s::interval)",
        id=gateway_id,
        d=disposition,
        **{"for": rests_for},
    )


def paused(rows: Rows) -> list[Pause]:
    with rows.engine.begin() as connection:
        return trunk_health.pauses(trunk_health.of_gateways(connection))


def test_a_trunk_is_paused_while_none_of_its_gateways_is_well_and_says_why_and_until_when(rows: Rows) -> None:
    second = gateway(rows, 5080)
    fails(rows, rows.gateway, "congestion", "1 minute")
    assert paused(rows) == [], "the other one carries its calls"
    fails(rows, second, "gateway-unreachable", "2 minutes")
    [pause] = paused(rows)
    assert pause.trunk_id == rows.trunk
    assert pause.until == rows.value("SELECT min(rests_until) FROM gateway_health")
    for words in ("all of its 2 gateways", "127.0.0.1:5070: 7 failures", "congestion", "gateway-unreachable", "UTC"):
        assert words in pause.sentence
    rows.run("UPDATE gateway_health SET rests_until = now() WHERE gateway_id = %(id)s", id=second)
    [pause] = paused(rows)
    assert pause.until is None
    assert "one call at a time tries it now" in pause.sentence
    rows.run(
        "UPDATE gateway_health SET failures = 0, rests = 0, rests_until = NULL WHERE gateway_id = %(id)s", id=second
    )
    assert paused(rows) == [], "a sign of life has ended it"


def test_a_trunk_that_is_off_is_not_called_paused(rows: Rows) -> None:
    fails(rows, rows.gateway, "congestion", "1 minute")
    rows.run("UPDATE trunks SET is_active = false")
    assert paused(rows) == []


def test_doctor_names_a_paused_trunk_and_a_gateway_that_another_stands_in_for(database: Database, rows: Rows) -> None:
    fails(rows, rows.gateway, "congestion", "1 minute")
    _, ledger = examine_postgres(database.settings)
    [finding] = examine_trunks(ledger)
    assert (finding.verdict, finding.part) == (Verdict.WRONG, f"trunk {rows.trunk}")
    assert "is paused, its gateway 127.0.0.1:5070 keeps failing" in finding.sentence
    assert "trunk check" in finding.advice
    gateway(rows, 5080)
    _, ledger = examine_postgres(database.settings)
    [finding] = examine_trunks(ledger)
    assert (finding.verdict, "127.0.0.1:5070 rests until" in finding.sentence) == (Verdict.WARNING, True)
    rows.run("DELETE FROM gateway_health")
    _, ledger = examine_postgres(database.settings)
    assert examine_trunks(ledger) == []
