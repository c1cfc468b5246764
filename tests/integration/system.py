"""The whole of trunkline on real parts, for one test session: Postgres, Valkey, Asterisk, SIPp, our processes.

Each process can be started, killed and frozen by itself; nothing restarts what a test has killed
unless the test says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import uuid_utils.compat
from sqlalchemy import Engine, create_engine

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.debian import provide
from deploy.part import Part, start, stop, wait_ready
from deploy.stack import Stack
from models.database import sqlalchemy_url
from models.schema import calls
from models.settings import Settings
from models.slots import Slots, connect

T = TypeVar("T")

DIALPLAN = """
[mine]
exten => talk,1,Log(NOTICE,${UNIQUEID} is ${HASH(CALL,attempt_number)} of ${HASH(CALL,campaign)} on ${HASH(CALL,trunk)})
 same => n,Playback(hello-world)
 same => n,Wait(0.2)
 same => n,Hangup()
exten => say,1,Log(NOTICE,${UNIQUEID} says ${URIENCODE(${CALL_NAME})} ${URIENCODE(${CALL_VARIABLES})} ${HASH(CALL,phone_number)} ${HASH(CALL,from_number)} ${HASH(CALL,attempt_number)} ${URIENCODE(${HASH(CALL,campaign)})} ${URIENCODE(${HASH(CALL,agent)})} ${URIENCODE(${HASH(CALL,trunk)})} ${HASH(CALL,node)})
 same => n,Hangup()
exten => stay,1,Playback(demo-congrats)
 same => n,Hangup()
exten => flood,1,Set(left=500)
 same => n(more),UserEvent(Doctor,pad: PAD)
 same => n,Set(left=$[${left} - 1])
 same => n,GotoIf($[${left} > 0]?more)
 same => n,Hangup()
""".replace("PAD", "x" * 900)
"""What a user's own dialplan may look like."""

USERNAME, PASSWORD = "trunkline-test", "a;b^c secret"  # as awkward as realtime can be given


