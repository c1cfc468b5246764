"""The ledger's side of an upload: chunks in, and either a ready campaign or nothing.

    (no campaign) ──▶ loading ──▶ ready
          ▲              │
          └──────────────┘  refused, interrupted, or its loader died

A campaign is `loading` for as long as its loader is at it, which holds an advisory lock on it on the very
connection that writes: whoever can take the lock knows that nobody will write any more, and removes what
is there. Chunks are committed one by one, so that an upload of any size holds no long transaction; no
reader takes a call of a campaign that is still `loading`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, cast
from uuid import UUID

import psycopg
import uuid_utils
from sqlalchemy import Connection, Engine, TextClause, insert, or_, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from models.errors import Busy, Conflict, NotFound
from models.schema import campaigns, deleted_campaigns
from models.statuses import CampaignStatus
from scheduler.idempotency import Asked, forget, thing_for

_LOADERS = 0x6C6F6164  # "load": the first half of the lock's key; the second is the campaign
_DELETED_AT_ONCE = 10_000

_HOLD = text("SELECT pg_try_advisory_lock(:space, hashtext(:id))")
_WAIT = text("SELECT pg_advisory_xact_lock(:space, hashtext(:id))")
_TRY = text("SELECT pg_try_advisory_xact_lock(:space, hashtext(:id))")

# a lookup for each number, whatever the statistics of a table that is being filled say
_KNOWN = """
SELECT c.phone_number, c.line_number
FROM unnest(%(numbers)s::text[]) AS n (phone_number)
CROSS JOIN LATERAL (
  SELECT phone_number, line_number FROM calls WHERE campaign_id = %(id)s AND phone_number = n.phone_number LIMIT 1
) c
"""

_SO_FAR = text("""
UPDATE campaigns
SET rows = rows + :rows, accepted = accepted + :accepted, rejected = rejected + :rejected, duplicate = duplicate + :duplicate, updated_at = now()
WHERE id = :id
""")

_READY = text("""
UPDATE campaigns
SET status = 'ready', rows = :rows, accepted = :accepted, rejected = :rejected, duplicate = :duplicate, updated_at = now()
WHERE id = :id AND status = 'loading'
""")

_STILL_LOADING = text("SELECT FROM campaigns WHERE id = :id AND status = 'loading' FOR UPDATE")
_DELETE_CALLS = text("DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE campaign_id = :id LIMIT :limit)")
_DELETE_REJECTED = text("""
DELETE FROM rejected_rows
WHERE campaign_id = :id
  AND line_number IN (SELECT line_number FROM rejected_rows WHERE campaign_id = :id LIMIT :limit)
""")
_DELETE_COUNTS = (
    text("DELETE FROM campaign_count_deltas WHERE campaign_id = :id"),
    text("DELETE FROM campaign_counts WHERE campaign_id = :id"),
)
_DELETE_CAMPAIGN = text("DELETE FROM campaigns WHERE id = :id")


Person = tuple[int, str | None, str]
"""Line, name and variables of a recipient."""


class Rejection(NamedTuple):
    """A row that does not become a call."""

    line_number: int
    kind: str  #: `rejected` or `duplicate`
    reason: str
    row: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How the rows of an upload ended; `accepted + rejected + duplicate + suppressed = rows`."""

    rows: int
    accepted: int
    rejected: int
    duplicate: int
    suppressed: int = 0


@dataclass(frozen=True, kw_only=True)
class NewCampaign:
    """A campaign to be loaded; everything in it has been checked."""

    id: UUID
    name: str
    agent: str
    agent_id: UUID
    from_numbers: Sequence[str]
    max_concurrent_calls: int | None
    webhook_url: str | None
    retry_config: Mapping[str, object] | None
    file_name: str
    header: str
    asked: Asked | None  #: the request that it is made for, which is known from its first row on


