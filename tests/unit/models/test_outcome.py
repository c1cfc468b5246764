"""How an attempt ends, row by row of the design's table, with its precedence."""

from __future__ import annotations

from datetime import timedelta

import pytest

from models.outcome import Disposition, Evidence, Outcome, classify
from models.statuses import ENDS, Status

D, S = Disposition, Status
TIMER_B = timedelta(milliseconds=6400)


def outcome_of(
    *,
    answered: bool = False,
    rang: bool = False,
    stopped: bool = False,
    agent: str | None = None,
    sip: int | None = None,
    cause: int | None = None,
    last_reply: int | None = None,
    lasted: timedelta | None = timedelta(seconds=1),
) -> Outcome:
    return classify(
        Evidence(
            answered=answered,
            rang=rang,
            stopped=stopped,
            agent_status=agent,
            sip_code=sip,
            q850_cause=cause,
            last_reply=last_reply,
            lasted=lasted,
        ),
        timer_b=TIMER_B,
    )


def ending(outcome: Outcome) -> tuple[Status, Disposition]:
    return outcome.status, outcome.disposition


BY_SIP_STATUS = {
    **dict.fromkeys((486, 600), (S.BUSY, D.BUSY)),
    **dict.fromkeys((480, 487, 408), (S.NO_ANSWER, D.NO_ANSWER)),
    **dict.fromkeys((404, 410, 484, 604), (S.FAILED, D.INVALID_NUMBER)),
    **dict.fromkeys((401, 407), (S.FAILED, D.AUTH_FAILED)),
    403: (S.FAILED, D.FORBIDDEN),
    **dict.fromkeys((603, 607, 608), (S.FAILED, D.REJECTED)),
    **dict.fromkeys((400, 402, 405, 413, 420, 422, 481, 482, 491, 493, 499, 601, 699), (S.FAILED, D.REJECTED)),
    **dict.fromkeys((488, 415, 606), (S.FAILED, D.CODEC_MISMATCH)),
    503: (S.FAILED, D.CONGESTION),
    **dict.fromkeys((500, 501, 502, 504, 505, 513, 580, 599), (S.FAILED, D.GATEWAY_ERROR)),
    **dict.fromkeys((300, 301, 302, 305, 380), (S.FAILED, D.REDIRECTED)),
}


@pytest.mark.parametrize(("sip", "expected"), BY_SIP_STATUS.items())
def test_an_unanswered_call_ends_by_its_sip_status_heard_ringing_or_not(
    sip: int, expected: tuple[Status, Disposition]
) -> None:
    assert ending(outcome_of(sip=sip)) == expected
    assert ending(outcome_of(sip=sip, rang=True)) == expected


@pytest.mark.parametrize(("sip", "expected"), BY_SIP_STATUS.items())
def test_the_sip_status_goes_before_the_cause(sip: int, expected: tuple[Status, Disposition]) -> None:
    for cause in (1, 17, 19, 21, 34, 127):
        assert ending(outcome_of(sip=sip, cause=cause)) == expected


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (1, (S.FAILED, D.INVALID_NUMBER)),
        (17, (S.BUSY, D.BUSY)),
        (19, (S.NO_ANSWER, D.NO_ANSWER)),
        (21, (S.FAILED, D.REJECTED)),
        (22, (S.FAILED, D.INVALID_NUMBER)),
        (28, (S.FAILED, D.INVALID_NUMBER)),
        (34, (S.FAILED, D.CONGESTION)),
        (38, (S.FAILED, D.GATEWAY_ERROR)),
        (58, (S.FAILED, D.CODEC_MISMATCH)),
        (127, (S.FAILED, D.REJECTED)),
    ],
)
def test_an_end_known_from_cel_alone_goes_by_the_cause(cause: int, expected: tuple[Status, Disposition]) -> None:
    assert ending(outcome_of(cause=cause, lasted=None)) == expected


def test_our_ring_timeout_is_no_answer_heard_ringing_or_not() -> None:
    rang = outcome_of(sip=480, cause=19, rang=True, lasted=timedelta(seconds=30))
    silent = outcome_of(cause=19, lasted=timedelta(seconds=30))
    assert ending(rang) == ending(silent) == (S.NO_ANSWER, D.NO_ANSWER)


