"""One round of granting: pick due calls, take their slots, write their attempts. Publishing comes after the commit.

    look (Redis: how much room)  →  pick (Postgres: lock due calls)  →  take (Redis: all limits or none)
                                 →  write attempts (Postgres)  →  commit

A call that one gateway of its trunk did not deliver goes before everything else, through the next gateway and in the
slot that it has: `hand_over`.

Slots that were taken for a commit that failed are in Redis without a row; the rebuild that follows
every lost connection frees them, and so does the audit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection

from models import ledger
from models.explanations import Ending, Verdict, explain
from models.ledger import DueCall, Grant, HandOver
from models.points import Point, reached
from models.slots import LeaderSlots, Lease, Scope
from scheduler.lines import Campaign, Gateway, Line, Lines
from scheduler.phone_numbers import allowed

MOST_A_ROUND = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a round did. `ask_again_in` is None when only a wake-up, or time, can bring more."""

    attempt_ids: tuple[UUID, ...]
    more_due: bool  #: more is due, or may be, than there was room for
    ask_again_in: timedelta | None
    tried: bool = False  #: a gateway or node on trial has got its call: the lines are to be read again
    given_up: tuple[UUID, ...] = ()  #: attempts whose slot waits for no other gateway any more, to be freed


class Granter:
    """Keeps what is to be remembered between rounds: whose turn it is."""

    def __init__(self, slots: LeaderSlots, new_id: Callable[[], UUID] = uuid_utils.compat.uuid7) -> None:
        self._slots = slots
        self._new_id = new_id
        self._turn = 0

    def grant(self, connection: Connection, lines: Lines) -> Round:
        """Grants what the limits allow now, single calls first. Raises SlotsError; then nothing was committed."""
        if not lines.by_number or not lines.nodes:
            return Round(attempt_ids=(), more_due=False, ask_again_in=None)
        looked = self._slots.take(lines.scopes, [])
        plan = _Plan(lines, looked.room, self._new_id)
        open_numbers = plan.open_numbers()
        most = min(MOST_A_ROUND, sum(plan.room[node.slots_key] for node in lines.nodes.values()))
        if not open_numbers or most <= 0:  # whether more is due is not known, and not worth a query
            return Round(attempt_ids=(), more_due=True, ask_again_in=looked.ask_again_in)
        with connection.begin():
            due = self._pick_alone(connection, plan, open_numbers) if lines.quarantine else []
            planned = [found for call in due if (found := plan.add(call))]
            if not planned:
                due = self._pick(connection, plan, open_numbers, most)
                planned = [found for call in due if (found := plan.add(call))]
            if plan.refused:
                ledger.refuse(connection, plan.refused)
            if not planned:
                self._turn_goes_on(lines, [])
                again = timedelta(0) if plan.refused else looked.ask_again_in  # the next due ones at once
                return Round(attempt_ids=(), more_due=bool(due), ask_again_in=again)
            taken = self._slots.take(lines.scopes, [lease for lease, _ in planned])
            reached(Point.LEADER_TOOK)
            grants = [grant for _, grant in planned if grant.id in taken.granted]
            if grants:
                ledger.grant(connection, grants)
        self._turn_goes_on(lines, grants)
        return Round(
            attempt_ids=tuple(grant.id for grant in grants),
            more_due=True,
            ask_again_in=taken.ask_again_in,
            tried=bool(plan.trials),
        )

    def hand_over(self, connection: Connection, lines: Lines) -> Round:
        """Grants the calls that one gateway did not deliver to the next. Raises SlotsError; then nothing was committed.

        What waits for a rate token stays; what can go no further is given up: its call is due again where its trunk
        is off, its campaign paused or the trial of another gateway under way, and ends where no gateway is left.
        """
        with connection.begin():
            waiting = ledger.lock_hand_overs(connection, MOST_A_ROUND)
            plan = _Plan(lines, {}, self._new_id)
            planned = {before.id: found for before in waiting if (found := plan.add_next(before))}
            taken = self._slots.take(lines.scopes, [lease for lease, _ in planned.values()])
            reached(Point.LEADER_HANDS_OVER)
            grants = {id: grant for id, (_, grant) in planned.items() if grant.id in taken.granted}
            if grants:
                ledger.grant(connection, list(grants.values()))
            given_up = {
                before.id: before.never_left or not plan.is_exhausted(before)
                for before in waiting
                if before.id not in planned
            }
            ledger.end_hand_overs(connection, given_up | dict.fromkeys(grants, False))
        return Round(
            attempt_ids=tuple(grant.id for grant in grants.values()),
            more_due=len(grants) < len(planned),
            ask_again_in=taken.ask_again_in,
            tried=bool(plan.trials),
            given_up=tuple(given_up),
        )

    def _pick(self, connection: Connection, plan: _Plan, open_numbers: Sequence[str], most: int) -> list[DueCall]:
        """As many due calls as there is room for: single calls, then each campaign in turn."""
        due = ledger.pick_single_calls(connection, open_numbers, most, plan.open_agents())
        room = self._room_in_turn(plan, frozenset(open_numbers))
        return due + _in_turn(_pick_shares(connection, room, most - len(due)))

    def _pick_alone(self, connection: Connection, plan: _Plan, open_numbers: Sequence[str]) -> list[DueCall]:
        """A call that may kill its worker: a round of its own, so that no other is in its task."""
        numbers = frozenset(open_numbers)
        campaigns = [campaign.id for campaign in plan.lines.campaigns if plan.room_of_campaign(campaign, numbers) > 0]
        return ledger.pick_quarantined(connection, campaigns, open_numbers, plan.open_agents())

    def _room_in_turn(self, plan: _Plan, open_numbers: Collection[str]) -> dict[UUID, int]:
        """How many calls each campaign has room for; whose turn it is comes first."""
        campaigns = plan.lines.campaigns
        turn = self._turn % max(1, len(campaigns))
        room = {
            campaign.id: plan.room_of_campaign(campaign, open_numbers)
            for campaign in [*campaigns[turn:], *campaigns[:turn]]
        }
        return {id: free for id, free in room.items() if free > 0}

    def _turn_goes_on(self, lines: Lines, grants: Sequence[Grant]) -> None:
        """To the campaign after the last that got a call; by one where none did, since it may be that none can."""
        last = next((grant.campaign_id for grant in reversed(grants) if grant.campaign_id), None)
        self._turn = next((at for at, campaign in enumerate(lines.campaigns) if campaign.id == last), self._turn) + 1


