"""One round of granting: pick due calls, take their slots, write their attempts. Publishing comes after the commit.

    look (Redis: how much room)  →  pick (Postgres: lock due calls)  →  take (Redis: all limits or none)
                                 →  write attempts (Postgres)  →  commit

Slots that were taken for a commit that failed are in Redis without a row; the rebuild that follows
every lost connection frees them, and so does the audit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection

from models import ledger
from models.ledger import DueCall, Grant
from models.slots import LeaderSlots, Lease, Scope
from scheduler.lines import Campaign, Line, Lines

MOST_A_ROUND = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a round did. `ask_again_in` is None when only a wake-up, or time, can bring more."""

    attempt_ids: tuple[UUID, ...]
    more_due: bool  #: more is due, or may be, than there was room for
    ask_again_in: timedelta | None


class Granter:
    """Keeps what is to be remembered between rounds: whose turn it is."""

    def __init__(self, slots: LeaderSlots, new_id: Callable[[], UUID] = uuid_utils.compat.uuid7) -> None:
        self._slots = slots
        self._new_id = new_id
        self._turn = 0

    def grant(self, connection: Connection, lines: Lines) -> Round:
        """Grants what the limits allow now, single calls first. Raises SlotsError; then nothing was committed."""
        scopes = lines.scopes
        if not lines.by_number or not lines.nodes:
            return Round(attempt_ids=(), more_due=False, ask_again_in=None)
        looked = self._slots.take(scopes, [])
        room = Counter(looked.room)
        open_numbers = [line.phone_number for line in lines.by_number.values() if room[line.trunk.slots_key] > 0]
        most = min(MOST_A_ROUND, sum(room[node.slots_key] for node in lines.nodes.values()))
        if not open_numbers or most <= 0:  # whether more is due is not known, and not worth a query
            return Round(attempt_ids=(), more_due=True, ask_again_in=looked.ask_again_in)
        with connection.begin():
            due = self._pick(connection, lines, room, open_numbers, most)
            plan = [found for call in due if (found := self._plan(call, lines, room))]
            if not plan:
                return Round(attempt_ids=(), more_due=bool(due), ask_again_in=looked.ask_again_in)
            taken = self._slots.take(scopes, [lease for lease, _ in plan])
            grants = [grant for _, grant in plan if grant.id in taken.granted]
            if grants:
                ledger.grant(connection, grants)
        return Round(attempt_ids=tuple(grant.id for grant in grants), more_due=True, ask_again_in=taken.ask_again_in)

    def _pick(
        self, connection: Connection, lines: Lines, room: Mapping[str, int], open_numbers: Sequence[str], most: int
    ) -> list[DueCall]:
        """As many due calls as there is room for: single calls, then each campaign in turn."""
        due = ledger.pick_single_calls(connection, open_numbers, most)
        wanted = self._wanted(lines, room, most - len(due))
        if wanted:
            by_campaign: dict[UUID, list[DueCall]] = {}
            for call in ledger.pick_campaign_calls(connection, wanted):
                by_campaign.setdefault(call.campaign_id or call.id, []).append(call)
            due += _in_turn(list(by_campaign.values()))
        return due

    def _wanted(self, lines: Lines, room: Mapping[str, int], most: int) -> dict[UUID, int]:
        """How many calls to ask of each campaign; whose turn it is goes on by one each round."""
        wanted: dict[UUID, int] = {}
        if not lines.campaigns or most <= 0:
            return wanted
        self._turn = (self._turn + 1) % len(lines.campaigns)
        for campaign in [*lines.campaigns[self._turn :], *lines.campaigns[: self._turn]]:
            trunks = {
                line.trunk.slots_key: room[line.trunk.slots_key]
                for number in campaign.from_numbers
                if (line := lines.by_number.get(number))
            }
            free = sum(trunks.values())
            if campaign.scope:
                free = min(free, room[campaign.scope.slots_key])
            if free > 0:
                wanted[campaign.id] = min(free, most)
        return wanted

    def _plan(self, call: DueCall, lines: Lines, room: Counter[str]) -> tuple[Lease, Grant] | None:
        """Which number, trunk and node the call would go by; None where there is no room for it."""
        campaign = next((c for c in lines.campaigns if c.id == call.campaign_id), None) if call.campaign_id else None
        line = self._line(call, campaign, lines, room)
        node = max(lines.nodes.values(), key=lambda scope: room[scope.slots_key])
        if line is None or room[node.slots_key] <= 0:
            return None
        scopes: tuple[Scope, ...] = (line.trunk, node)
        if campaign and campaign.scope:
            scopes += (campaign.scope,)
        for scope in scopes:
            room[scope.slots_key] -= 1
        attempt_id = self._new_id()
        return Lease(attempt_id=attempt_id, scopes=scopes), Grant(
            id=attempt_id,
            call_id=call.id,
            campaign_id=call.campaign_id,
            trunk_id=line.trunk_id,
            gateway_id=line.gateway_id,
            node=node.id,
            dialed_number=line.dialed(call.phone_number),
            from_number=line.phone_number,
        )

    def _line(self, call: DueCall, campaign: Campaign | None, lines: Lines, room: Mapping[str, int]) -> Line | None:
        """The call's own number, or the next of its campaign's in rotation whose trunk has room."""
        numbers = campaign.from_numbers if campaign else (call.from_number or "",)
        start = call.id.int % len(numbers)
        for number in (*numbers[start:], *numbers[:start]):
            line = lines.by_number.get(number)
            if line and room[line.trunk.slots_key] > 0:
                return line
        return None


def _in_turn(queues: list[list[DueCall]]) -> list[DueCall]:
    """One of each, then the next of each."""
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[at] for at in range(longest) for queue in queues if at < len(queue)]
