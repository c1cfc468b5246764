"""The whole system with a proxy between every process of ours and everything it talks to, and its points armed.

    worker-1 ──▶ proxy ──▶ postgres        each process has its own three, so that one alone can be cut off
             ──▶ proxy ──▶ valkey
             ──▶ proxy ──▶ asterisk (AMI)

Each case makes a trunk and a campaign of its own, harms something while it runs, and lets `tests.faults.witness` judge.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import uuid_utils.compat
from anyio.from_thread import BlockingPortal, start_blocking_portal

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.carrier.people import area_codes, numbers
from deploy.part import Part, stop
from deploy.stack import NODE
from models.points import Point
from models.settings import Settings
from tests.faults.armed import gone_on, struck
from tests.faults.proxy import Proxy
from tests.integration.system import PASSWORD, USERNAME, System, until

ROOT = Path(__file__).parents[2]
SERVICES = ("postgres", "redis", "ami")

SOME = {"01": 20, "00": 30, "86": 15, "80": 10, "05": 5}
"""People who are quickly done with, answered and not."""

Do = Literal["kill", "freeze", "hold"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A fault that waits at a point of a process."""

    path: Path

    def struck(self) -> bool:
        return struck(self.path).exists()

    def wait(self, within: float = 60.0) -> None:
        until(self.struck, within=within, what=f"{self.path.name} is reached")

    def go_on(self) -> None:
        """Lets a process that is held at the point go on."""
        gone_on(self.path).touch()

    def take_back(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One that a case runs, and what was promised for it."""

    id: UUID
    name: str
    trunk_id: UUID
    from_number: str  #: its own: of two campaigns that call the same people each has another
    people: tuple[str, ...]
    slots: int
    calls_per_second: float


class World(System):
    """Use as a context manager. Parts that a case has killed are started again by `heal`."""

    def __init__(self, home: Path, **settings: Any) -> None:
        given = {"ring_timeout": 7, "longest_call_seconds": 60, "lost_call_hold_seconds": 5, **settings}
        given["webhooks_to_private_addresses"] = True  # receivers are on loopback
        super().__init__(home, **given)
        self._armoury = home / "armed"
        self._names = count(1)
        self._skip = 0
        self.proxies: dict[tuple[str, str], Proxy] = {}
        self.extra: list[str] = []
        self.carriers: list[Carrier] = []  # beside the one of all cases
        self._plain: dict[str, Part] = {}  # as `trunkline up` runs them

    def __enter__(self) -> World:
        self._portal_context = start_blocking_portal()
        self._portal: BlockingPortal = self._portal_context.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self.proxies.values():
            proxy.restore()
        super().__exit__()
        for carrier in self.carriers:
            carrier.stop()
        for proxy in self.proxies.values():
            proxy.close()
        self._portal_context.__exit__(None, None, None)

    # --- processes

    def start(self, name: str) -> None:
        if name == "flower":
            return
        if name.startswith(("scheduler", "listener", "worker", "webhooks")) and (name, "redis") not in self.proxies:
            self._plain[name] = self.parts[name]
            self.parts[name] = self._beset(self.parts[name])
        super().start(name)

    def add(self, like: str) -> str:
        """Starts one more process of the kind; returns its name. `heal` ends it."""
        name = next(f"{like}-{number}" for number in count(2) if f"{like}-{number}" not in self.parts)
        plain = self._plain[like]
        argv = [word.replace("worker1@", f"{name}@") for word in plain.argv]
        self.parts[name] = replace(plain, name=name, argv=argv, log=plain.log.with_name(f"{name}.log"))
        self.start(name)
        self.extra.append(name)
        return name

    def _beset(self, part: Part) -> Part:
        """With its own proxies, and its points watched."""
        orders = self._armoury / part.name
        orders.mkdir(parents=True, exist_ok=True)
        python, _, *words = part.argv  # python -m MODULE ...
        words = [python, "-m", "tests.faults.armed", str(orders), *words]
        return replace(part, argv=words, env={**part.env, "PYTHONPATH": str(ROOT), **self._addresses(part.name)})

    def _addresses(self, name: str) -> Mapping[str, str]:
        behind = Settings(home=self.stack.home)
        assert behind.database_url is not None
        assert behind.redis_url is not None

        def proxied(service: str, url: str) -> str:
            parts = urlsplit(url)
            target = (parts.hostname or "127.0.0.1", parts.port or 0)
            proxy = self.proxies[name, service] = Proxy.open(self._portal, target)
            login, _, _ = parts.netloc.rpartition("@")
            return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}"))

        nodes = []
        for node in behind.nodes:
            service = "ami" if node.name == NODE else f"ami-{node.name}"
            ami = self.proxies[name, service] = Proxy.open(self._portal, (node.host, node.port))
            nodes.append(replace(node, port=ami.port))
        return {
            "TRUNKLINE_DATABASE_URL": proxied("postgres", behind.database_url.get_secret_value()),
            "TRUNKLINE_REDIS_URL": proxied("redis", behind.redis_url.get_secret_value()),
            "TRUNKLINE_ASTERISK_NODES": ",".join(map(str, nodes)),
        }

    def terminate(self, name: str) -> None:
        """SIGTERM, as a service manager sends it; returns when it has ended."""
        self.processes[name].send_signal(signal.SIGTERM)
        self.processes[name].wait(60)

    def proxy(self, name: str, service: str) -> Proxy:
        return self.proxies[name, service]

    def proxies_to(self, service: str) -> list[Proxy]:
        """Of every process: the service is away for all of us."""
        return [proxy for (_, to), proxy in self.proxies.items() if to == service]

    # --- carriers

    def add_carrier(self, always: str = "", *, port: int = 0) -> Carrier:
        """One more gateway of a carrier, of which every number ends like these digits; `heal` ends it."""
        directory = self.stack.home / f"carrier-{next(self._names)}"
        carrier = Carrier(
            tree=self.tree.root, directory=directory, username=USERNAME, password=PASSWORD, always=always, port=port
        )
        carrier.start()
        self.carriers.append(carrier)
        return carrier

    def turn(self, carrier: Carrier, always: str = "") -> Carrier:
        """The gateway dies with what is up there, and another takes its address; `heal` ends that one too."""
        carrier.stop()
        return self.add_carrier(always, port=carrier.port)

    def carrier_calls(self) -> list[witness.CarrierCall]:
        """At all gateways, in the order of the first INVITEs; a gateway that was turned is one, with one memory."""
        logs: dict[int, list[str]] = {}
        for carrier in (self.carrier, *self.carriers):
            whole, _, _ = carrier.log.read_text(errors="replace").rpartition("\n")
            logs.setdefault(carrier.port, []).extend(whole.split("\n"))
        calls = [call for lines in logs.values() for call in witness.parse(lines)]
        return sorted((call for call in calls if call.invited_at >= self._began_at), key=lambda call: call.invited_at)

    # --- faults at points

    def order(
        self,
        name: str,
        point: Point,
        do: Do,
        *,
        after: int = 0,
        number: str | None = None,
        many: int = 0,
        stays: bool = False,
    ) -> Order:
        """The process does that to itself when it has passed the point `after` times and reaches it again.

        With `number` only when it has an attempt for that person in hand, with `many` only when it has so many; one that
        `stays` strikes every time.
        """
        path = self._armoury / name / point
        struck(path).unlink(missing_ok=True)
        gone_on(path).unlink(missing_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({"do": do, "after": after, "number": number, "many": many, "stays": stays}))
        draft.rename(path)
        return Order(path=path)

    def heal(self) -> None:
        """Everything up, whole and connected again, no order left, nothing of an earlier case running."""
        for path in self._armoury.glob("*/*"):
            if path.suffix == ".go":
                continue
            path.unlink(missing_ok=True)
            gone_on(path.with_name(path.name.removesuffix(".struck"))).touch()
        for proxy in self.proxies.values():
            proxy.restore()
        for name in list(self.processes):
            self.thaw(name)
        for name in self.extra:
            self.stop(name)
            del self.processes[name], self.parts[name]
            for key in [key for key in self.proxies if key[0] == name]:
                self.proxies.pop(key).close()
        self.extra.clear()
        for carrier in self.carriers:
            carrier.stop()
        self.carriers.clear()
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.start(name)
        until(
            lambda: self.value("SELECT bool_and(coalesce(heard_at > now() - interval '4 s', false)) FROM nodes"),
            within=60,
            what="every node is heard",
        )
        self.run("DELETE FROM node_health")
        for path in self._armoury.glob("*/*.go"):
            path.unlink()

    def stop(self, name: str) -> None:
        self.thaw(name)
        stop(self.parts[name], self.processes[name])

    # --- load

    def campaign_of(
        self,
        people: Mapping[str, int] = SOME,
        *,
        slots: int = 12,
        calls_per_second: float = 30,
        agent: str = "playback://hello-world",
        start: bool = True,
        gateways: Sequence[Carrier] = (),
    ) -> Campaign:
        """A trunk, a number, an agent and so many people; it runs when this returns. Without `gateways` it has the one of all cases."""
        name = f"case-{next(self._names)}"
        most = max(people.values())
        if self._skip + most > len(area_codes()):
            self._skip = 0
        to = numbers(people, skip=self._skip)
        self._skip += most
        from_number = self.add_trunk(
            name,
            slots=slots,
            calls_per_second=calls_per_second,
            userpass=False,
            qualify_frequency=0 if gateways else 60,
            carrier=gateways[0] if gateways else None,
        )
        for priority, carrier in enumerate(gateways[1:], start=2):
            self.run(
                "INSERT INTO trunk_gateways (trunk_id, gateway_address, port, priority)"
                " SELECT id, %(host)s, %(port)s, %(priority)s FROM trunks WHERE name = %(name)s",
                name=name,
                host=carrier.host,
                port=carrier.port,
                priority=priority,
            )
        campaign_id, agent_id = uuid_utils.compat.uuid7(), self.add_agent(name, agent)
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO campaigns (id, name, agent_id, from_numbers, status, rows, accepted, started_at)"
                " VALUES (%(id)s, %(name)s, %(agent)s, %(numbers)s, %(status)s, %(rows)s, %(rows)s, now())",
                {
                    "id": campaign_id,
                    "name": name,
                    "agent": agent_id,
                    "numbers": [from_number],
                    "status": "running" if start else "ready",
                    "rows": len(to),
                },
            )
            connection.exec_driver_sql(
                "INSERT INTO calls (id, campaign_id, agent_id, phone_number)"
                " SELECT id, %(campaign)s, %(agent)s, number FROM unnest(%(ids)s::uuid[], %(to)s::text[]) AS w (id, number)",
                {"campaign": campaign_id, "agent": agent_id, "ids": [uuid_utils.compat.uuid7() for _ in to], "to": to},
            )
        self.slots.wake()
        return Campaign(
            id=campaign_id,
            name=name,
            trunk_id=self.value("SELECT id FROM trunks WHERE name = %(n)s", n=name),
            from_number=from_number,
            people=tuple(to),
            slots=slots,
            calls_per_second=calls_per_second,
        )

    def over(self, campaign: Campaign) -> int:
        """How many of its calls are final."""
        row = self.campaign(campaign.name)
        return int(row["total"] - sum(row[s] for s in ("scheduled", "queued", "initiated", "ringing", "in_progress")))

    def wait_under_way(self, campaign: Campaign, *, over: int = 5) -> None:
        """Returns when some of its calls are over and most are still to come."""
        until(lambda: self.over(campaign) >= over, within=60, what=f"{over} calls are over")

    def frozen_backends(self, application: str) -> _Frozen:
        """Postgres's own processes that serve connections of this name; with it they are frozen."""
        return _Frozen(self, application)

    # --- Postgres

    def crash_postgres(self) -> None:
        """As if its machine had lost its power: all its processes at once, nothing in order."""
        pids = self._postgres_processes()
        self.kill("postgres")
        _signal(pids, signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="every process of it is gone")

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        """It is stopped, or dead already, and started again at the end; meanwhile nobody else gets its port."""
        stop(self.parts["postgres"], self.processes["postgres"])
        with socket.socket() as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(("127.0.0.1", urlsplit(self.stack.runtime["database_owner_url"]).port or 0))
            yield
        self.start("postgres")

    @contextmanager
    def frozen_postgres(self) -> Iterator[None]:
        """The whole of it; its kernel goes on saying that it got everything."""
        pids = self._postgres_processes()
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    def _postgres_processes(self) -> list[int]:
        """The first of them, then its children: each has a session of its own, and no signal to the group reaches them."""
        first = self.processes["postgres"].pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]


