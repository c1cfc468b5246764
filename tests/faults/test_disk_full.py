"""A disk that is full for Postgres: it answers errors, or dies of it; with room again everything goes on by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from tests.faults.witness import check
from tests.faults.world import World
from tests.integration.system import until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With its Postgres on a disk of its own."""
    home = tmp_path_factory.mktemp("faults")
    disk = home / "postgres"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a small disk of its own for Postgres takes root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        with World(home) as world:
            yield world
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> Path:
    """Takes all the room that is left; remove the file to give it back."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        room = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    return ballast


def write_more_log(world: World) -> None:
    """Makes Postgres begin its next file of write-ahead log; it can go on with none that it has no room for."""
    try:
        with psycopg.connect(
            world.stack.runtime["database_owner_url"], autocommit=True, connect_timeout=2
        ) as connection:
            for _ in range(50):
                connection.execute("SELECT pg_switch_wal()")
                connection.execute("SELECT pg_logical_emit_message(false, 'test', repeat('.', 1000000))")
    except (psycopg.Error, DBAPIError):
        pass


@pytest.mark.parametrize("dies", [False, True], ids=["it answers errors", "it dies of it"])
def test_a_full_disk_stops_everything_and_loses_nothing(world: World, dies: bool) -> None:
    campaign = world.campaign_of()
    world.wait_under_way(campaign)
    log = world.parts["postgres"].log
    full = log.read_text().count("No space left on device")
    ballast = fill(log.parent)
    if dies:
        write_more_log(world)
    until(lambda: log.read_text().count("No space left on device") > full, within=60, what="Postgres has no room")
    if dies:
        until(lambda: "PANIC" in log.read_text(), within=60, what="it dies of that")
    over = world.carrier_calls()
    until(lambda: all(call.ended_at for call in world.carrier_calls()), within=60, what="nobody is on the line")
    assert len(world.carrier_calls()) < len(campaign.people), over
    ballast.unlink()
    if world.processes["postgres"].poll() is not None:
        world.start("postgres")  # as whoever supervises it does
    check(world, campaign)
