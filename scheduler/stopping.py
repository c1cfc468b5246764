"""Pause, stop and hang-up mean it (invariant 9): after they have returned, nothing of it leaves any more.

Each may be asked for again, and does it all again: the first may have been cut short, or not have hung up.

campaign row locked and changed, its queued attempts sent back   (claims read that row FOR SHARE)
  → slots freed
  → at most 5 s for claims that are in hand to show a channel
  → those without one are withdrawn: the gate closes, the listener takes a second look
  → count what is still up; hang it up if asked
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row

from asterisk.pool import AmiError, AmiPool
from asterisk.reconcile import SECOND_LOOK_AFTER
from models import ledger
from models.database import NEVER_IDLE, open_engine, readable_errors
from models.errors import Conflict, NotFound, Unavailable, WrongState
from models.explanations import Ending, Verdict, explain
from models.outcome import Disposition
from models.settings import Settings
from models.slots import Away, Slots
from models.statements import statement
from models.statuses import CAMPAIGN_TRANSITIONS, DIALABLE, FINAL, CampaignStatus, Status
from scheduler.campaigns import lock
from scheduler.housekeeping import STOPPED, cancel_scheduled
from scheduler.presence import open_redis
from scheduler.refs import Ref

IN_HAND = 5.0  # seconds that claims get to show a channel
_ASK_EVERY = 0.05
_ENDS_WITHIN = 10.0
_PAST_THE_GATE = 0.2  # whom Asterisk was told how to reach just before the gate closed, it has sent an INVITE by then


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """What a pause or a stop did."""

    withdrawn: int  #: granted or claimed, and taken back before it was dialled
    canceled: int  #: calls that will not be made any more
    still_up: int  #: calls ringing or talking


def pause(settings: Settings, campaign: Ref) -> Stopped:
    """running → paused. Calls that are up go on.

    Raises NotFound, Conflict, or Unavailable when Postgres, Redis or a node does not answer (the
    campaign is then paused all the same, and the message says what is not known).
    """
    with _Operator.of(settings) as operator:
        return operator.stop_campaign(campaign, CampaignStatus.PAUSED)


def stop(settings: Settings, campaign: Ref, *, hang_up: bool = False) -> Stopped:
    """→ stopped: what is scheduled or queued becomes canceled; with `hang_up` what is up is ended too."""
    with _Operator.of(settings) as operator:
        return operator.stop_campaign(campaign, CampaignStatus.STOPPED, hang_up=hang_up)


def hang_up(settings: Settings, call_id: UUID) -> str:
    """Ends a call that is up or ringing, and cancels one that is still to be made; returns its final status."""
    with _Operator.of(settings) as operator:
        return operator.hang_up(call_id)


def settle(settings: Settings, *, hang_up: Callable[[], bool], progress: Callable[[int], None]) -> None:
    """Before everything is shut down: sends back what is queued, then waits until no call is up.

    `hang_up` is asked again and again: once it says True the calls that are up are ended. The
    scheduler and the workers have been stopped before, the listeners not yet.
    """
    with _Operator.of(settings) as operator:
        operator.settle(hang_up=hang_up, progress=progress)


@dataclass(frozen=True, kw_only=True)
class _Operator:
    engine: Engine
    pool: AmiPool
    slots: Slots

    @classmethod
    @contextmanager
    def of(cls, settings: Settings) -> Iterator[_Operator]:
        slots = Slots(open_redis(settings))
        engine = open_engine(settings, "trunkline-operator", pool_size=2, options=NEVER_IDLE)
        try:
            with readable_errors(), AmiPool(settings.nodes) as pool:
                yield cls(engine=engine, pool=pool, slots=slots)
        finally:
            engine.dispose()

    def stop_campaign(self, campaign: Ref, to: CampaignStatus, *, hang_up: bool = False) -> Stopped:
        with self.engine.begin() as connection:
            campaign_id = self._set_status(connection, campaign, to)
            queued = self._attempts(connection, campaign_id, Status.QUEUED)
            before = self._counts(connection, campaign_id)
            withdrawn = self._withdraw(connection, queued, Status.QUEUED, to)
        self._free(withdrawn)
        canceled = 0
        if to is CampaignStatus.STOPPED:
            canceled = self._cancel_scheduled(campaign_id) - before.canceled
        withdrawn += self._close_gate(lambda: self._dialling(campaign_id), to)
        if hang_up:
            self._hang_up_all(campaign_id)
        return Stopped(withdrawn=len(withdrawn), canceled=canceled, still_up=len(self._up(campaign_id)))

    def settle(self, *, hang_up: Callable[[], bool], progress: Callable[[int], None]) -> None:
        with self.engine.begin() as connection:
            queued = self._attempts(connection, None, Status.QUEUED)
            withdrawn = self._withdraw(connection, queued, Status.QUEUED, CampaignStatus.PAUSED)
        self._free(withdrawn)
        self._close_gate(lambda: self._dialling(None), CampaignStatus.PAUSED)
        while up := self._up(None):
            progress(len(up))
            if hang_up():
                self._hang_up_all(None)
                return
            time.sleep(_ASK_EVERY)

    def hang_up(self, call_id: UUID) -> str:
        deadline = time.monotonic() + _ENDS_WITHIN
        asked = closed = False
        while time.monotonic() < deadline:
            with self.engine.begin() as connection:
                call = connection.exec_driver_sql(statement("call_in_hand"), {"call": call_id}).one_or_none()
                if call is None:
                    raise NotFound("call", str(call_id))
                status = Status(call.status)
                if status in FINAL:
                    if not asked:
                        raise Conflict(f"call: it is over already ({status})")
                    return status.value
                asked = True
                freed: list[UUID] = []
                if status is Status.SCHEDULED:
                    connection.exec_driver_sql(statement("cancel_call"), {"call": call_id, "explanation": STOPPED})
                elif status is Status.QUEUED:
                    freed = self._withdraw(connection, [call.attempt_id], Status.QUEUED, CampaignStatus.STOPPED)
                else:
                    self._request_stop(connection, [call.attempt_id])
            self._free(freed)
            there_is_none = status in DIALABLE and not self._hang_up_one(call.node, call.attempt_id)
            if there_is_none and status is Status.INITIATED and not closed:  # once: it awaits its second look then
                claimed = [(call.attempt_id, call.node)]
                closed = bool(self._close_gate(partial(list, claimed), CampaignStatus.STOPPED))
            time.sleep(_ASK_EVERY)
        raise Unavailable("call: asked to end, but its end was not seen yet: look at it again in a moment")

    def _set_status(self, connection: Connection, campaign: Ref, to: CampaignStatus) -> UUID:
        """Locks the campaign's row: from here on no claim of it goes through."""
        row = lock(connection, campaign)
        if row.status != to:
            if to not in CAMPAIGN_TRANSITIONS[CampaignStatus(row.status)]:
                needed = [state.value for state, follow in CAMPAIGN_TRANSITIONS.items() if to in follow]
                raise WrongState(
                    f"campaign: {row.name!r} is {row.status} and cannot become {to}",
                    state=row.status,
                    needed=" or ".join(needed),
                )
            connection.exec_driver_sql(
                "UPDATE campaigns SET status = %(to)s, pause_reason = NULL, updated_at = now(),"
                " ended_at = CASE WHEN %(to)s = 'stopped' THEN now() END WHERE id = %(id)s",
                {"to": to.value, "id": row.id},
            )
        return UUID(str(row.id))

    def _counts(self, connection: Connection, campaign_id: UUID) -> Row[Any]:
        return connection.exec_driver_sql(
            "SELECT scheduled, canceled FROM campaign_status WHERE campaign_id = %(id)s", {"id": campaign_id}
        ).one()

    def _cancel_scheduled(self, campaign_id: UUID) -> int:
        """Returns how many of it are canceled then. The leader cancels the same calls; those that it has in hand are waited for."""
        with self.engine.connect() as connection:
            deadline = time.monotonic() + IN_HAND
            while True:
                while cancel_scheduled(connection, campaign_id):
                    deadline = time.monotonic() + IN_HAND
                with connection.begin():
                    counts = self._counts(connection, campaign_id)
                if not counts.scheduled or time.monotonic() > deadline:
                    return int(counts.canceled)
                time.sleep(_ASK_EVERY)

    def _dialling(self, campaign_id: UUID | None) -> list[tuple[UUID, str]]:
        """Claimed, and nothing heard of since."""
        with self.engine.begin() as connection:
            rows = connection.exec_driver_sql(statement("dialling_attempts"), {"campaign": campaign_id})
            return [(row.id, row.node) for row in rows]

    def _up(self, campaign_id: UUID | None) -> list[tuple[UUID, str]]:
        with self.engine.begin() as connection:
            rows = connection.exec_driver_sql(statement("up_attempts"), {"campaign": campaign_id})
            return [(row.id, row.node) for row in rows]

    def _attempts(self, connection: Connection, campaign_id: UUID | None, *statuses: Status) -> list[UUID]:
        return list(
            connection.exec_driver_sql(
                statement("campaign_attempts"), {"campaign": campaign_id, "statuses": [s.value for s in statuses]}
            ).scalars()
        )

    def _withdraw(
        self, connection: Connection, ids: Sequence[UUID], of: Status, to: CampaignStatus, *, second_look: bool = False
    ) -> list[UUID]:
        stopped = to is CampaignStatus.STOPPED
        return ledger.withdraw(
            connection,
            ids,
            of={of},
            explanation=STOPPED if stopped else explain(Ending(why=Verdict.TAKEN_BACK)),
            disposition=Disposition.CANCELED if stopped else None,
            second_look_after=SECOND_LOOK_AFTER if second_look else None,
        )

    def _close_gate(self, dialling: Callable[[], Sequence[tuple[UUID, str]]], to: CampaignStatus) -> list[UUID]:
        """Waits for claims in hand to show a channel, and withdraws those that do not."""
        deadline = time.monotonic() + IN_HAND
        while True:
            without = self._without_channel(dialling())
            if not without:
                return []
            if time.monotonic() > deadline:
                break
            time.sleep(_ASK_EVERY)
        with self.engine.begin() as connection:
            withdrawn = self._withdraw(connection, without, Status.INITIATED, to, second_look=True)
        time.sleep(_PAST_THE_GATE)
        return withdrawn

    def _without_channel(self, dialling: Sequence[tuple[UUID, str]]) -> list[UUID]:
        """Of attempts claimed and not heard of since, those that Asterisk has no channel for."""
        without: list[UUID] = []
        for node in {node for _, node in dialling}:
            try:
                live = self.pool.channels(node)
            except AmiError:
                live = set()  # not known: the gate is closed on all of them
            without += [id for id, on in dialling if on == node and str(id) not in live]
        return without

    def _request_stop(self, connection: Connection, ids: Sequence[UUID]) -> None:
        """Its end is ours: an unanswered call that ends after this was canceled."""
        connection.exec_driver_sql(
            "UPDATE attempts SET stop_requested_at = coalesce(stop_requested_at, clock_timestamp())"
            " WHERE id IN (SELECT id FROM attempts WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE)",
            {"ids": list(ids)},
        )

    def _hang_up_all(self, campaign_id: UUID | None) -> None:
        deadline = time.monotonic() + _ENDS_WITHIN
        asked: set[UUID] = set()
        while (up := self._up(campaign_id)) and time.monotonic() < deadline:
            new = [(id, node) for id, node in up if id not in asked]
            with self.engine.begin() as connection:
                self._request_stop(connection, [id for id, _ in new])
            asked |= {id for id, node in new if self._hang_up_one(node, id)}
            time.sleep(_ASK_EVERY)

    def _hang_up_one(self, node: str, attempt_id: UUID) -> bool:
        try:
            return self.pool.hang_up(node, attempt_id)
        except AmiError as error:
            raise Unavailable(f"Asterisk {node}: {error}") from error

    def _free(self, attempt_ids: Sequence[UUID]) -> None:
        with suppress(Away):  # the leader's audit frees them
            self.slots.free(attempt_ids)
