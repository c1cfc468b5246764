"""The transition table says what the design says, over every pair, and nothing else."""

from __future__ import annotations

from itertools import product

import pytest

from models.statuses import (
    ATTEMPT_TRANSITIONS,
    CALL_TRANSITIONS,
    CAMPAIGN_TRANSITIONS,
    DIALABLE,
    ENDS,
    FINAL,
    OPEN,
    CampaignStatus,
    Status,
    legal_events,
    may_follow,
)

S, C = Status, CampaignStatus
ENDINGS = (S.COMPLETED, S.BUSY, S.NO_ANSWER, S.FAILED, S.CANCELED)
DIALLED = (S.INITIATED, S.RINGING, S.IN_PROGRESS)

# "Attempt: born queued; queued → initiated | withdrawn; ..."; spelled out, so that a slip in the table is seen
ATTEMPT_MOVES = {
    *product([S.QUEUED], [S.INITIATED, S.WITHDRAWN]),
    *product([S.INITIATED], [S.RINGING, S.IN_PROGRESS, *ENDINGS, S.WITHDRAWN, S.UNKNOWN]),
    *product([S.RINGING], [S.IN_PROGRESS, *ENDINGS, S.UNKNOWN]),
    *product([S.IN_PROGRESS], [S.COMPLETED, S.FAILED, S.UNKNOWN]),
    # whatever is seen later, and unknown when a trace is seen but no end
    *product([S.WITHDRAWN], [*DIALLED, *ENDINGS, S.UNKNOWN]),
    *product([S.UNKNOWN], ENDINGS),
}

# A call follows its current attempt, goes back to scheduled from any open status, and is canceled before it is dialled;
# from scheduled and queued it follows an attempt that was withdrawn and turns out to live.
CALL_MOVES = {
    *product([S.SCHEDULED], [S.QUEUED, *DIALLED, *ENDINGS]),
    *product([S.QUEUED], [S.SCHEDULED, *DIALLED, *ENDINGS]),
    *product([S.INITIATED], [S.SCHEDULED, S.RINGING, S.IN_PROGRESS, *ENDINGS, S.UNKNOWN]),
    *product([S.RINGING], [S.SCHEDULED, S.IN_PROGRESS, *ENDINGS, S.UNKNOWN]),
    *product([S.IN_PROGRESS], [S.SCHEDULED, S.COMPLETED, S.FAILED, S.UNKNOWN]),
    *product([S.UNKNOWN], [S.SCHEDULED, *ENDINGS]),
    *product(ENDINGS, [S.SCHEDULED]),
}

CAMPAIGN_MOVES = {
    (C.LOADING, C.READY),
    (C.READY, C.RUNNING),
    (C.READY, C.STOPPED),
    (C.RUNNING, C.PAUSED),
    (C.PAUSED, C.RUNNING),
    *product([C.RUNNING, C.PAUSED], [C.COMPLETED, C.STOPPED]),
    (C.COMPLETED, C.RUNNING),
}


@pytest.mark.parametrize("old", Status)
def test_an_attempt_moves_as_designed_over_every_pair(old: Status) -> None:
    for new in Status:
        assert may_follow(old, new) == ((old, new) in ATTEMPT_MOVES), (old, new)


@pytest.mark.parametrize("old", Status)
def test_a_call_moves_as_designed_over_every_pair(old: Status) -> None:
    for new in Status:
        assert (new in CALL_TRANSITIONS.get(old, ())) == ((old, new) in CALL_MOVES), (old, new)


@pytest.mark.parametrize("old", CampaignStatus)
def test_a_campaign_moves_as_designed_over_every_pair(old: CampaignStatus) -> None:
    for new in CampaignStatus:
        assert (new in CAMPAIGN_TRANSITIONS[old]) == ((old, new) in CAMPAIGN_MOVES), (old, new)


def test_nothing_follows_itself_so_that_a_repeated_write_is_no_transition() -> None:
    assert not [old for table in (ATTEMPT_TRANSITIONS, CALL_TRANSITIONS) for old, new in table.items() if old in new]


def test_an_attempt_that_has_ended_never_moves_again() -> None:
    assert not [(old, new) for old, new in product(ENDINGS, Status) if may_follow(old, new)]


def test_only_queued_can_come_first_for_an_attempt_and_nothing_leads_back_to_it() -> None:
    assert not [old for old in Status if may_follow(old, S.QUEUED) or may_follow(old, S.SCHEDULED)]


def test_a_verdict_never_follows_what_was_heard_of_an_attempt() -> None:
    """Withdrawn says that no INVITE left: not after ringing or an answer."""
    assert {old for old in Status if may_follow(old, S.WITHDRAWN)} == {S.QUEUED, S.INITIATED}


def test_a_call_is_never_withdrawn_and_an_attempt_never_scheduled() -> None:
    assert all(S.WITHDRAWN not in follow for follow in CALL_TRANSITIONS.values())
    assert S.WITHDRAWN not in CALL_TRANSITIONS
    assert S.SCHEDULED not in ATTEMPT_TRANSITIONS


def test_every_status_of_a_call_leads_to_an_end() -> None:
    for start in Status:
        if start is S.WITHDRAWN:
            continue
        reached: set[Status] = {start}
        more: set[Status] = {start}
        while more:
            more = {new for old in more for new in CALL_TRANSITIONS[old]} - reached
            reached |= more
        assert reached & ENDS, start


def test_the_words_are_those_of_twilio_and_bolna() -> None:
    assert [status.value for status in Status] == [
        "scheduled",
        "queued",
        "initiated",
        "ringing",
        "in-progress",
        "completed",
        "busy",
        "no-answer",
        "failed",
        "canceled",
        "unknown",
        "withdrawn",
    ]
    assert [status.value for status in CampaignStatus] == [
        "loading",
        "ready",
        "running",
        "paused",
        "completed",
        "stopped",
    ]


def test_the_groups_are_those_of_the_design() -> None:
    assert set(ENDINGS) == ENDS
    assert {*ENDINGS, S.UNKNOWN} == FINAL
    assert set(DIALLED) == DIALABLE
    assert {S.QUEUED, *DIALLED} == OPEN


def test_every_legal_event_is_named_once_by_subject_and_pair() -> None:
    assert legal_events() == sorted(
        [f"attempt {old} {new}" for old, new in ATTEMPT_MOVES] + [f"call {old} {new}" for old, new in CALL_MOVES]
    )
