"""What the calls of a trunk have shown of it: its credentials, its caller IDs, its codecs, its gateways.

A thing is *proven* by the newest call that needed it to be right, *refuted* by a newer call that was
refused for it, and *unknown* where there is neither. What was shown before the trunk was last changed
shows nothing of the trunk as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from models.outcome import Disposition
from models.statements import statement
from models.statuses import Status

_AMONG = 100_000
_MOST = 1_000
# Asterisk has these of its own as well: silence, a name not found, a connection refused
_SAID_FOR_IT = {None, 408, 503}


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One that was sent to Asterisk."""

    id: UUID
    call_id: UUID
    gateway_id: UUID
    from_number: str
    status: Status
    disposition: str | None
    sip_code: int | None
    initiated_at: datetime
    ringing_at: datetime | None
    answered_at: datetime | None
    codec: str | None

    @property
    def got_through(self) -> bool:
        """Somebody's phone was reached: the carrier has accepted who we are and from which number we call."""
        return self.ringing_at is not None or self.answered_at is not None or self.status is Status.BUSY

    @property
    def was_answered(self) -> bool:
        return self.answered_at is not None

    @property
    def was_unheard(self) -> bool:
        return self.disposition == Disposition.GATEWAY_UNREACHABLE

    @property
    def was_heard(self) -> bool:
        """The gateway itself said something."""
        return self.got_through or self.sip_code not in _SAID_FOR_IT

    def ended_with(self, disposition: Disposition) -> bool:
        return self.disposition == disposition


@dataclass(frozen=True, kw_only=True)
class Shown:
    """At most one of the two is set: the newest that speaks."""

    proof: Attempt | None = None
    refusal: Attempt | None = None


def attempts_of(connection: Connection, trunk_id: UUID) -> list[Attempt]:
    """The newest attempts of a trunk, newest first."""
    rows = connection.exec_driver_sql(
        statement("trunk_attempts"), {"trunk": trunk_id, "among": _AMONG, "most": _MOST}
    ).mappings()
    return [Attempt(**{**row, "status": Status(row["status"])}) for row in rows]


def shown(
    attempts: Iterable[Attempt], *, proves: Callable[[Attempt], bool], refutes: Callable[[Attempt], bool]
) -> Shown:
    """The newest attempt that proves or refutes; `attempts` are newest first."""
    for attempt in attempts:
        if proves(attempt):
            return Shown(proof=attempt)
        if refutes(attempt):
            return Shown(refusal=attempt)
    return Shown()


def by_number(attempts: Sequence[Attempt], numbers: Iterable[str]) -> dict[str, Shown]:
    """Of each number whether the carrier takes it as caller ID."""
    return {
        number: shown(
            (attempt for attempt in attempts if attempt.from_number == number),
            proves=lambda attempt: attempt.got_through,
            refutes=lambda attempt: attempt.ended_with(Disposition.FORBIDDEN),
        )
        for number in numbers
    }