class System:
    """Everything up, in `home`. Use as a context manager."""

    def __init__(
        self, home: Path, *, challenge: bool = False, ring_timeout: int = 8, workers: int = 1, **settings: Any
    ) -> None:
        self.tree = provide()
        self.carrier = Carrier(
            tree=self.tree.root, directory=home / "carrier", username=USERNAME, password=PASSWORD, challenge=challenge
        )
        home.mkdir(parents=True, exist_ok=True)
        dialplan = home / "mine.conf"
        dialplan.write_text(DIALPLAN)
        given = Settings(
            home=home,
            dialplan_file=dialplan,
            dialplan_contexts="mine",
            ring_timeout_seconds=ring_timeout,
            sip_bind="127.0.0.1:0",
            workers=workers,
            **settings,
        )
        self.stack = Stack(settings=given, tree=self.tree)
        self._numbers = count(100)
        self._began_at = 0.0
        self.parts: dict[str, Part] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> System:
        try:
            self.carrier.start()
            for part in self.stack.parts():
                self.parts[part.name] = part
                self.start(part.name)
            self._look_around()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _look_around(self) -> None:
        self.settings = Settings(home=self.stack.home)
        self.engine: Engine = create_engine(
            sqlalchemy_url(self.stack.runtime["database_owner_url"]), pool_pre_ping=True
        )
        self.slots = Slots(connect(self.stack.runtime["redis_url"]))
        until(lambda: self.value("SELECT count(*) FROM nodes WHERE heard_at IS NOT NULL"), what="a node is heard")

    def __exit__(self, *_: object) -> None:
        for name in reversed(self.processes):
            self.thaw(name)
            stop(self.parts[name], self.processes[name])
        self.carrier.stop()
        if hasattr(self, "engine"):
            self.engine.dispose()

    def start(self, name: str) -> None:
        part = self.parts[name]
        self.processes[name] = start(part)
        wait_ready(part, self.processes[name])

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def freeze(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        with suppress(ProcessLookupError):
            self.processes[name].send_signal(signal.SIGCONT)

    def add_trunk(
        self,
        name: str,
        *,
        slots: int = 20,
        calls_per_second: float = 1000,
        plus: bool = True,
        userpass: bool = True,
        qualify_frequency: int = 60,
        carrier: Carrier | None = None,
    ) -> str:
        """A trunk to the carrier, ours or another; returns a number registered on it."""
        to = carrier or self.carrier
        trunk_id, number = uuid4(), f"+1202555{next(self._numbers):04}"
        self.run(
            "INSERT INTO trunks (id, name, auth_type, max_concurrent_calls, max_calls_per_second,"
            " outbound_leading_plus_enabled, qualify_frequency)"
            " VALUES (%(id)s, %(name)s, %(auth)s, %(slots)s, %(rate)s, %(plus)s, %(qualify)s)",
            id=trunk_id,
            name=name,
            auth="userpass" if userpass else "ip-based",
            slots=slots,
            rate=calls_per_second,
            plus=plus,
            qualify=qualify_frequency,
        )
        self.run(
            "INSERT INTO trunk_gateways (trunk_id, gateway_address, port) VALUES (%(id)s, %(host)s, %(port)s)",
            id=trunk_id,
            host=to.host,
            port=to.port,
        )
        if userpass:
            self.run(
                "INSERT INTO trunk_credentials VALUES (%(id)s, %(user)s, %(password)s)",
                id=trunk_id,
                user=USERNAME,
                password=PASSWORD,
            )
        self.run("INSERT INTO phone_numbers (phone_number, trunk_id) VALUES (%(n)s, %(id)s)", n=number, id=trunk_id)
        return number

    def add_agent(self, name: str, connect: str = "playback://demo-congrats") -> UUID:
        agent_id = uuid4()
        self.run("INSERT INTO agents (id, name, connect) VALUES (%(id)s, %(n)s, %(c)s)", id=agent_id, n=name, c=connect)
        return agent_id

    def call(self, agent_id: UUID, from_number: str, to: str, name: str = "Test") -> UUID:
        """A single call, to be made at once."""
        with self.engine.begin() as connection:
            call_id = uuid_utils.compat.uuid7()
            connection.execute(
                calls.insert().values(
                    id=call_id, agent_id=agent_id, phone_number=to, from_number=from_number, name=name, variables={}
                )
            )
        self.slots.wake()
        return call_id

    def trunkline(self, *words: object, status: int = 0, text: str | None = None) -> str:
        """Runs the command as a user would; returns what it printed. Fails the test on another exit status."""
        done = subprocess.run(
            [Path(sys.executable).parent / "trunkline", *map(str, words)],
            env={**os.environ, "TRUNKLINE_HOME": str(self.stack.home)},
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def campaign(self, name: str) -> dict[str, Any]:
        """The row of campaign_status."""
        with self.engine.begin() as connection:
            row = connection.exec_driver_sql("SELECT * FROM campaign_status WHERE name = %(n)s", {"n": name}).one()
            return dict(row._mapping)

    def status(self, call_id: UUID) -> str:
        return str(self.value("SELECT status FROM calls WHERE id = %(id)s", id=call_id))

    def begin_test(self) -> None:
        """From here on `carrier_calls` shows this test's calls only: many tests share one carrier."""
        self._began_at = time.time()

    def carrier_calls(self) -> list[witness.CarrierCall]:
        """What the carrier has seen since the test began, in the order of the first INVITEs."""
        return [call for call in witness.read(self.carrier.log) if call.invited_at >= self._began_at]

    def carried(self, number: str) -> list[witness.CarrierCall]:
        """What the carrier has seen of a number since the test began."""
        return [call for call in self.carrier_calls() if call.number == number]

    def rows(self, sql: str, **parameters: object) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.exec_driver_sql(sql, parameters or None).all())

    def run(self, sql: str, **parameters: object) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql, parameters or None)

    def value(self, sql: str, **parameters: object) -> Any:
        return self.rows(sql, **parameters)[0][0]


def until(ask: Callable[[], T], *, within: float = 30.0, what: str = "") -> T:
    """Asks until the answer is true and returns it; fails the test when it does not come in time."""
    deadline = time.monotonic() + within
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within} s: {what or ask}"
        time.sleep(0.02)
