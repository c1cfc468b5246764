"""Looks at every gateway now and then, and writes down what was found (`gateway_probes`).

    wait for the role ──▶ every half second: record what is done, begin what is due ──▶ ...
           ▲                                    │
           └──────── role or database lost ◀────┘

It runs beside the leader, in a thread and on a connection of its own, and decides nothing: it may be
late, wrong or gone, and calls go out as before. A gateway is due each `qualify_frequency` seconds of
its trunk, more or less a tenth so that many spread out, and at once when it or its trunk is new or
changed. One process at a time holds the role `trunkline-prober`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from uuid import UUID

import structlog
from anyio.from_thread import BlockingPortal, start_blocking_portal
from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from models import roles
from models.roles import PROBER, Role
from models.settings import Settings
from models.statements import statement
from scheduler.probe import Finding, Gateway, Probe, Viewpoint, probe

logger = structlog.get_logger(__name__)

_ROUND_SECONDS = 0.5
_MOST_AT_ONCE = 16


def transport_word(transport: str) -> str:
    """`transport-udp` → `UDP`, as SIP has it."""
    return transport.removeprefix("transport-").upper()


def record(connection: Connection, gateway_id: UUID, found: Probe) -> None:
    """Writes what was found of a gateway over what was found before."""
    connection.exec_driver_sql(
        statement("record_probe"),
        {
            "gateway": gateway_id,
            "finding": found.finding.value,
            "detail": found.detail,
            "rtt_ms": found.rtt_ms,
            "seen_as": found.seen_as,
        },
    )


class Prober:
    """`run` returns when `stop` is set, at once: what is being looked at is given up."""

    def __init__(
        self,
        settings: Settings,
        viewpoint: Viewpoint | None = None,
        *,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings = settings
        self._viewpoint = viewpoint
        self._spread = spread

    def run(self, stop: threading.Event) -> None:
        def term(role: Role) -> None:
            # Asterisk may have been set up anew since the last time
            viewpoint = self._viewpoint or Viewpoint.of(self._settings)
            _Term(role, viewpoint, self._spread).serve(stop)

        roles.serve(self._settings, PROBER, stop, term)


class _Term:
    """One tenure of the role."""

    def __init__(self, role: Role, viewpoint: Viewpoint, spread: Callable[[float, float], float]) -> None:
        self._connection = role.connection
        self._viewpoint = viewpoint
        self._spread = spread
        self._due: dict[UUID, tuple[object, float]] = {}  # what the gateway was like, and when it is due
        self._looking: dict[UUID, Future[Probe]] = {}
        self._last: dict[UUID, Finding] = {}

    def serve(self, stop: threading.Event) -> None:
        with start_blocking_portal("asyncio", name="prober") as portal:
            try:
                while not stop.is_set():
                    self._record_done()
                    self._begin_due(portal, time.monotonic())
                    stop.wait(_ROUND_SECONDS)
            finally:
                for look in self._looking.values():
                    look.cancel()

    def _begin_due(self, portal: BlockingPortal, now: float) -> None:
        with self._connection.begin():
            rows = self._connection.exec_driver_sql(statement("gateways_to_probe")).all()
        self._due = {row.id: self._when(row, now) for row in rows}
        for row in rows:
            likeness, at = self._due[row.id]
            if at <= now and row.id not in self._looking and len(self._looking) < _MOST_AT_ONCE:
                transport = transport_word(row.transport)
                gateway = Gateway(host=row.gateway_address, port=row.port, transport=transport)
                self._looking[row.id] = portal.start_task_soon(probe, gateway, self._viewpoint)
                self._due[row.id] = (likeness, now + row.qualify_frequency * self._spread(0.9, 1.1))

    def _when(self, row: Row[tuple[object, ...]], now: float) -> tuple[object, float]:
        likeness = (row.gateway_address, row.port, row.transport, row.qualify_frequency, row.updated_at)
        known = self._due.get(row.id)
        if known is not None and known[0] == likeness:
            return known
        if known is None and row.still_holds:  # by whoever had the role before
            return likeness, now + row.qualify_frequency * self._spread(0.0, 1.0)
        return likeness, now

    def _record_done(self) -> None:
        for gateway_id in [gateway_id for gateway_id, look in self._looking.items() if look.done()]:
            look = self._looking.pop(gateway_id)
            if (fault := look.exception()) is not None:
                logger.error("probe_fault", gateway=str(gateway_id), error=f"{type(fault).__name__}: {fault}")
                continue
            found = look.result()
            if self._last.get(gateway_id) is not found.finding:
                self._last[gateway_id] = found.finding
                logger.info("gateway_probed", gateway=str(gateway_id), finding=found.finding.value, detail=found.detail)
            try:
                with self._connection.begin():
                    record(self._connection, gateway_id, found)
            except IntegrityError:  # deleted this very moment
                logger.info("gateway_gone", gateway=str(gateway_id))
