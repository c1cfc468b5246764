"""What was seen of an attempt, and what the ledger should hold after it. Pure; no clock, no database.

Facts are gathered first and the status decided last, so that the order in which they arrive, or how
often, does not change the end. After the end facts still fill in, but the status never moves back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from uuid import UUID

from models.explanations import Ending, explain
from models.outcome import Disposition, Evidence, classify
from models.statuses import DIALABLE, ENDS, Status, may_follow


class Sight(Enum):
    CHANNEL = auto()  #: Asterisk made a channel for it
    RINGING = auto()
    ANSWERED = auto()
    AGENT_LEG = auto()  #: the agent's leg ended; `text` is its DIALSTATUS, or a word of the dialplan's
    CALLEE_HUNG_UP = auto()
    ENDING = auto()  #: the channel is about to go; `at_the_end` is what Asterisk knew of the call by then
    ENDED = auto()  #: the channel is gone; `cause` and `sip_code` where known
    NOT_PLACED = auto()  #: Asterisk refused it and no channel was ever made, in an unbroken stream


@dataclass(frozen=True, kw_only=True, slots=True)
class AtTheEnd:
    """What Asterisk says of a call whose channel is about to go; all but the first two only if it was answered."""

    sip_call_id: str | None = None
    last_reply: int | None = None  #: the status of the last SIP reply that came; 0: none did
    rx_packets: int | None = None
    tx_packets: int | None = None
    rx_lost: int | None = None  #: as we counted
    tx_lost: int | None = None  #: as the far side reported
    codec: str | None = None
    media_address: str | None = None
    agent_status: str | None = None
    hangup_by: str | None = None  #: limit, or agent where nobody else is known to have ended the call


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    attempt_id: UUID
    at: datetime
    sight: Sight
    cause: int | None = None  #: Q.850, as Asterisk derives it
    sip_code: int | None = None
    text: str | None = None
    channel_at: datetime | None = None  #: with ENDED: when its channel was made, where that was heard
    at_the_end: AtTheEnd | None = None  #: with ENDING


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """The part of a row of `attempts` that changes after the claim."""

    id: UUID
    call_id: UUID
    node: str
    status: Status
    disposition: str | None = None
    explanation: str | None = None
    sip_code: int | None = None
    q850_cause: int | None = None
    agent_status: str | None = None
    hangup_by: str | None = None
    stop_requested_at: datetime | None = None
    hold_until: datetime | None = None
    initiated_at: datetime | None = None
    channel_at: datetime | None = None
    ringing_at: datetime | None = None
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    sip_call_id: str | None = None
    last_reply: int | None = None
    rx_packets: int | None = None
    tx_packets: int | None = None
    rx_lost: int | None = None
    tx_lost: int | None = None
    codec: str | None = None
    media_address: str | None = None


_HANGUP_BY = ("trunkline", "agent", "limit", "operator", "callee")
"""Who ended an answered call: of several that are known the last. A later one overrules what was concluded from less."""


def after(row: Attempt, seen: Sequence[Sighting], *, timer_b: timedelta) -> Attempt:
    """What the ledger should hold of `row` once `seen` is known; `row` itself where nothing changes."""
    return _decide(row, _gather(row, seen), seen, timer_b)


def _gather(row: Attempt, seen: Sequence[Sighting]) -> Attempt:
    """The facts of `row` and of `seen` together: the earliest time of each, the first cause."""
    first: dict[Sight, Sighting] = {}
    for sighting in seen:
        known = first.get(sighting.sight)
        if known is None or sighting.at < known.at:
            first[sighting.sight] = sighting

    def time_of(sight: Sight, known: datetime | None) -> datetime | None:
        return known or (first[sight].at if sight in first else None)

    end = first.get(Sight.ENDED)
    answered_at = time_of(Sight.ANSWERED, row.answered_at)
    said = (first[Sight.ENDING].at_the_end if Sight.ENDING in first else None) or AtTheEnd()
    leg = first[Sight.AGENT_LEG].text if Sight.AGENT_LEG in first else None
    last_reply = said.last_reply if row.last_reply is None else row.last_reply
    callee = "callee" if Sight.CALLEE_HUNG_UP in first else None
    return replace(
        row,
        channel_at=time_of(Sight.CHANNEL, row.channel_at or (end.channel_at if end else None)),
        ringing_at=time_of(Sight.RINGING, row.ringing_at),
        answered_at=answered_at,
        agent_status=row.agent_status or leg or said.agent_status,
        hangup_by=_hangup_by(row.hangup_by, callee, said.hangup_by) if answered_at else None,
        # the agent leg's own end shows as a SIP status on an answered call; it is not the carrier's
        sip_code=None if answered_at else _carriers(row.sip_code or (end.sip_code if end else None), last_reply),
        q850_cause=row.q850_cause if row.q850_cause is not None or end is None else end.cause,
        sip_call_id=row.sip_call_id or said.sip_call_id,
        last_reply=last_reply,
        rx_packets=said.rx_packets if row.rx_packets is None else row.rx_packets,
        tx_packets=said.tx_packets if row.tx_packets is None else row.tx_packets,
        rx_lost=said.rx_lost if row.rx_lost is None else row.rx_lost,
        tx_lost=said.tx_lost if row.tx_lost is None else row.tx_lost,
        codec=row.codec or said.codec,
        media_address=row.media_address or said.media_address,
    )


def _carriers(tech_cause: int | None, last_reply: int | None) -> int | None:
    """The carrier's final status: Asterisk has a 408, a 480 and a 503 of its own, and loses one in ten of 3xx."""
    if last_reply is None or tech_cause == last_reply:
        return tech_cause
    is_final = last_reply >= 300 and last_reply not in {401, 407}  # those were answered
    return last_reply if tech_cause is None and is_final else None


