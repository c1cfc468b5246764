"""The statuses, and the one table that says which follows which.

    scheduled ─▶ queued ─▶ initiated ─▶ ringing ─▶ in-progress ─▶ completed
        ▲           │          │           │            │
        └───────────┴──────────┴───────────┴── busy · no-answer · failed · canceled · unknown

The words are Twilio's and Bolna's, spelled the same in Python, SQL, HTTP and CSV. Every write is a
conditional update that obeys this table; the CHECK on `call_events` is made from it, and a test
holds the two together over every pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Status(StrEnum):
    """Of a call and of an attempt."""

    SCHEDULED = "scheduled"  #: waits for its due time, a window or a slot (calls only)
    QUEUED = "queued"  #: has a slot; its task is published
    INITIATED = "initiated"  #: claimed by a worker and sent to Asterisk
    RINGING = "ringing"  #: 180 or 183 heard
    IN_PROGRESS = "in-progress"  #: answered
    COMPLETED = "completed"  #: answered, then ended
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"
    UNKNOWN = "unknown"  #: cannot be known; final until an operator decides, never redialled by itself
    WITHDRAWN = "withdrawn"  #: no INVITE left, and none can any more (attempts only)


class CampaignStatus(StrEnum):
    LOADING = "loading"
    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    STOPPED = "stopped"


S = Status
ENDS = frozenset({S.COMPLETED, S.BUSY, S.NO_ANSWER, S.FAILED, S.CANCELED})
"""An attempt that has one of these is over, and so is its call unless it is scheduled again."""

FINAL = ENDS | {S.UNKNOWN}
DIALABLE = frozenset({S.INITIATED, S.RINGING, S.IN_PROGRESS})
"""What the gate lets through (`ps_aors`)."""

OPEN = DIALABLE | {S.QUEUED}
"""What holds a slot; so does `unknown`, until its hold is over."""

ATTEMPT_TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    S.QUEUED: frozenset({S.INITIATED, S.WITHDRAWN}),
    S.INITIATED: ENDS | {S.RINGING, S.IN_PROGRESS, S.WITHDRAWN, S.UNKNOWN},
    S.RINGING: ENDS | {S.IN_PROGRESS, S.UNKNOWN},
    S.IN_PROGRESS: frozenset({S.COMPLETED, S.FAILED, S.UNKNOWN}),
    # late evidence wins over a verdict
    S.WITHDRAWN: ENDS | {S.INITIATED, S.RINGING, S.IN_PROGRESS, S.UNKNOWN},
    S.UNKNOWN: ENDS,
}

CALL_TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    # beyond queued and canceled: an attempt that was withdrawn turns out to live
    S.SCHEDULED: ENDS | {S.QUEUED, S.INITIATED, S.RINGING, S.IN_PROGRESS},
    S.QUEUED: ENDS | {S.SCHEDULED, S.INITIATED, S.RINGING, S.IN_PROGRESS},
    S.INITIATED: ENDS | {S.SCHEDULED, S.RINGING, S.IN_PROGRESS, S.UNKNOWN},
    S.RINGING: ENDS | {S.SCHEDULED, S.IN_PROGRESS, S.UNKNOWN},
    S.IN_PROGRESS: frozenset({S.SCHEDULED, S.COMPLETED, S.FAILED, S.UNKNOWN}),
    S.UNKNOWN: ENDS | {S.SCHEDULED},
    # only by `campaign retry`; unknown → scheduled only by `campaign resolve`
    **{end: frozenset({S.SCHEDULED}) for end in ENDS},
}

CAMPAIGN_TRANSITIONS: Mapping[CampaignStatus, frozenset[CampaignStatus]] = {
    CampaignStatus.LOADING: frozenset({CampaignStatus.READY}),
    CampaignStatus.READY: frozenset({CampaignStatus.RUNNING, CampaignStatus.STOPPED}),
    CampaignStatus.RUNNING: frozenset({CampaignStatus.PAUSED, CampaignStatus.COMPLETED, CampaignStatus.STOPPED}),
    CampaignStatus.PAUSED: frozenset({CampaignStatus.RUNNING, CampaignStatus.COMPLETED, CampaignStatus.STOPPED}),
    # only by `campaign resolve` (and `campaign retry`), which give it calls to make
    CampaignStatus.COMPLETED: frozenset({CampaignStatus.RUNNING}),
    CampaignStatus.STOPPED: frozenset(),
}

CAMPAIGN_ENDS = frozenset({CampaignStatus.COMPLETED, CampaignStatus.STOPPED})
"""Nothing of it is to be made any more."""


def may_follow(old: Status, new: Status) -> bool:
    """Whether an attempt in `old` may be written as `new`."""
    return new in ATTEMPT_TRANSITIONS.get(old, frozenset())


def legal_events() -> list[str]:
    """Every `subject from to` that a row of `call_events` may hold, sorted."""
    tables = (("attempt", ATTEMPT_TRANSITIONS), ("call", CALL_TRANSITIONS))
    return sorted(
        f"{subject} {old} {new}" for subject, table in tables for old, follow in table.items() for new in follow
    )