@pytest.mark.parametrize(
    ("lasted_ms", "rang", "expected"),
    [
        (6400, False, D.GATEWAY_UNREACHABLE),
        (6200, False, D.GATEWAY_UNREACHABLE),
        (6199, False, D.NO_ANSWER),
        (7401, False, D.NO_ANSWER),  # the carrier's, after a 100
        (50, False, D.NO_ANSWER),
        (6400, True, D.NO_ANSWER),
        (20_000, True, D.NO_ANSWER),
    ],
)
def test_a_408_is_our_own_only_after_timer_b_of_silence(lasted_ms: int, rang: bool, expected: Disposition) -> None:
    lasted = timedelta(milliseconds=lasted_ms)
    assert outcome_of(sip=408, cause=18, rang=rang, lasted=lasted).disposition is expected
    assert outcome_of(cause=18, rang=rang, lasted=lasted).disposition is expected, "from CEL, which has the cause alone"


@pytest.mark.parametrize("lasted_ms", [50, 6400, 20_000])
def test_where_the_far_sides_last_reply_is_known_no_clock_decides_on_a_408(lasted_ms: int) -> None:
    lasted = timedelta(milliseconds=lasted_ms)
    assert outcome_of(cause=18, last_reply=0, lasted=lasted).disposition is D.GATEWAY_UNREACHABLE
    assert outcome_of(sip=408, cause=18, last_reply=408, lasted=lasted).disposition is D.NO_ANSWER


def test_a_408_is_the_carriers_when_nobody_knows_how_long_it_took() -> None:
    assert outcome_of(sip=408, lasted=None).disposition is D.NO_ANSWER


def test_a_shorter_timer_b_moves_the_split() -> None:
    evidence = Evidence(
        answered=False,
        rang=False,
        stopped=False,
        agent_status=None,
        sip_code=408,
        q850_cause=18,
        lasted=timedelta(seconds=7),
    )
    assert classify(evidence, timer_b=timedelta(seconds=6.4)).disposition is D.GATEWAY_UNREACHABLE
    assert classify(evidence, timer_b=timedelta(seconds=32)).disposition is D.NO_ANSWER


@pytest.mark.parametrize("cause", [0, None])
def test_an_end_without_cause_status_and_ringing_was_not_placed_and_is_not_dialled_again(cause: int | None) -> None:
    assert ending(outcome_of(cause=cause)) == (S.FAILED, D.NOT_PLACED)
    assert ending(outcome_of(cause=cause, rang=True)) == (S.NO_ANSWER, D.NO_ANSWER), "what rang was placed"
    assert ending(outcome_of(cause=cause, stopped=True)) == (S.CANCELED, D.CANCELED)
    assert ending(outcome_of(cause=cause, sip=503)) == (S.FAILED, D.CONGESTION)


@pytest.mark.parametrize("agent", [None, "", "ANSWER", "CANCEL"])
def test_answered_goes_before_everything(agent: str | None) -> None:
    for sip, cause, stopped in [(None, 16, False), (500, 38, True), (486, 17, True), (408, 18, False), (None, 0, True)]:
        outcome = outcome_of(answered=True, rang=True, agent=agent, sip=sip, cause=cause, stopped=stopped)
        assert ending(outcome) == (S.COMPLETED, D.ANSWERED)


@pytest.mark.parametrize("agent", ["CHANUNAVAIL", "NOANSWER", "CONGESTION", "BUSY", "NOSOUND", "NOEXTENSION"])
def test_an_answer_without_an_agent_has_failed(agent: str) -> None:
    outcome = outcome_of(answered=True, agent=agent, sip=500, cause=38)
    assert ending(outcome) == (S.FAILED, D.AGENT_UNREACHABLE)


def test_our_own_stop_goes_before_the_sip_status() -> None:
    for sip, cause in [(487, 127), (486, 17), (None, 16), (408, 18), (503, 34)]:
        outcome = outcome_of(stopped=True, sip=sip, cause=cause, rang=True)
        assert ending(outcome) == (S.CANCELED, D.CANCELED)


def test_whatever_is_seen_there_is_an_outcome_and_it_is_an_end() -> None:
    for sip in (None, *range(300, 700)):
        for cause in (None, *range(128)):
            for rang in (False, True):
                assert outcome_of(sip=sip, cause=cause, rang=rang).status in ENDS