def _hangup_by(*known: str | None) -> str | None:
    return max((who for who in known if who), key=_HANGUP_BY.index, default=None)


def _decide(row: Attempt, facts: Attempt, seen: Sequence[Sighting], timer_b: timedelta) -> Attempt:
    end = next((sighting for sighting in seen if sighting.sight is Sight.ENDED), None)
    if row.status in ENDS:
        # its ringing, or its media, may have been reported late
        return facts if ending_of(facts) == ending_of(row) else _explained(facts)
    if end is not None:
        operator = "operator" if facts.stop_requested_at else None
        outcome = classify(
            Evidence(
                answered=facts.answered_at is not None,
                rang=facts.ringing_at is not None,
                stopped=facts.stop_requested_at is not None,
                agent_status=facts.agent_status,
                sip_code=facts.sip_code,
                q850_cause=facts.q850_cause,
                last_reply=facts.last_reply,
                lasted=end.at - (facts.channel_at or facts.initiated_at or end.at),
            ),
            timer_b=timer_b,
        )
        if may_follow(row.status, outcome.status):
            over = replace(
                facts,
                status=outcome.status,
                disposition=outcome.disposition.value,
                ended_at=end.at,
                hangup_by=_hangup_by(facts.hangup_by, operator, "trunkline") if facts.answered_at else None,
                hold_until=None,
            )
            return _explained(over)
        return facts
    if row.status is Status.INITIATED and facts.channel_at is None and any(s.sight is Sight.NOT_PLACED for s in seen):
        return _explained(
            replace(
                facts,
                status=Status.WITHDRAWN,
                disposition=Disposition.NOT_PLACED.value,
                ended_at=seen[-1].at,
            )
        )
    alive = Status.IN_PROGRESS if facts.answered_at else Status.RINGING if facts.ringing_at else Status.INITIATED
    if row.status not in DIALABLE and not (facts.channel_at or facts.ringing_at or facts.answered_at):
        return facts  # nothing that was seen shows a channel
    if alive is not row.status and may_follow(row.status, alive):
        if row.status not in DIALABLE:  # a verdict of ours is overtaken by what was seen
            facts = replace(facts, disposition=None, explanation=None, ended_at=None, hold_until=None)
        return replace(facts, status=alive)
    return facts


def ending_of(row: Attempt) -> Ending | None:
    """What is to be explained of an attempt that is over; None where nothing says why it ended."""
    if row.disposition is None:
        return None
    since = row.channel_at or row.initiated_at
    gave_up = row.disposition == Disposition.NO_ANSWER and row.last_reply is not None and row.sip_code is None
    lasted = row.ended_at - since if gave_up and row.ended_at and since else None
    return Ending(
        why=Disposition(row.disposition),
        rang=row.ringing_at is not None,
        gave_up_after=timedelta(seconds=round(lasted.total_seconds())) if lasted else None,
        last_reply=row.last_reply,
        withdrawn=row.status is Status.WITHDRAWN,
        left=row.status is Status.UNKNOWN and row.hold_until is None,
        sip_code=row.sip_code,
        agent_status=row.agent_status,
        talked=row.ended_at - row.answered_at if row.ended_at and row.answered_at else None,
        rx_packets=row.rx_packets,
        tx_packets=row.tx_packets,
        rx_lost=row.rx_lost,
        tx_lost=row.tx_lost,
    )


def _explained(row: Attempt) -> Attempt:
    """By what was seen alone; the ledger says it again with what is known of the trunk."""
    ending = ending_of(row)
    return replace(row, explanation=explain(ending)) if ending else row


def reached_agent(row: Attempt) -> bool | None:
    """Whether the agent came to talk; None while that is not known, and where the callee did not wait for it."""
    if row.answered_at is None or row.agent_status in {None, "", "CANCEL"}:
        return None
    return row.agent_status == "ANSWER"


def frees_after_cancel(row: Attempt) -> bool:
    """Whether this end may be a CANCEL of ours, which leaves up to 50 ms after Hangup is reported."""
    return row.status in {Status.NO_ANSWER, Status.CANCELED}
