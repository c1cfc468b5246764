"""Named points in the life of a call, and of a webhook about it, at which a process may die, freeze or be cut off: where a fault matters most.

Each stands between two things that are not one: a commit and what follows it. Nothing happens at them; the fault suite
(`tests/faults`) watches them from inside the process that it is about to harm, so that a fault strikes where it is meant
to and nobody sleeps and hopes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum
from uuid import UUID


class Point(StrEnum):
    """Named by the role that passes it."""

    LEADER_REBUILDS = "leader-rebuilds"  #: the ledger's holders are read, Redis is not written yet
    LEADER_TOOK = "leader-took"  #: slots are taken, their attempts are not written
    LEADER_GRANTED = "leader-granted"  #: attempts are committed, and not published
    LEADER_PUBLISHED = "leader-published"
    LEADER_HANDS_OVER = "leader-hands-over"  #: a slot is handed to the next gateway's attempt, which is not written
    LEADER_KEPT_HOUSE = "leader-kept-house"  #: what is void is withdrawn, its slots are held still
    LEADER_AUDITS = "leader-audits"  #: the ledger's holders are read, the audit is not sent

    WORKER_TOOK = "worker-took"  #: a task is taken from the queue, and its attempts are not claimed
    WORKER_CLAIMS = "worker-claims"  #: the claim is written, and not committed
    WORKER_CLAIMED = "worker-claimed"  #: the claim is committed, and nothing was sent
    WORKER_SENT = "worker-sent"  #: every Originate has its answer, or will have none
    WORKER_GAVE_BACK = "worker-gave-back"  #: an attempt is withdrawn, its slot is held still

    LISTENER_HEARD = "listener-heard"  #: events are taken from the link, and not written
    LISTENER_WRITES = "listener-writes"  #: they are written, and not committed
    LISTENER_WROTE = "listener-wrote"  #: they are committed, the slots of what is over are held still
    LISTENER_FREED = "listener-freed"
    LISTENER_LOOKED = "listener-looked"  #: Asterisk was asked after a gap, no verdict is written
    LISTENER_JUDGED = "listener-judged"  #: verdicts are committed

    WEBHOOKS_LEASED = "webhooks-leased"  #: the sweep has leased what is due, and published nothing
    WEBHOOKS_CLAIMED = "webhooks-claimed"  #: the claim is committed, and nothing was posted
    WEBHOOKS_POSTED = "webhooks-posted"  #: every receiver has answered, or will not; none of it is written


Watcher = Callable[[Point, Collection[UUID]], None]

_watcher: Watcher | None = None


def reached(point: Point, attempt_ids: Collection[UUID] = ()) -> None:
    """Says that this process is at the point now, with these attempts in hand where it matters which."""
    if _watcher is not None:
        _watcher(point, attempt_ids)


def watch(watcher: Watcher) -> None:
    """From now on `watcher` is called at every point, in the thread that has reached it."""
    global _watcher  # one process, one watcher, set before anything runs
    _watcher = watcher
