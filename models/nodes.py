"""Which nodes take calls: those that are heard, and whose breaker lets calls through.

    closed ──5 Originates in a row not taken, over half a second──▶ open: 1 s ──▶ half-open: one call at a time
      ▲                                                                 ▲                  │
      │                                                 2 s, 4 s ... 60 s └── not taken ───┤
      └──────────────────────────── an Originate is taken ─────────────────────────────────┘

The listener says whether a node is heard; the breaker knows what a listener cannot hear: that workers do not get in (a
wrong password, a link that is cut), that Asterisk takes no calls yet, or that it answers nothing. Every worker feeds it,
where it learns what became of an Originate; the leader obeys it.

One worker that alone is cut off cannot open it while others get through, since "in a row" is over all workers: each call
that another worker places begins the row anew, and half a second of nothing but failures is what a node in trouble looks
like. Where there is so little to do that the others place nothing in that time, the node rests, and a trial that
another worker gets closes the breaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from sqlalchemy import Connection

from models.statements import statement

logger = structlog.get_logger(__name__)

DEAF_AFTER = timedelta(seconds=6)
"""A node whose listener has not been heard of for so long gets no calls."""

REST_AFTER = 5  #: Originates in a row
FAILING_FOR = timedelta(milliseconds=500)  #: at least, however many failed: many in flight break at once
FIRST_REST = timedelta(seconds=1)
LONGEST_REST = timedelta(seconds=60)


class BreakerState(StrEnum):
    CLOSED = "closed"  #: calls go through
    OPEN = "open"  #: the node rests
    HALF_OPEN = "half-open"  #: it gets one call at a time, until one is taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """Of one node."""

    node: str
    state: BreakerState
    failures: int  #: in a row
    rests_until: datetime | None
    last_failure: str | None
    heard_ago: float | None  #: seconds; None: nobody hears it

    @property
    def is_heard(self) -> bool:
        return self.heard_ago is not None and self.heard_ago < DEAF_AFTER.total_seconds()


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveNode:
    """A node that takes calls. One `on_trial` gets a single one, then this snapshot is over."""

    name: str
    max_calls: int
    on_trial: bool


def live_nodes(connection: Connection) -> list[LiveNode]:
    rows = connection.exec_driver_sql(statement("live_nodes"), {"deaf_after": DEAF_AFTER})
    return [LiveNode(**row) for row in rows.mappings()]


def breakers(connection: Connection) -> list[Breaker]:
    """Of every node that a listener ever registered."""
    rows = connection.exec_driver_sql(statement("breakers")).mappings()
    return [Breaker(**{**row, "state": BreakerState(row["state"])}) for row in rows]


def not_taken(connection: Connection, node: str, attempt_ids: Sequence[UUID], error: str) -> None:
    """Puts down that the node did not take these Originates, and lets it rest if that was too often.

    Best at the end of the caller's transaction: whoever counts for the same node waits for it.
    """
    parameters = {
        "node": node,
        "ids": list(attempt_ids),
        "error": error,
        "rest_after": REST_AFTER,
        "failing_for": FAILING_FOR,
        "first_rest": FIRST_REST,
        "longest_rest": LONGEST_REST,
    }
    connection.exec_driver_sql(statement("know_node"), parameters)
    for row in connection.exec_driver_sql(statement("node_failed"), parameters):
        if row.tires:
            until = row.rests_until.isoformat(timespec="seconds")
            logger.warning("node_rests", node=node, until=until, failures=row.failures, last=error)


def taken(connection: Connection, nodes: Sequence[str]) -> bool:
    """Ends what bad is known of nodes that took an Originate; whether one of them rested or was on trial."""
    closed = connection.exec_driver_sql(statement("node_took"), {"nodes": list(nodes)}).all()
    for row in closed:
        if row.rested:
            logger.info("node_takes_calls_again", node=row.node)
    return any(row.rested for row in closed)
