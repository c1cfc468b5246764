"""How often something had to be put right. None of it is an error that anybody has to mend; many of them are a question."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import Connection

from models.statements import statement


class Repair(StrEnum):
    """What was put right. The words are the metric's labels."""

    LEASE_PUT_BACK = "lease-put-back"  #: an open attempt had no slot: the audit gave it one
    LEASE_FREED = "lease-freed"  #: a slot was held for nobody: the audit freed it
    LEASE_EXPIRED = "lease-expired"  #: before its attempt's end was known
    SLOTS_REBUILT = "slots-rebuilt"  #: from the ledger: a new leader, or a Redis in doubt
    TASK_PUBLISHED_AGAIN = "task-published-again"  #: it was not claimed in time, or lost
    GRANT_VOIDED = "grant-voided"  #: nobody claimed it for half a minute
    ATTEMPT_WITHDRAWN = "attempt-withdrawn"  #: claimed, and no trace of it at Asterisk
    ATTEMPT_LOST = "attempt-lost"  #: its fate cannot be known: `unknown`
    VERDICT_OVERTURNED = "verdict-overturned"  #: late evidence won over one of the two above
    CALL_RESCUED = "call-rescued"  #: its worker died between the claim and the Originate


def count(connection: Connection, repairs: Mapping[Repair, int]) -> None:
    """Adds to the counts, in the caller's transaction and best at its end: whoever counts the same waits for it."""
    counted = sorted((repair.value, times) for repair, times in repairs.items() if times)
    if counted:
        whats, times = zip(*counted, strict=True)
        connection.exec_driver_sql(statement("count_repairs"), {"whats": list(whats), "times": list(times)})
