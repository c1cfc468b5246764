"""The witness of the fault suite sees what must never be, on made-up logs and rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from deploy.carrier.witness import CarrierCall, peak_at_once
from tests.faults.witness import Dialled, Pair, ended_by_the_ledger, nobody_is_called_twice, paired, tell_the_same

NOBODY = "+12125550101"


def at_carrier(
    id: str, *, number: str = NOBODY, at: float = 10.0, answered: float | None = None, ended: float | None = 12.0
) -> CarrierCall:
    return CarrierCall(
        sip_call_id=id,
        number=number,
        from_number="",
        asserted_number=None,
        request_uri="",
        codecs=(),
        invited_at=at,
        ringing_at=at,
        answered_at=answered,
        ended_at=ended,
        status=200 if answered else 486 if ended else None,
    )


def attempt(
    number: int,
    *,
    to: str = NOBODY,
    status: str = "busy",
    at: float = 9.9,
    sip_call_id: str | None = None,
    answered: float | None = None,
    ended: float | None = 12.0,
    hold_until: float | None = None,
) -> Dialled:
    return Dialled(
        id=UUID(int=number),
        number=to,
        status=status,
        initiated_at=at,
        sip_call_id=sip_call_id,
        answered_at=answered,
        ended_at=ended,
        hold_until=hold_until,
    )


def fails(judge: Callable[[], object], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        judge()


# --- which call is which attempt


def test_a_call_is_the_attempt_that_has_its_call_id_else_the_oldest_one_that_has_none() -> None:
    calls = [at_carrier("a"), at_carrier("b", at=20.0), at_carrier("c", at=30.0)]
    rows = [attempt(1), attempt(2, at=19.9, sip_call_id="b"), attempt(3, at=29.9)]
    assert [row.id.int for _, row in paired(calls, rows)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("calls", "rows"),
    [
        ([at_carrier("a")], []),
        ([at_carrier("a"), at_carrier("b", at=11.0)], [attempt(1)]),
        ([at_carrier("a"), at_carrier("b", at=11.0)], [attempt(1, sip_call_id="a")]),
        ([at_carrier("a"), at_carrier("a", at=11.0)], [attempt(1, sip_call_id="a")]),
        ([at_carrier("a")], [attempt(1, to="+12125550102")]),
        ([at_carrier("a")], [attempt(1, at=10.1)]),
        ([at_carrier("a")], [attempt(1, status="withdrawn")]),
    ],
    ids=[
        "no attempt",
        "twice for one",
        "twice, one known",
        "at two gateways",
        "another's",
        "claimed later",
        "withdrawn",
    ],
)
def test_an_invite_that_is_nobodys_is_seen(calls: Sequence[CarrierCall], rows: Sequence[Dialled]) -> None:
    fails(lambda: paired(calls, rows), "knows nothing of")


def test_an_invite_of_what_is_said_to_have_never_left_and_one_to_somebody_else_are_seen() -> None:
    fails(lambda: paired([at_carrier("a")], [attempt(1, status="withdrawn", sip_call_id="a")]), "never left")
    fails(lambda: paired([at_carrier("a")], [attempt(1, to="+12125550102", sip_call_id="a")]), "was sent as")


# --- twice


def pairs(*calls: CarrierCall, **changes: object) -> list[Pair]:
    return [
        (call, replace(attempt(n, to=call.number, at=call.invited_at, ended=call.ended_at), **changes))  # type: ignore[arg-type]
        for n, call in enumerate(calls)
    ]


def test_more_calls_than_allowed_and_calls_that_overlap_are_seen() -> None:
    one, other = at_carrier("a"), at_carrier("b", at=12.0, ended=13.0)
    fails(lambda: nobody_is_called_twice(pairs(one, other)), "called 2 times")
    nobody_is_called_twice(pairs(one, other), 2)
    fails(lambda: nobody_is_called_twice(pairs(one, replace(other, invited_at=11.9)), 2), "overlap")
    fails(lambda: nobody_is_called_twice(pairs(replace(one, ended_at=None), other), 2), "has no end")


def test_silence_counts_as_a_call_until_our_own_timer_gives_it_up() -> None:
    ignored = replace(at_carrier("a"), ringing_at=None, ended_at=None, status=None)
    nobody_is_called_twice(pairs(ignored, at_carrier("b", at=16.41, ended=17.0)), 2)
    fails(lambda: nobody_is_called_twice(pairs(ignored, at_carrier("b", at=16.3, ended=17.0)), 2), "overlap")


# --- what the carrier did not see


def test_a_call_whose_end_did_not_reach_the_carrier_is_up_for_as_long_as_its_slot_is_held() -> None:
    lost = at_carrier("a", answered=10.5, ended=None)
    [(call, _)] = ended_by_the_ledger([(lost, attempt(1, status="unknown", ended=11.0, hold_until=77.0))])
    assert call.ended_at == 77.0
    [(call, _)] = ended_by_the_ledger([(lost, attempt(1, status="completed", ended=14.0))])
    assert call.ended_at == 14.0
    [(call, _)] = ended_by_the_ledger([(lost, attempt(1, status="in-progress", ended=None))])
    assert call.ended_at is None


def test_a_slot_that_is_given_away_before_the_hold_of_a_lost_call_is_over_is_seen() -> None:
    lost = (at_carrier("a", ended=None), attempt(1, status="unknown", ended=11.0, hold_until=77.0))
    next_one = at_carrier("b", number="+12125550102", at=77.1, ended=78.0)
    early = replace(next_one, invited_at=76.9)
    assert peak_at_once(call for call, _ in ended_by_the_ledger([lost, *pairs(early)])) == 2
    assert peak_at_once(call for call, _ in ended_by_the_ledger([lost, *pairs(next_one)])) == 1


def test_what_a_frozen_carrier_read_late_counts_for_the_time_when_it_was_sent() -> None:
    late = at_carrier("a", at=40.0, ended=None)
    [(call, _)] = ended_by_the_ledger([(late, attempt(1, status="failed", at=9.9, ended=16.4))])
    assert (call.invited_at, call.ended_at) == (9.9, 16.4)
    bye_read_late = (at_carrier("a", answered=10.5, ended=40.0), attempt(1, status="completed", ended=14.0))
    [(call, _)] = ended_by_the_ledger([bye_read_late])
    assert call.ended_at == 14.0


# --- agreement


@pytest.mark.parametrize(
    ("call", "row", "words"),
    [
        (at_carrier("a", answered=10.5), attempt(1, status="failed"), "was"),
        (at_carrier("a"), attempt(1, status="completed", answered=10.5), "was"),
        (at_carrier("a"), attempt(1, status="no-answer"), "was"),
        (replace(at_carrier("a"), status=404), attempt(1, status="busy"), "was"),
        (None, attempt(1, status="completed", answered=10.5), "never seen"),
        (None, attempt(1, status="no-answer"), "never seen"),
        (None, replace(attempt(1, status="failed"), disposition="congestion"), "never seen"),
    ],
)
def test_a_call_that_the_ledger_tells_otherwise_than_the_carrier_is_seen(
    call: CarrierCall | None, row: Dialled, words: str
) -> None:
    fails(lambda: tell_the_same([(call, row)] if call else [], [row]), words)


@pytest.mark.parametrize(
    ("call", "row"),
    [
        (at_carrier("a", answered=10.5), attempt(1, status="completed", answered=10.6)),
        (at_carrier("a"), attempt(1, status="busy")),
        (replace(at_carrier("a"), status=404), attempt(1, status="failed")),
        (None, replace(attempt(1, status="failed"), disposition="not-placed")),
        (None, attempt(1, status="canceled")),
        (None, attempt(1, status="withdrawn")),
        (None, attempt(1, status="unknown")),
    ],
)
def test_what_both_tell_the_same_is_well(call: CarrierCall | None, row: Dialled) -> None:
    tell_the_same([(call, row)] if call else [], [row])
