"""Asterisk's own mark that it made a channel: a key in its database, in a family of the hour.

The Originate carries `DB(att<hour>/<attempt>)=1`; Asterisk writes it the moment the channel exists,
also while Postgres is away. It is forgotten when nobody will look it up any more.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from asterisk.pool import AmiPool

_KEPT = timedelta(days=7)
_ONE_HOUR = timedelta(hours=1)


def mark_family(attempt_id: UUID) -> str:
    """By the hour that the id (version 7) was made in: who marks and who looks agree, whatever their clocks say."""
    return _family(datetime.fromtimestamp((attempt_id.int >> 80) / 1000, UTC))


def _family(at: datetime) -> str:
    return f"att{at:%Y%m%d%H}"


def forget_old_marks(connection: Connection, node: str, pool: AmiPool) -> bool:
    """Has Asterisk forget the next hour that has come to be old enough; whether there is one more. Raises `AmiError`.

    An hour at a time, since nothing is dialled while Asterisk looks through its database: 0.7 s for 42,000 of 7 million
    marks, measured; a day at a time it was ten seconds, in which Asterisk answered nobody. Which hours there are is known
    from the last one; a list of the marks may be a million long.
    """
    newest = (datetime.now(UTC) - _KEPT).replace(minute=0, second=0, microsecond=0) - _ONE_HOUR
    with connection.begin():
        forgotten: datetime | None = connection.exec_driver_sql(
            "SELECT marks_forgotten_to FROM nodes WHERE name = %(node)s", {"node": node}
        ).scalar()
    hour = forgotten + _ONE_HOUR if forgotten else newest
    if hour > newest:
        return False
    pool.forget_marks(node, _family(hour))
    with connection.begin():
        connection.exec_driver_sql(
            "UPDATE nodes SET marks_forgotten_to = %(hour)s WHERE name = %(node)s", {"hour": hour, "node": node}
        )
    return hour < newest
