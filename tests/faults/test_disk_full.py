"""A disk that is full for Postgres: it answers errors, or dies of it; with room again everything goes on by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.faults.witness import check
from tests.faults.world import World
from tests.integration.system import until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With its Postgres on a disk of its own."""
    home = tmp_path_factory.mktemp("faults")
    mounted = home / "postgres"
    mounted.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a small disk of its own for Postgres takes root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", mounted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        with World(home) as world:
            yield world
    finally:
        subprocess.run(["umount", mounted], check=True)


def disk(world: World) -> Path:
    return world.parts["postgres"].cwd


@contextmanager
def full(world: World) -> Iterator[None]:
    """All the room is taken, and one of ours has met that."""
    logs = [world.parts[name].log for name in ("scheduler", "listener-local", "worker-1")]

    def met() -> int:
        return sum(log.read_text().count("No space left on device") for log in logs)

    before = met()
    ballast = disk(world) / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        until(lambda: met() > before, within=60, what="it is met")
        yield
    finally:
        ballast.unlink(missing_ok=True)


def write_more_log(world: World) -> None:
    """Makes Postgres begin its next file of write-ahead log: without room for that it cannot go on."""
    url = world.stack.runtime["database_owner_url"]
    with suppress(psycopg.Error), psycopg.connect(url, autocommit=True, connect_timeout=2) as connection:
        for _ in range(50):
            connection.execute("SELECT pg_logical_emit_message(false, 'test', 'more')")
            connection.execute("SELECT pg_switch_wal()")


def test_a_disk_without_room_for_rows_stops_everything_and_loses_nothing(world: World) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    with full(world):
        nobody_is_on_the_line(world)
        assert len(world.carrier_calls()) < len(campaign.people)
    check(world, campaign)


def test_a_postgres_that_dies_of_a_full_disk_is_waited_for_and_nothing_is_lost(world: World) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    with full(world):
        write_more_log(world)
        until(lambda: world.processes["postgres"].poll() is not None, within=60, what="Postgres has died")
        with world.without_postgres():
            nobody_is_on_the_line(world)
            (disk(world) / "ballast").unlink()
    check(world, campaign)


def nobody_is_on_the_line(world: World) -> None:
    until(lambda: all(call.ended_at for call in world.carrier_calls()), within=60, what="every call has ended")
