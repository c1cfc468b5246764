"""An AMI event → a sighting of one of our attempts.

An attempt's id is its ActionID, its channel's Uniqueid and, in the dial events of an Originate, the
DestUniqueid. The agent's leg has an id of its own and is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from asterisk.connection import AmiMessage
from models.sightings import AtTheEnd, Sight, Sighting

_MOST_REMEMBERED = 50_000
_REDIRECTED = 23  # Q.850, redirected to new destination
_STATES = {"Ringing": Sight.RINGING, "Up": Sight.ANSWERED}
_DIAL_STATES = {"RINGING": Sight.RINGING, "PROGRESS": Sight.RINGING, "ANSWER": Sight.ANSWERED}


class Interpreter:
    """Reads one unbroken stream of events; make a new one after every gap.

    It remembers which channels were made, because OriginateResponse says Failure also for a channel
    that was made (then Hangup decides) and for a duplicate of a live one; and which were redirected,
    because the Hangup after a 3xx has lost its cause in one of ten.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._channels: dict[UUID, datetime] = {}
        self._redirected: set[UUID] = set()

    def read(self, event: AmiMessage) -> Sighting | None:
        """What this event shows of an attempt; None if it is about something else."""
        match event.name:
            case "Newchannel":
                sighting = self._sighting(event, "Uniqueid", Sight.CHANNEL)
                if sighting:
                    self._remember(sighting)
                return sighting
            case "Newstate":
                return self._sighting(event, "Uniqueid", _STATES.get(event.get("ChannelStateDesc")))
            case "DialState" | "DialEnd" if not event.get("Uniqueid"):
                sighting = self._sighting(event, "DestUniqueid", _DIAL_STATES.get(event.get("DialStatus")))
                redirected = self._sighting(event, "DestUniqueid", Sight.ENDED) if event.get("Forward") else None
                if redirected and redirected.attempt_id in self._channels:
                    self._redirected.add(redirected.attempt_id)
                return sighting
            case "OriginateResponse":
                return self._originate_response(event)
            case "HangupRequest":
                return self._sighting(event, "Uniqueid", Sight.CALLEE_HUNG_UP)
            case "UserEvent" if event.get("UserEvent") == "AgentLeg":
                return self._sighting(event, "Uniqueid", Sight.AGENT_LEG, text=event.get("status"))
            case "UserEvent" if event.get("UserEvent") == "CallEnd":
                sighting = self._sighting(event, "Uniqueid", Sight.ENDING)
                return replace(sighting, at_the_end=_at_the_end(event)) if sighting else None
            case "Hangup":
                return self._hangup(event)
            case _:
                return None

    def _remember(self, made: Sighting) -> None:
        self._channels[made.attempt_id] = made.at
        if len(self._channels) > _MOST_REMEMBERED:  # in the order they were made: the oldest are over by far
            oldest = next(iter(self._channels))
            del self._channels[oldest]
            self._redirected.discard(oldest)

    def _hangup(self, event: AmiMessage) -> Sighting | None:
        """The end, with when its channel was made. What is over is remembered: OriginateResponse may come after it."""
        sip_code = _number(event.get("TechCause")) or None
        ended = self._sighting(event, "Uniqueid", Sight.ENDED, cause=_number(event.get("Cause")), sip_code=sip_code)
        if ended is None:
            return None
        redirected = ended.attempt_id in self._redirected
        self._redirected.discard(ended.attempt_id)
        cause = _REDIRECTED if redirected and not sip_code else ended.cause
        return replace(ended, cause=cause, channel_at=self._channels.get(ended.attempt_id))

    def _originate_response(self, event: AmiMessage) -> Sighting | None:
        if event.get("Response") == "Success":
            return self._sighting(event, "ActionID", Sight.ANSWERED)
        sighting = self._sighting(event, "ActionID", Sight.NOT_PLACED)
        return None if sighting is None or sighting.attempt_id in self._channels else sighting

    def _sighting(
        self,
        event: AmiMessage,
        header: str,
        sight: Sight | None,
        *,
        cause: int | None = None,
        sip_code: int | None = None,
        text: str | None = None,
    ) -> Sighting | None:
        id = event.get(header)
        if sight is None or len(id) != 36:
            return None
        try:
            attempt_id = UUID(id)
        except ValueError:
            return None
        return Sighting(
            attempt_id=attempt_id, at=self._time(event), sight=sight, cause=cause, sip_code=sip_code, text=text
        )

    def _time(self, event: AmiMessage) -> datetime:
        """Asterisk's own (`timestampevents=yes`), so that a late reader does not shift it; else ours."""
        try:
            return datetime.fromtimestamp(float(event.get("Timestamp")), UTC)
        except ValueError:
            return self._now()


def _at_the_end(event: AmiMessage) -> AtTheEnd:
    """What the hangup handler says; all but the Call-ID and the last reply is of an answered call only."""
    counted = dict(pair.split("=", 1) for pair in event.get("rtcp").split(";") if "=" in pair)
    received = _count(counted.get("rxcount", ""))
    return AtTheEnd(
        sip_call_id=event.get("callid") or None,
        last_reply=_last_reply(event.get("said")),
        rx_packets=received,
        tx_packets=_count(counted.get("txcount", "")),
        # where not one packet had come, 1 was seen as lost
        rx_lost=_count(counted.get("lp", "")) if received else received,
        tx_lost=_count(counted.get("rlp", "")),
        codec=event.get("codec").strip("()") or None,
        media_address=event.get("remote") or None,
        agent_status=event.get("leg") or None,
        hangup_by="limit" if _struck(event.get("left")) else "agent" if event.get("ended") == "agent" else None,
    )


def _last_reply(said: str) -> int | None:
    """`[486]` → 486, `[]` → 0: nothing; None where the dialplan does not say."""
    return (_number(said.strip("[]")) or 0) if said else None


def _struck(left: str) -> bool:
    """Whether no time was left of TIMEOUT(absolute); a plain 0 is one that is not set (func_timeout.c)."""
    try:
        return left != "0" and float(left) <= 0
    except ValueError:
        return False


def _count(text: str) -> int | None:
    """Packets; a far side that reports a negative loss (RFC 3550, 6.4.1) shows as one beyond all counting."""
    number = _number(text)
    return number if number is not None and number < 1 << 31 else None


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
