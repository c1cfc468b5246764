"""Webhooks: where they go, what signs them, and the outbox that holds them until they are delivered.

    transition ──▶ due ──lease──▶ on its way to a worker ──claim──▶ sent ──2xx──▶ removed
    (a trigger)     ▲                    │                           │
                    └── the lease ends ◀─┘         failed, or the worker died: due again by the back-off
                                                                     └── a day is over, or 410 ──▶ given up ──a week──▶ removed

The lease only keeps the sweep from publishing a delivery again and again, and bounds what a receiver has to answer at once.
The claim is what counts: it sets when the delivery is due next before anything is sent, so that a second message finds nothing
to do, and a worker that is killed leaves a delivery that will be tried again. It may then arrive twice, under the same id.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection, delete, func, or_, select
from sqlalchemy.dialects.postgresql import Insert, insert

from models.agents import host_and_port
from models.errors import Invalid
from models.schema import webhook_deliveries, webhook_keys
from models.statements import statement

TRY_FOR = timedelta(days=1)
SHOWN_FOR = timedelta(days=7)  #: after it was given up
MOST_IN_FLIGHT = 8  #: of one receiver
MOST_RECEIVERS = 64  #: that have something in flight
LEASE = timedelta(seconds=30)
FIRST_WAIT = timedelta(seconds=15)  #: longer than a try may take, or it would be due while it is sent
LONGEST_WAIT = timedelta(minutes=30)
MOST_COUNTED = 10_000  #: for people and monitors, who need not know more
_MOST_LOOKED_AT = 10_000  # receivers, for the same
_BESIDE = timedelta(days=1)
_FIELD = "webhook_url"
_LONGEST = 2000
_PRINTABLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One transition of a call that a receiver is to be told."""

    id: UUID
    call_id: UUID
    status: str  #: that the call came to
    at: datetime
    url: str
    receiver: str  #: HOST[:PORT]
    tries: int  #: before this one


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a delivery was not taken, in one sentence for its list."""

    error: str
    is_gone: bool = False  #: the receiver wants no more of it


@dataclass(frozen=True, kw_only=True)
class Undelivered:
    """A delivery that has failed at least once."""

    id: UUID
    call_id: UUID
    status: str
    at: datetime
    url: str
    tries: int
    last_error: str
    due_at: datetime | None  #: None once it is given up
    given_up_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """How the outbox stands. Counts end at `MOST_COUNTED`."""

    waiting: int
    oldest_due: timedelta  #: for how long the oldest that is due has been; 0 if none is
    given_up: int  #: in the last week


def check_url(text: str) -> str:
    """Where webhooks may go, as far as the text says; what its host resolves to is looked at when it is sent.

    Raises `Invalid`.
    """
    if len(text) > _LONGEST or not _PRINTABLE.fullmatch(text):
        raise Invalid(_FIELD, f"must be 1 to {_LONGEST} printable ASCII characters; others are written as %XX")
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets that do not match
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise Invalid(_FIELD, "must be http:// or https://, as https://example.com/calls")
    if "@" in parts.netloc:
        raise Invalid(_FIELD, "must hold no user name and password: what is sent is signed instead")
    host_and_port(parts.netloc, field=_FIELD)
    return text


def next_wait(tries: int, jitter: float) -> timedelta:
    """How long after a try the next is due: twice as long each time, up to half an hour, and up to half as long again.

    `tries` are those before it; `jitter`, from 0 to 1, keeps what failed together from coming back together.
    """
    doubled: timedelta = FIRST_WAIT * 2 ** min(tries, 16)
    return min(doubled, LONGEST_WAIT) * (1 + jitter / 2)


def lease(connection: Connection, receiver: str | None = None) -> dict[str, list[UUID]]:
    """What is due and is to be published now, by receiver; or of one receiver, for the worker that is at it."""
    rows = connection.exec_driver_sql(
        statement("lease_webhooks"),
        {"receiver": receiver, "most_receivers": MOST_RECEIVERS, "most": MOST_IN_FLIGHT, "lease": LEASE},
    )
    leased: dict[str, list[UUID]] = {}
    for row in rows:
        leased.setdefault(row.receiver, []).append(row.id)
    return leased


def release(connection: Connection, ids: Sequence[UUID]) -> None:
    """What could not be published is not on its way."""
    connection.execute(webhook_deliveries.update().where(webhook_deliveries.c.id.in_(ids)).values(leased_until=None))


def claim(connection: Connection, ids: Sequence[UUID], jitter: Callable[[], float]) -> list[Delivery]:
    """What of these is to be sent now, in the order of its transitions. Commit before anything is sent."""
    rows = connection.exec_driver_sql(statement("lock_webhooks"), {"ids": list(ids)}).mappings()
    claimed = [Delivery(**row) for row in rows]
    if claimed:
        connection.exec_driver_sql(
            statement("take_webhooks"),
            {
                "ids": [delivery.id for delivery in claimed],
                "waits": [next_wait(delivery.tries, jitter()) for delivery in claimed],
                "lease": LEASE,
            },
        )
    return claimed


def delivered(connection: Connection, ids: Sequence[UUID]) -> None:
    """Their receivers have them."""
    connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.id.in_(ids)))


def failed(connection: Connection, failures: Sequence[tuple[Delivery, Failure]]) -> None:
    """They are tried again when they are due, or were given up."""
    if not failures:
        return
    connection.exec_driver_sql(
        statement("webhooks_failed"),
        {
            "ids": [delivery.id for delivery, _ in failures],
            "errors": [failure.error for _, failure in failures],
            "gone": [failure.is_gone for _, failure in failures],
            "receivers": sorted({delivery.receiver for delivery, failure in failures if not failure.is_gone}),
            "try_for": TRY_FOR,
        },
    )


def forget_old(connection: Connection) -> None:
    """What was given up a week ago is shown no more."""
    connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.given_up_at < func.now() - SHOWN_FOR))


def backlog(connection: Connection) -> Backlog:
    """Cheap, whatever the outbox holds."""
    row = connection.exec_driver_sql(
        statement("webhooks_backlog"), {"most_counted": MOST_COUNTED, "most_receivers": _MOST_LOOKED_AT}
    ).one()
    return Backlog(waiting=row.waiting, oldest_due=row.oldest_due or timedelta(0), given_up=row.given_up)


def list_undelivered(connection: Connection, most: int) -> list[Undelivered]:
    """Those that have failed so far or were given up, the newest first."""
    d = webhook_deliveries.c
    rows = connection.execute(
        select(d.id, d.call_id, d.status, d.at, d.url, d.tries, d.last_error, d.due_at, d.given_up_at)
        .where(d.last_error.is_not(None))
        .order_by(d.at.desc())
        .limit(most)
    ).mappings()
    return [Undelivered(**{**row, "due_at": None if row["given_up_at"] else row["due_at"]}) for row in rows]


def secrets_of(connection: Connection, url: str) -> list[str]:
    """The secrets that sign what goes to this address: the newest, and for a day the one before it.

    Derived, so that none is kept and the same address has the same one wherever it is written down.
    """
    k = webhook_keys.c
    is_new = (k.created_at > func.now() - _BESIDE).label("is_new")
    signing = select(k.secret, is_new).where(or_(k.url.is_(None), k.url == url)).order_by(k.created_at.desc()).limit(2)
    found = connection.execute(signing).all()
    if not found:
        connection.execute(_new_key(None).on_conflict_do_nothing())  # the master, made at its first use
        found = connection.execute(signing).all()
    newest, *before = found
    return [_derived(key.secret, url) for key in ([newest, *before] if newest.is_new else [newest])]


def replace_secret(connection: Connection, url: str) -> str:
    """A new secret for this address; the one before it signs beside it for a day. Returns the new one."""
    secrets_of(connection, url)  # there has to be one before it
    k = webhook_keys.c
    kept = select(k.id).where(k.url == url).order_by(k.created_at.desc()).limit(1).scalar_subquery()
    connection.execute(delete(webhook_keys).where(k.url == url, k.id != kept))
    connection.execute(_new_key(url))
    return secrets_of(connection, url)[0]


def _new_key(url: str | None) -> Insert:
    return insert(webhook_keys).values(id=uuid_utils.compat.uuid7(), secret=secrets.token_bytes(32), url=url)


def _derived(master: bytes, url: str) -> str:
    return "whsec_" + base64.b64encode(hmac.digest(master, url.encode(), "sha256")).decode()