@dataclass(frozen=True, kw_only=True)
class Load:
    """A campaign that is being filled by us and by nobody else."""

    campaign_id: UUID
    agent_id: UUID
    due_at: datetime  #: one for the whole upload: the calls' ids keep the order of the file
    connection: Connection

    def write(self, people: Mapping[str, Person], rejections: Sequence[Rejection]) -> None:
        """Commits a chunk, by number. The numbers must be new to the campaign (`known`) and in the order of the file."""
        campaign, agent, due = str(self.campaign_id), str(self.agent_id), self.due_at.isoformat()
        with self.connection.begin():
            with (
                self._cursor() as cursor,
                cursor.copy(
                    "COPY calls (id, campaign_id, agent_id, phone_number, name, variables, line_number, due_at) FROM STDIN"
                ) as copy,
            ):
                for number, (line, name, variables) in people.items():
                    copy.write_row((str(uuid_utils.uuid7()), campaign, agent, number, name, variables, line, due))
            if rejections:
                with (
                    self._cursor() as cursor,
                    cursor.copy("COPY rejected_rows (campaign_id, line_number, kind, reason, row) FROM STDIN") as copy,
                ):
                    for rejection in rejections:
                        copy.write_row((campaign, *rejection))
            kinds = Counter(rejection.kind for rejection in rejections)
            so_far = {"accepted": len(people), "rejected": kinds["rejected"], "duplicate": kinds["duplicate"]}
            self.connection.execute(_SO_FAR, {"id": campaign, "rows": sum(so_far.values()), **so_far})

    def known(self, numbers: Sequence[str]) -> dict[str, int]:
        """Those that the campaign has already, with the line of each."""
        with self.connection.begin(), self._cursor() as cursor:
            return dict(cursor.execute(_KNOWN, {"id": self.campaign_id, "numbers": list(numbers)}).fetchall())

    def finish(self, counts: Counts) -> None:
        """The campaign is ready, with its counts, in one statement."""
        values = {name: getattr(counts, name) for name in ("rows", "accepted", "rejected", "duplicate")}
        with self.connection.begin():
            done = self.connection.execute(_READY, {"id": self.campaign_id, **values})
            if done.rowcount != 1:
                raise Conflict("campaign: was removed while it was being uploaded; upload it again")

    def _cursor(self) -> psycopg.Cursor[Any]:
        # COPY is psycopg's own
        return cast("psycopg.Connection[Any]", self.connection.connection.driver_connection).cursor()


@contextmanager
def loading(engine: Engine, campaign: NewCampaign, due_at: datetime) -> Iterator[Load]:
    """A campaign to fill; if the block ends with an error, a Ctrl-C included, nothing of it is left.

    Raises `Conflict` if there is a campaign of this name, `Busy` if this very campaign, or another for the same request, is
    being loaded already. When Postgres goes away, what is left is removed by `remove_dead_loads`.
    """
    held = False
    _remove_dead_namesake(engine, campaign.name)
    with engine.connect() as connection:
        try:
            _hold(connection, campaign.id)
            held = True
            _create(connection, campaign)
            yield Load(campaign_id=campaign.id, agent_id=campaign.agent_id, due_at=due_at, connection=connection)
            connection.invalidate()  # closed, not pooled: the lock ends with it
        except BaseException:
            connection.invalidate()
            with suppress(DBAPIError), engine.connect() as other:
                while held and _remove_some(other, campaign.id, _WAIT) is _Removal.MORE:
                    pass
            raise


