"""What an end says of its gateway, and whether the next one may be tried: never when the person may have been reached."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from models.gateways import Sign, may_fail_over, sign_of
from models.outcome import Disposition
from models.sightings import Attempt
from models.statuses import Status

D, S = Disposition, Status
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SENT = Attempt(id=UUID(int=1), call_id=UUID(int=2), node="n1", status=S.INITIATED, initiated_at=NOW)


def ended(
    disposition: Disposition, *, sip: int | None = None, last: int | None = None, status: Status = S.FAILED
) -> Attempt:
    return replace(SENT, status=status, disposition=disposition.value, sip_code=sip, last_reply=last, ended_at=NOW)


@pytest.mark.parametrize(
    "end",
    [
        ended(D.CONGESTION, sip=503, last=503),
        ended(D.CONGESTION, sip=503),  # an Asterisk that does not say what the last reply was
        ended(D.CONGESTION, last=0),  # the name was not found, the connection refused
        ended(D.GATEWAY_ERROR, sip=500, last=500),
        ended(D.GATEWAY_UNREACHABLE, last=0),
        ended(D.NOT_PLACED, status=S.WITHDRAWN),
    ],
)
def test_what_was_not_delivered_may_go_out_by_the_next_gateway(end: Attempt) -> None:
    assert may_fail_over(SENT, end)
    assert not may_fail_over(end, end), "once"
    assert not may_fail_over(SENT, replace(end, ringing_at=NOW))
    assert not may_fail_over(SENT, replace(end, answered_at=NOW))
    assert not may_fail_over(SENT, replace(end, stop_requested_at=NOW))


@pytest.mark.parametrize(
    "end",
    [
        ended(D.CONGESTION),  # CEL alone: whether it rang is not known
        ended(D.GATEWAY_UNREACHABLE, last=401),  # a challenge, and silence after the credentials
        ended(D.CONGESTION, last=182),  # queued by the carrier, then the connection was lost
        ended(D.NO_ANSWER, sip=408, last=408, status=S.NO_ANSWER),
        ended(D.NO_ANSWER, last=100, status=S.NO_ANSWER),
        ended(D.BUSY, sip=486, last=486, status=S.BUSY),
        ended(D.FORBIDDEN, sip=403, last=403),
        ended(D.NOT_PLACED),
        ended(D.CANCELED, status=S.CANCELED),
    ],
)
def test_what_may_have_been_delivered_is_not_tried_again(end: Attempt) -> None:
    assert not may_fail_over(SENT, end)


@pytest.mark.parametrize(
    ("end", "sign"),
    [
        (replace(SENT, status=S.RINGING, ringing_at=NOW), Sign.LIVES),
        (ended(D.BUSY, sip=486, status=S.BUSY), Sign.LIVES),
        (ended(D.INVALID_NUMBER, sip=404), Sign.LIVES),
        (ended(D.CONGESTION, sip=503), Sign.FAILED),
        (ended(D.GATEWAY_UNREACHABLE, last=0), Sign.FAILED),
        (ended(D.AUTH_FAILED, sip=401), Sign.FAILED),
        (ended(D.FORBIDDEN, sip=403), Sign.FAILED),
        (ended(D.NO_ANSWER, last=100, status=S.NO_ANSWER), None),
        (ended(D.CANCELED, status=S.CANCELED), None),
        (ended(D.LOST, status=S.UNKNOWN), None),
    ],
)
def test_an_end_is_a_sign_of_life_a_failure_or_neither(end: Attempt, sign: Sign | None) -> None:
    assert sign_of(SENT, end) is sign
    assert sign_of(end, end) is None, "once"


def test_a_failure_after_ringing_is_not_the_gateways() -> None:
    ringing = replace(SENT, status=S.RINGING, ringing_at=NOW)
    assert sign_of(ringing, replace(ringing, status=S.FAILED, disposition=D.CONGESTION.value, sip_code=503)) is None
