"""The ground that peers stand on: rows the gate lets through, an AMI user of theirs, pbx_spool, and none of our processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import uuid_utils.compat

from asterisk.marks import mark_family
from asterisk.pool import Originate
from deploy.debian import tree_command
from deploy.embedded.passwords import write_private
from deploy.part import stop
from deploy.stack import NODE
from models.agents import DEFAULT_FALLBACK, parse_connect
from tests.bench.lab import SOUND, Lab
from tests.bench.peers.wire import SECRET, USERNAME
from tests.integration.system import System, until

_SERVICES = {"postgres", "valkey", "names", "asterisk"}

# Hears that a call is over, or was never placed, and nothing else: fewer events than our listener has to be told.
_MANAGER = f"""
[{USERNAME}]
secret = {SECRET}
deny = 0.0.0.0/0.0.0.0
permit = 127.0.0.1/255.255.255.255
read = call
write = call,originate
writetimeout = 5000
eventfilter(action(include),name(Hangup)) =
eventfilter(action(include),name(OriginateResponse),header(Response),method(exact)) = Failure
"""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a peer needs to know; made once for a system."""

    system: System
    from_number: str
    trunk: UUID
    gateway: UUID
    agent: UUID

    @property
    def spool(self) -> Path:
        return self.system.stack.home / "asterisk" / "spool" / "outgoing"

    @property
    def ami(self) -> tuple[str, int]:
        node = self.system.settings.nodes[0]
        return node.host, node.port


def prepare(lab: Lab, slots: int) -> Ground:
    """A trunk and an agent for the peers; and Asterisk, until it ends, with their AMI user and with pbx_spool."""
    system = lab.system
    from_number = system.add_trunk("peers", slots=slots, calls_per_second=10_000)
    agent = system.add_agent("peers", SOUND)
    ((trunk, gateway),) = system.rows(
        "SELECT t.id, g.id FROM trunks t JOIN trunk_gateways g ON g.trunk_id = t.id WHERE t.name = 'peers'"
    )
    manager = system.stack.home / "asterisk" / "etc" / "manager.conf"
    write_private(manager, manager.read_text() + _MANAGER)
    _tell_asterisk(system, "manager reload")
    _tell_asterisk(system, "module load pbx_spool.so")
    return Ground(system=system, from_number=from_number, trunk=trunk, gateway=gateway, agent=agent)


def _tell_asterisk(system: System, command: str) -> None:
    configuration = system.stack.home / "asterisk" / "etc" / "asterisk.conf"
    words = [*tree_command(system.tree, "usr/sbin/asterisk"), "-C", str(configuration), "-rx", command]
    subprocess.run(words, check=True, capture_output=True, timeout=30)


def have_ours_up(system: System, wanted: bool) -> None:
    """Starts our own processes, or stops them; nothing where it is so already."""
    ours = [name for name in system.processes if name not in _SERVICES]
    are_up = system.processes[ours[0]].poll() is None
    if wanted and not are_up:
        for name in ours:
            system.start(name)
        until(lambda: system.value("SELECT count(*) FROM nodes WHERE heard_at > now() - interval '3 s'"))
    elif are_up and not wanted:
        for name in reversed(ours):
            stop(system.parts[name], system.processes[name])


@contextmanager
def dialable(ground: Ground, people: Sequence[str]) -> Iterator[list[Originate]]:
    """An attempt for each of them that Asterisk may dial, until the block ends."""
    calls = [uuid_utils.compat.uuid7() for _ in people]
    attempts = [uuid_utils.compat.uuid7() for _ in people]
    with ground.system.engine.begin() as connection:
        cursor = connection.connection.cursor()
        with cursor.copy(
            "COPY calls (id, agent_id, phone_number, from_number, status, current_attempt_id, attempts) FROM STDIN"
        ) as copy:
            for call, attempt, person in zip(calls, attempts, people, strict=True):
                copy.write_row((call, ground.agent, person, ground.from_number, "initiated", attempt, 1))
        with cursor.copy(
            "COPY attempts (id, call_id, trunk_id, gateway_id, node, dialed_number, from_number, status) FROM STDIN"
        ) as copy:
            for call, attempt, person in zip(calls, attempts, people, strict=True):
                where = (ground.trunk, ground.gateway, NODE)
                copy.write_row((attempt, call, *where, person, ground.from_number, "initiated"))
    try:
        yield [_order(ground, attempt) for attempt in attempts]
    finally:
        ground.system.run("DELETE FROM calls WHERE id = ANY (%(ids)s::uuid[])", ids=calls)


def _order(ground: Ground, attempt: UUID) -> Originate:
    """As `workers.originate` makes it of a claim."""
    agent, settings = parse_connect(SOUND), ground.system.settings
    longest = settings.longest_call
    return Originate(
        attempt_id=attempt,
        endpoint=str(ground.gateway),
        context="trunkline-agent",
        exten=agent.kind.value,
        ring_timeout=settings.ring_timeout,
        longest_call=longest,
        caller_id=ground.from_number,
        variables={
            **agent.variables,
            "TL_LONGEST": str(longest // timedelta(seconds=1)),
            "TL_FALLBACK": DEFAULT_FALLBACK,
        },
        mark_family=mark_family(attempt),
    )
