"""Asterisk's own mark that it made a channel: a key in its database, in a family of the day.

The Originate carries `DB(att<day>/<attempt>)=1`; Asterisk writes it the moment the channel exists,
also while Postgres is away.
"""

from __future__ import annotations

from datetime import UTC, datetime


def mark_family(claimed_at: datetime) -> str:
    return f"att{claimed_at.astimezone(UTC):%Y%m%d}"