class _Plan:
    """Which calls are to go out by which number, trunk, gateway and node, within the room that there is."""

    def __init__(self, lines: Lines, room: Mapping[str, int], new_id: Callable[[], UUID]) -> None:
        self.lines = lines
        self.room = Counter(room)
        for name in lines.nodes_on_trial:
            key = lines.nodes[name].slots_key
            self.room[key] = min(self.room[key], 1)
        self.trials: set[UUID | str] = set()  #: gateways and nodes on trial that this plan gives their call
        self.refused: dict[UUID, str] = {}  #: calls that no trunk may make, with the reason
        self._new_id = new_id
        self._campaigns = {campaign.id: campaign for campaign in lines.campaigns}

    def open_numbers(self) -> list[str]:
        """The numbers whose trunk has room and a gateway that takes calls."""
        return [line.phone_number for line in self.lines.by_number.values() if self.room_of(line) > 0]

    def open_agents(self) -> list[UUID]:
        """The agents of a limit that have room."""
        return [id for id, scope in self.lines.agents.items() if self.room[scope.slots_key] > 0]

    def room_of(self, line: Line) -> int:
        """How many more calls the trunk of this line takes; as many as it has gateways if all of them are on trial."""
        room = self.room[line.trunk.slots_key]
        if room <= 0 or any(not gateway.on_trial for gateway in self.lines.gateways.get(line.trunk_id, ())):
            return room
        return min(room, len(self._usable(line.trunk_id)))

    def room_of_campaign(self, campaign: Campaign, open_numbers: Collection[str]) -> int:
        """How many more calls of the campaign there is room for, by its open numbers."""
        trunks = {
            line.trunk.slots_key: self.room_of(line)
            for number in campaign.from_numbers
            if number in open_numbers and (line := self.lines.by_number.get(number))
        }
        limits = [scope for scope in (campaign.scope, self.lines.agents.get(campaign.agent_id)) if scope]
        return min([sum(trunks.values()), *(self.room[scope.slots_key] for scope in limits)])

    def add(self, call: DueCall) -> tuple[Lease, Grant] | None:
        """None where there is no room for the call, or no trunk of its numbers may make it (`refused`)."""
        campaign = self._campaigns.get(call.campaign_id) if call.campaign_id else None
        line = self._line(call, campaign)
        node = self._roomiest_node()
        agent = self.lines.agents.get(call.agent_id)
        if line is None or any(self.room[scope.slots_key] <= 0 for scope in (node, agent) if scope):
            return None
        scopes = self._scopes(line, node, campaign, agent)
        for scope in scopes:
            self.room[scope.slots_key] -= 1
        self._note_trial(node)
        attempt_id = self._new_id()
        return Lease(attempt_id=attempt_id, scopes=scopes), Grant(
            id=attempt_id,
            call_id=call.id,
            campaign_id=call.campaign_id,
            trunk_id=line.trunk_id,
            gateway_id=self._next_gateway(line.trunk_id, ()),
            node=node.id,
            dialed_number=line.dialed(call.phone_number),
            from_number=line.phone_number,
        )

    def add_next(self, before: HandOver) -> tuple[Lease, Grant] | None:
        """The attempt after this one, in its slot and by the next gateway; None where it cannot go on."""
        line = self.lines.by_number.get(before.from_number)
        node = self.lines.nodes.get(before.node)
        tried = (*before.tried_gateways, before.gateway_id)
        if not before.waits or line is None or line.trunk_id != before.trunk_id:
            return None
        if node is None or node.id in self.trials:
            return None
        if not self._usable(line.trunk_id, tried) or not allowed(before.phone_number, line.prefixes):
            return None
        campaign = self._campaigns.get(before.campaign_id) if before.campaign_id else None
        agent = self.lines.agents.get(before.agent_id) if before.agent_id else None
        self._note_trial(node)
        attempt_id = self._new_id()
        lease = Lease(attempt_id=attempt_id, scopes=self._scopes(line, node, campaign, agent), takes_over=before.id)
        return lease, Grant(
            id=attempt_id,
            call_id=before.call_id,
            campaign_id=before.campaign_id,
            trunk_id=before.trunk_id,
            gateway_id=self._next_gateway(line.trunk_id, tried),
            node=before.node,
            dialed_number=before.dialed_number,
            from_number=before.from_number,
            tried_gateways=tried,
        )

    def is_exhausted(self, before: HandOver) -> bool:
        """Nothing else is in its way than that no gateway is left to try, not even one whose trial is under way."""
        line = self.lines.by_number.get(before.from_number)
        tried = {*before.tried_gateways, before.gateway_id}
        return before.waits and line is not None and {g.id for g in self.lines.gateways.get(line.trunk_id, ())} <= tried

    def _scopes(self, line: Line, node: Scope, campaign: Campaign | None, agent: Scope | None) -> tuple[Scope, ...]:
        limits = (line.trunk, node, campaign.scope if campaign else None, agent)
        return tuple(scope for scope in limits if scope)

    def _roomiest_node(self) -> Scope:
        """Before all others one on trial, so that it gets its call."""

        def rank(node: Scope) -> tuple[bool, int]:
            room = self.room[node.slots_key]
            return room > 0 and node.id in self.lines.nodes_on_trial, room

        return max(self.lines.nodes.values(), key=rank)

    def _note_trial(self, node: Scope) -> None:
        if node.id in self.lines.nodes_on_trial:
            self.trials.add(node.id)

    def _line(self, call: DueCall, campaign: Campaign | None) -> Line | None:
        """The call's own number, or the next of its campaign's in rotation whose trunk has room and may call there.

        The prefixes were looked at when the call was taken in, too; the trunk may have been changed since.
        """
        numbers = campaign.from_numbers if campaign else (call.from_number or "",)
        start = call.id.int % len(numbers)
        refusing: list[Line] = []
        for number in (*numbers[start:], *numbers[:start]):
            line = self.lines.by_number.get(number)
            if line and not allowed(call.phone_number, line.prefixes):
                refusing.append(line)
            elif line and self.room_of(line) > 0:
                return line
        if len(refusing) == len(numbers):
            prefixes = ", ".join(sorted({prefix for line in refusing for prefix in line.prefixes})) or "nothing"
            self.refused[call.id] = explain(Ending(why=Verdict.NOT_ALLOWED, error=prefixes))
        return None

    def _usable(self, trunk_id: UUID, tried: Collection[UUID] = ()) -> list[Gateway]:
        """The trunk's gateways that take a call now, in the order they are tried."""
        return [
            gateway
            for gateway in self.lines.gateways.get(trunk_id, ())
            if not gateway.busy and gateway.id not in self.trials and gateway.id not in tried
        ]

    def _next_gateway(self, trunk_id: UUID, tried: Collection[UUID]) -> UUID:
        gateway = self._usable(trunk_id, tried)[0]
        if gateway.on_trial:
            self.trials.add(gateway.id)
        return gateway.id


def _pick_shares(connection: Connection, room: Mapping[UUID, int], most: int) -> list[list[DueCall]]:
    """`most` due calls, an equal share of each campaign's; what some do not need goes to those that have more.

    Every call that is picked is locked, which is a write: to ask each of a thousand campaigns for all that there is room
    for took seconds.
    """
    picked: dict[UUID, list[DueCall]] = {}
    asked, left = room, most
    while asked and left > 0:
        before = {id: len(picked.get(id, ())) for id in asked}
        share = -(-left // len(asked))
        wanted = {id: min(free, before[id] + share) for id, free in asked.items()}
        # what is ours already comes once more, and first
        again = [picked.pop(id) for id in asked if id in picked]
        for call in ledger.pick_campaign_calls(connection, wanted, most=left + sum(map(len, again))):
            picked.setdefault(call.campaign_id or call.id, []).append(call)
        left = most - sum(map(len, picked.values()))
        asked = {id: free for id, free in asked.items() if len(picked.get(id, ())) == wanted[id] < free}
    return list(picked.values())


def _in_turn(queues: list[list[DueCall]]) -> list[DueCall]:
    """One of each, then the next of each."""
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[at] for at in range(longest) for queue in queues if at < len(queue)]