class _Frozen:
    """Postgres backends that do not answer, for the length of a `with` block."""

    def __init__(self, world: World, application: str) -> None:
        self._world, self._application = world, application

    def __enter__(self) -> None:
        rows = self._world.rows(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %(a)s || '%%' OR usename LIKE %(a)s",
            a=self._application,
        )
        self._pids = [int(row.pid) for row in rows]
        assert self._pids, f"nobody is called {self._application}"
        _signal(self._pids, signal.SIGSTOP)
        while not self._hold_nothing_up():
            _signal(self._pids, signal.SIGCONT)
            _signal(self._pids, signal.SIGSTOP)

    def _hold_nothing_up(self) -> bool:
        """Whether each was stopped while it waited for a question: in the midst of a write all of Postgres would wait."""
        rows = self._world.rows("SELECT wait_event FROM pg_stat_activity WHERE pid = ANY (%(p)s)", p=self._pids)
        return all(row.wait_event == "ClientRead" for row in rows)

    def __exit__(self, *_: object) -> None:
        _signal(self._pids, signal.SIGCONT)


@contextmanager
def frozen(carrier: Carrier) -> Iterator[None]:
    """A carrier that stands still, and then sees everything that was sent to it meanwhile."""
    _signal([carrier.pid], signal.SIGSTOP)
    try:
        yield
    finally:
        _signal([carrier.pid], signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Runs `work` in a thread until the block ends, and then waits for it."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(120)
        assert not thread.is_alive()