def remove_dead_loads(connection: Connection, *, limit: int = 50_000) -> list[str]:
    """Removes the campaigns that are `loading` with nobody loading them, and says their names.

    Commits as it goes and deletes about `limit` rows, so that one call takes about a second; what is left
    is for the next call. The connection must not be in a transaction.
    """
    with connection.begin():
        found = connection.execute(
            select(campaigns.c.id, campaigns.c.name).where(campaigns.c.status == CampaignStatus.LOADING)
        ).all()
    removed = []
    batches = max(1, limit // _DELETED_AT_ONCE)
    for campaign_id, name in found:
        outcome = _Removal.MORE
        while outcome is _Removal.MORE and batches > 0:
            batches -= 1
            outcome = _remove_some(connection, campaign_id, _TRY)
        if outcome is _Removal.GONE:
            removed.append(name)
    return removed


def was_loaded(connection: Connection, campaign_id: UUID) -> bool:
    """Whether there is or was such a campaign with all its calls."""
    loaded = campaigns.select().where(campaigns.c.id == campaign_id, campaigns.c.status != CampaignStatus.LOADING)
    deleted = deleted_campaigns.select().where(deleted_campaigns.c.id == campaign_id)
    return bool(connection.scalar(select(or_(loaded.exists(), deleted.exists()))))


def was_refused(connection: Connection, campaign_id: UUID, asked: Asked) -> None:
    """The key of a request that was refused is free again, unless somebody else has loaded the campaign since, or does."""
    connection.execute(_WAIT, {"space": _LOADERS, "id": str(campaign_id)})
    if not was_loaded(connection, campaign_id):
        forget(connection, asked, campaign_id)


def remove_piece(connection: Connection, campaign_id: UUID, limit: int) -> bool:
    """Deletes so many calls, with their attempts, or rejected rows of a campaign that nobody writes to; False when none is left."""
    of = {"id": str(campaign_id)}
    for delete in (_DELETE_CALLS, _DELETE_REJECTED):
        if connection.execute(delete, {**of, "limit": limit}).rowcount == limit:
            return True
    for delete in _DELETE_COUNTS:
        connection.execute(delete, of)
    return False


def _hold(connection: Connection, campaign_id: UUID) -> None:
    with connection.begin():
        if not connection.scalar(_HOLD, {"space": _LOADERS, "id": str(campaign_id)}):
            raise _busy(campaign_id)


def _busy(campaign_id: UUID) -> Busy:
    return Busy(f"campaign: {campaign_id} is being loaded: ask again in a moment")


def _create(connection: Connection, campaign: NewCampaign) -> None:
    values = {
        "id": campaign.id,
        "name": campaign.name,
        "agent_id": campaign.agent_id,
        "from_numbers": list(campaign.from_numbers),
        "status": CampaignStatus.LOADING,
        "max_concurrent_calls": campaign.max_concurrent_calls,
        "webhook_url": campaign.webhook_url,
        "retry_config": campaign.retry_config,
        "file_name": campaign.file_name,
        "header": campaign.header,
    }
    try:
        with connection.begin():
            if campaign.asked and thing_for(connection, campaign.asked, campaign.id) != campaign.id:
                raise _busy(campaign.id)  # another has come first
            connection.execute(insert(campaigns).values(values))
    except IntegrityError as error:
        if isinstance(error.orig, psycopg.errors.UniqueViolation):
            raise Conflict(f"campaign: there is a campaign {campaign.name!r} already: choose another name") from error
        raise NotFound("agent", campaign.agent) from error


def _remove_dead_namesake(engine: Engine, name: str) -> None:
    with engine.connect() as connection:
        with connection.begin():
            campaign_id = connection.scalar(
                select(campaigns.c.id).where(campaigns.c.name == name, campaigns.c.status == CampaignStatus.LOADING)
            )
        while campaign_id is not None and _remove_some(connection, campaign_id, _TRY) is _Removal.MORE:
            pass


class _Removal(Enum):
    GONE = "gone"
    MORE = "there is more to delete"
    KEPT = "it has a loader, or is no longer loading"


def _remove_some(connection: Connection, campaign_id: UUID, lock: TextClause) -> _Removal:
    """One transaction with a bounded number of rows, holding the loader's lock: calls first, the campaign last."""
    of = {"id": str(campaign_id)}
    with connection.begin():
        locked = connection.scalar(lock, {"space": _LOADERS, **of})
        if locked is False or connection.execute(_STILL_LOADING, of).first() is None:
            return _Removal.KEPT
        if remove_piece(connection, campaign_id, _DELETED_AT_ONCE):
            return _Removal.MORE
        connection.execute(_DELETE_CAMPAIGN, of)
        return _Removal.GONE
