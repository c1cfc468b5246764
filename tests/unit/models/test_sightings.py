"""However events are ordered, doubled and batched, an attempt ends the same, and never moves back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asterisk.connection import AmiMessage
from asterisk.events import Interpreter
from models.outcome import Disposition
from models.sightings import Attempt, Sight, Sighting, after, frees_after_cancel, reached_agent
from models.statuses import DIALABLE, ENDS, Status, may_follow

ID = UUID("0192f7a4-0000-7000-8000-000000000001")
CALL = UUID("0192f7a4-0000-7000-8000-0000000000c1")
START = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
TIMER_B = timedelta(milliseconds=6400)
SIP_CALL_ID = "c8cb6ba4-4c0c-4734-a76e-56861e943b70"
FIGURES = {
    "rx_packets": 51,
    "tx_packets": 52,
    "rx_lost": 3,
    "tx_lost": 4,
    "codec": "ulaw",
    "media_address": "192.0.2.7:41400",
}
ON_THE_CHANNEL = {"Newchannel", "Newstate", "HangupRequest", "UserEvent", "Hangup"}
"""Events of one channel come in the order in which they happened; the others may come anywhere among them."""


def event(name: str, at: float, **headers: str) -> AmiMessage:
    stamp = f"{START.timestamp() + at:.6f}"
    return AmiMessage(name=name, headers={"timestamp": stamp, **{key.lower(): text for key, text in headers.items()}})


def newchannel() -> AmiMessage:
    return event("Newchannel", 0.01, Uniqueid=str(ID), ChannelStateDesc="Down", Channel="PJSIP/gw-00000001")


def newstate(state: str, at: float) -> AmiMessage:
    return event("Newstate", at, Uniqueid=str(ID), ChannelStateDesc=state, Channel="PJSIP/gw-00000001")


def dial_state(state: str, at: float) -> AmiMessage:
    return event("DialState", at, DestUniqueid=str(ID), DialStatus=state)


def dial_end(status: str, at: float) -> AmiMessage:
    return event("DialEnd", at, DestUniqueid=str(ID), DialStatus=status)


def originate_response(response: str, reason: int, at: float) -> AmiMessage:
    return event(
        "OriginateResponse",
        at,
        ActionID=str(ID),
        Uniqueid=str(ID),
        Response=response,
        Reason=str(reason),
        Exten="playback",
    )


def hangup(cause: int, tech_cause: str, at: float) -> AmiMessage:
    return event("Hangup", at, Uniqueid=str(ID), Cause=str(cause), TechCause=tech_cause)


def call_end(at: float, **said: str) -> AmiMessage:
    """What the hangup handler says; the figures as Asterisk 22 writes them."""
    return event("UserEvent", at, UserEvent="CallEnd", Uniqueid=str(ID), callid=SIP_CALL_ID, **said)


def answered_end(at: float, *, leg: str = "ANSWER", ended: str = "", left: str = "3595.010") -> AmiMessage:
    rtcp = "ssrc=1;themssrc=2;lp=3;rxjitter=0.000125;rxcount=51;txjitter=0.0;txcount=52;rlp=4;rtt=0.0"
    return call_end(at, leg=leg, ended=ended, left=left, rtcp=rtcp, codec="(ulaw)", remote="192.0.2.7:41400")


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened to an attempt, and how it has to end."""

    events: tuple[AmiMessage, ...]
    status: Status
    disposition: Disposition
    sip_code: int | None = None
    cause: int
    hangup_by: str | None = None
    says: str = ""
    agent_status: str | None = None


ANSWERED = (
    newchannel(),
    newstate("Ringing", 1.0),
    dial_state("RINGING", 1.001),
    newstate("Up", 5.0),
    dial_end("ANSWER", 5.001),
    originate_response("Success", 4, 5.002),
)
STORIES = {
    "answered, and we hung up": Story(
        events=(*ANSWERED, hangup(16, "", 9.0)),
        status=Status.COMPLETED,
        disposition=Disposition.ANSWERED,
        cause=16,
        hangup_by="trunkline",
    ),
    "answered, and the agent hung up": Story(
        events=(*ANSWERED, answered_end(8.999, ended="agent"), hangup(16, "", 9.0)),
        status=Status.COMPLETED,
        disposition=Disposition.ANSWERED,
        cause=16,
        hangup_by="agent",
        agent_status="ANSWER",
    ),
    "answered, and the callee hung up": Story(
        events=(
            *ANSWERED,
            event("HangupRequest", 8.9, Uniqueid=str(ID), Cause=""),
            answered_end(8.999),
            hangup(0, "", 9.0),
        ),
        status=Status.COMPLETED,
        disposition=Disposition.ANSWERED,
        cause=0,
        hangup_by="callee",
        agent_status="ANSWER",
    ),
    "answered, and the callee hung up on a dialplan": Story(
        events=(
            *ANSWERED,
            event("HangupRequest", 8.9, Uniqueid=str(ID), Cause=""),
            answered_end(8.999, ended="agent"),
            hangup(0, "", 9.0),
        ),
        status=Status.COMPLETED,
        disposition=Disposition.ANSWERED,
        cause=0,
        hangup_by="callee",
        agent_status="ANSWER",
    ),
    "answered, and the longest call was over": Story(
        events=(*ANSWERED, answered_end(8.999, ended="agent", left="-0.001"), hangup(0, "", 9.0)),
        status=Status.COMPLETED,
        disposition=Disposition.ANSWERED,
        cause=0,
        hangup_by="limit",
        agent_status="ANSWER",
    ),
    "answered, and the agent was unreachable": Story(
        events=(
            *ANSWERED,
            event("UserEvent", 5.1, UserEvent="AgentLeg", Uniqueid=str(ID), status="CHANUNAVAIL"),
            answered_end(6.0, leg="CHANUNAVAIL"),
            hangup(38, "500", 6.001),
        ),
        status=Status.FAILED,
        disposition=Disposition.AGENT_UNREACHABLE,
        cause=38,
        hangup_by="trunkline",
        agent_status="CHANUNAVAIL",
    ),
    "486 after ringing": Story(
        events=(
            newchannel(),
            newstate("Ringing", 1.0),
            dial_state("RINGING", 1.001),
            dial_end("BUSY", 2.0),
            call_end(2.0005, said="[486]"),
            originate_response("Failure", 0, 2.001),
            hangup(17, "486", 2.002),
        ),
        status=Status.BUSY,
        disposition=Disposition.BUSY,
        sip_code=486,
        cause=17,
    ),
    "404": Story(
        events=(
            newchannel(),
            dial_end("NOANSWER", 0.1),
            call_end(0.1005, said="[404]"),
            originate_response("Failure", 0, 0.101),
            hangup(1, "404", 0.102),
        ),
        status=Status.FAILED,
        disposition=Disposition.INVALID_NUMBER,
        sip_code=404,
        cause=1,
    ),
    "a 503 of the carrier's": Story(
        events=(
            newchannel(),
            dial_end("CONGESTION", 0.1),
            call_end(0.1005, said="[503]"),
            originate_response("Failure", 0, 0.101),
            hangup(34, "503", 0.102),
        ),
        status=Status.FAILED,
        disposition=Disposition.CONGESTION,
        sip_code=503,
        cause=34,
    ),
    "our ring timeout": Story(
        events=(
            newchannel(),
            newstate("Ringing", 1.0),
            dial_state("RINGING", 1.001),
            call_end(29.999, said="[180]"),
            originate_response("Failure", 3, 30.0),
            hangup(19, "480", 30.001),  # a status of Asterisk's own
        ),
        status=Status.NO_ANSWER,
        disposition=Disposition.NO_ANSWER,
        cause=19,
        says="It rang",
    ),
    "our ring timeout after a 183 alone": Story(
        events=(
            newchannel(),
            dial_state("PROGRESS", 1.0),
            originate_response("Failure", 3, 30.0),
            hangup(19, "", 30.001),
        ),
        status=Status.NO_ANSWER,
        disposition=Disposition.NO_ANSWER,
        cause=19,
        says="It rang",
    ),
    "silence until our own timer": Story(
        events=(
            newchannel(),
            dial_end("NOANSWER", 6.41),
            call_end(6.4105, said="[]"),
            originate_response("Failure", 0, 6.412),
            hangup(18, "408", 6.411),
        ),
        status=Status.FAILED,
        disposition=Disposition.GATEWAY_UNREACHABLE,
        cause=18,
    ),
    "a 408 of the carrier's at the moment of our own timer": Story(
        events=(
            newchannel(),
            dial_end("NOANSWER", 6.41),
            call_end(6.4105, said="[408]"),
            originate_response("Failure", 0, 6.412),
            hangup(18, "408", 6.411),
        ),
        status=Status.NO_ANSWER,
        disposition=Disposition.NO_ANSWER,
        sip_code=408,
        cause=18,
    ),
    "a 302 whose status Asterisk has forgotten": Story(
        events=(newchannel(), call_end(0.02, said="[302]"), hangup(0, "", 0.021)),
        status=Status.FAILED,
        disposition=Disposition.REDIRECTED,
        sip_code=302,
        cause=0,
    ),
    "a gateway that could not be reached at all": Story(
        events=(newchannel(), call_end(0.02, said="[]"), hangup(34, "503", 0.021)),
        status=Status.FAILED,
        disposition=Disposition.CONGESTION,
        cause=34,
    ),
    "silence after a challenge": Story(
        events=(newchannel(), call_end(6.42, said="[401]"), hangup(18, "408", 6.421)),
        status=Status.FAILED,
        disposition=Disposition.GATEWAY_UNREACHABLE,
        cause=18,
    ),
    "a wrong password": Story(
        events=(newchannel(), call_end(0.04, said="[401]"), hangup(21, "401", 0.041)),
        status=Status.FAILED,
        disposition=Disposition.AUTH_FAILED,
        sip_code=401,
        cause=21,
    ),
    "the carrier's own 408": Story(
        events=(
            newchannel(),
            dial_end("NOANSWER", 2.0),
            originate_response("Failure", 0, 2.001),
            hangup(18, "408", 2.002),
        ),
        status=Status.NO_ANSWER,
        disposition=Disposition.NO_ANSWER,
        sip_code=408,
        cause=18,
        says="no ringing",
    ),
    "no RTP port was left": Story(
        events=(
            newchannel(),
            event("HangupRequest", 0.011, Uniqueid=str(ID)),
            originate_response("Failure", 0, 0.012),
            hangup(0, "", 0.013),
        ),
        status=Status.FAILED,
        disposition=Disposition.NOT_PLACED,
        cause=0,
    ),
}
stories = pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())


def claimed(status: Status = Status.INITIATED) -> Attempt:
    return Attempt(id=ID, call_id=CALL, node="n1", status=status, initiated_at=START)


def read(events: Sequence[AmiMessage]) -> list[Sighting]:
    interpreter = Interpreter()
    return [sighting for event in events if (sighting := interpreter.read(event))]


def see(row: Attempt, seen: Sequence[Sighting]) -> Attempt:
    """One batch, as the ledger writes it; the table of transitions holds at each step."""
    new = after(row, seen, timer_b=TIMER_B)
    assert new.status is row.status or may_follow(row.status, new.status), (row.status, new.status, seen)
    return new


def as_on_the_wire(events: Sequence[AmiMessage]) -> Iterator[tuple[AmiMessage, ...]]:
    """Every order in which the channel's own events keep theirs."""
    others = [event for event in events if event.name not in ON_THE_CHANNEL]
    for places in permutations(range(len(events)), len(others)):
        elsewhere = dict(zip(places, others, strict=True))
        on_the_channel = (event for event in events if event.name in ON_THE_CHANNEL)
        yield tuple(elsewhere.get(place) or next(on_the_channel) for place in range(len(events)))


def ends_of_every_split(row: Attempt, seen: Sequence[Sighting], *, twice: bool = False) -> set[Attempt]:
    """The rows that `seen` can lead to, however it is cut into batches; with `twice` each batch may be written twice."""
    reached: list[set[Attempt]] = [{row}, *(set() for _ in seen)]
    for start in range(len(seen)):
        for old in reached[start]:
            for end in range(start + 1, len(seen) + 1):
                batch = seen[start:end]
                new = see(old, batch)
                reached[end].add(new)
                if twice:
                    reached[end].add(see(new, batch))
    return reached[-1]


def assert_tells(story: Story, end: Attempt) -> None:
    assert (end.status, end.disposition) == (story.status, story.disposition.value)
    assert (end.sip_code, end.q850_cause, end.hangup_by) == (story.sip_code, story.cause, story.hangup_by)
    (hangup_at,) = [sighting.at for sighting in read(story.events) if sighting.sight is Sight.ENDED]
    assert end.ended_at == hangup_at
    assert story.says in (end.explanation or "")
    assert end.explanation
    shown = {sighting.sight for sighting in read(story.events)}
    assert (end.ringing_at is not None) == (Sight.RINGING in shown)
    assert (end.answered_at is not None) == (Sight.ANSWERED in shown)
    assert end.hold_until is None
    assert end.sip_call_id == (SIP_CALL_ID if Sight.ENDING in shown else None)
    told = FIGURES if Sight.ENDING in shown and end.answered_at else dict.fromkeys(FIGURES)
    assert {name: getattr(end, name) for name in FIGURES} == told
    assert end.agent_status == story.agent_status


@stories
def test_a_story_ends_as_it_happened(story: Story) -> None:
    assert_tells(story, see(claimed(), read(story.events)))


@stories
def test_every_order_of_the_wire_in_every_split_into_batches_ends_the_same(story: Story) -> None:
    for order in as_on_the_wire(story.events):
        for end in ends_of_every_split(claimed(), read(order)):
            assert_tells(story, end)


@stories
def test_batches_that_are_written_twice_end_the_same(story: Story) -> None:
    """A commit whose answer was lost is written again by the next holder of the role."""
    for end in ends_of_every_split(claimed(), read(story.events), twice=True):
        assert_tells(story, end)


@stories
def test_any_order_at_all_ends_the_same_in_one_batch(story: Story) -> None:
    for number, order in enumerate(permutations(story.events)):
        if number % (97 if len(story.events) > 6 else 1) == 0:
            assert_tells(story, see(claimed(), read(order)))


@stories
def test_a_doubled_stream_ends_the_same(story: Story) -> None:
    once = see(claimed(), read(story.events))
    assert see(claimed(), read(story.events) * 2) == once
    assert see(once, read(story.events)) == once
    assert see(once, read(story.events * 2)) == once


@st.composite
def batches(draw: st.DrawFn, events: Sequence[AmiMessage], *, any_order: bool) -> list[tuple[AmiMessage, ...]]:
    """The events in some order, some of them several times, cut somewhere; what is doubled comes again later.

    Without `any_order` the channel's own events keep theirs. Asterisk publishes them on one topic, which is read in order:
    that a Hangup comes first cannot be. DialState, DialEnd and OriginateResponse may come before, among and after them.
    """
    if any_order:
        order = list(draw(st.permutations(events)))
    else:
        order = [event for event in events if event.name in ON_THE_CHANNEL]
        for event in events:
            if event.name not in ON_THE_CHANNEL:
                order.insert(draw(st.integers(0, len(order))), event)
    for event in draw(st.lists(st.sampled_from(order), max_size=5)):
        order.insert(draw(st.integers(order.index(event) + 1, len(order))), event)
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1), max_size=6)))
    return [tuple(order[start:end]) for start, end in pairwise([0, *cuts, len(order)])]


def written(row: Attempt, heard: Sequence[Sequence[AmiMessage]], gap_before: int | None = None) -> list[Attempt]:
    """What the ledger holds after each batch; before that one a new stream may begin, whose refusals are not believed."""
    interpreter, trusts = Interpreter(), True
    rows = []
    for number, batch in enumerate(heard):
        if number == gap_before:
            interpreter, trusts = Interpreter(), False
        seen = [sighting for event in batch if (sighting := interpreter.read(event))]
        seen = [sighting for sighting in seen if trusts or sighting.sight is not Sight.NOT_PLACED]
        new = see(row, seen)
        if replace(new, channel_at=row.channel_at) != row:  # that alone is not written
            row = new
        rows.append(row)
    return rows


@stories
@given(data=st.data())
def test_every_order_that_can_be_doubled_and_cut_anywhere_ends_the_same(story: Story, data: st.DataObject) -> None:
    heard = data.draw(batches(story.events, any_order=False))
    gap_before = data.draw(st.none() | st.integers(0, len(heard)))
    assert_tells(story, written(claimed(), heard, gap_before)[-1])


@stories
@given(data=st.data())
def test_any_order_ends_with_its_hangup_and_the_same_where_batches_keep_the_channels_own_order(
    story: Story, data: st.DataObject
) -> None:
    """Orders that cannot be, too: within a batch even a Hangup that comes first changes nothing."""
    heard = data.draw(batches(story.events, any_order=True))
    rows = written(claimed(), heard)

    def batch_of(event: AmiMessage) -> int:
        return next(number for number, batch in enumerate(heard) if any(it is event for it in batch))

    of_the_channel = [batch_of(event) for event in story.events if event.name in ON_THE_CHANNEL]
    if of_the_channel == sorted(of_the_channel):
        assert_tells(story, rows[-1])
        assert written(rows[-1], heard)[-1] == rows[-1], "heard once more it changes nothing"
    hung_up = of_the_channel[-1]
    over = rows[hung_up]
    assert over.status in ENDS
    for later in rows[hung_up:]:
        assert (later.status, later.disposition, later.ended_at) == (over.status, over.disposition, over.ended_at)


@stories
@given(data=st.data())
def test_what_is_late_after_the_end_fills_in_and_moves_nothing(story: Story, data: st.DataObject) -> None:
    end = see(claimed(), read(story.events))
    assert end.status in ENDS
    late = data.draw(st.lists(st.sampled_from([*read(ANSWERED), *read(story.events)]), min_size=1, max_size=6))
    new = see(end, late)
    assert (new.status, new.disposition, new.ended_at) == (end.status, end.disposition, end.ended_at)


def test_a_hangup_that_overtakes_a_ringing_never_moves_the_attempt_back() -> None:
    events = STORIES["486 after ringing"].events
    ended = see(claimed(), read([events[0], events[-1]]))
    assert ended.status is Status.BUSY
    late = see(ended, read([events[1]]))
    assert late == replace(ended, ringing_at=START + timedelta(seconds=1))


def test_ringing_that_is_reported_after_no_answer_corrects_its_sentence_alone() -> None:
    events = STORIES["our ring timeout"].events
    ended = see(claimed(), read([events[0], events[-1]]))
    assert "no ringing" in (ended.explanation or "")
    late = see(ended, read([events[2]]))
    assert "It rang" in (late.explanation or "")
    assert late.status is Status.NO_ANSWER


def test_an_older_ringing_never_moves_an_answered_attempt_back() -> None:
    up = see(claimed(), read(ANSWERED[:1] + ANSWERED[3:]))
    assert up.status is Status.IN_PROGRESS
    assert see(up, read(ANSWERED[1:3])).status is Status.IN_PROGRESS


def test_an_operators_stop_before_an_answer_is_canceled_and_after_it_is_not() -> None:
    stopped = replace(claimed(Status.RINGING), stop_requested_at=START)
    ended = see(stopped, read([newchannel(), hangup(16, "", 3.0)]))
    assert (ended.status, ended.disposition) == (Status.CANCELED, "canceled")
    answered = replace(claimed(Status.IN_PROGRESS), stop_requested_at=START, answered_at=START)
    ended = see(answered, read([hangup(16, "", 3.0)]))
    assert (ended.status, ended.disposition, ended.hangup_by) == (Status.COMPLETED, "answered", "operator")
    ended = see(answered, read([answered_end(2.9, ended="agent"), hangup(16, "", 3.0)]))
    assert ended.hangup_by == "operator"
    ended = see(answered, read([event("HangupRequest", 2.8, Uniqueid=str(ID)), hangup(16, "", 3.0)]))
    assert ended.hangup_by == "callee"


@pytest.mark.parametrize(
    ("leg", "reached"),
    [("ANSWER", True), ("CHANUNAVAIL", False), ("NOSOUND", False), ("CANCEL", None), ("", None)],
)
def test_a_callee_who_did_not_wait_for_the_agent_says_nothing_of_it(leg: str, reached: bool | None) -> None:
    end = see(claimed(), read([*ANSWERED, answered_end(8.9, leg=leg), hangup(16, "", 9.0)]))
    assert reached_agent(end) is reached
    assert reached_agent(replace(end, answered_at=None)) is None


def test_a_refusal_with_no_channel_is_not_placed_and_only_from_initiated() -> None:
    refused = read([originate_response("Failure", 0, 1.0)])
    end = see(claimed(), refused)
    assert (end.status, end.disposition) == (Status.WITHDRAWN, "not-placed")
    for status in set(Status) - {Status.INITIATED, Status.SCHEDULED}:
        assert see(claimed(status), refused) == claimed(status)


def test_a_refusal_reported_before_its_channel_is_taken_back() -> None:
    """The two come from different threads of Asterisk."""
    refused = see(claimed(), read([originate_response("Failure", 0, 1.0)]))
    alive = see(refused, read([newchannel()]))
    assert (alive.status, alive.disposition, alive.explanation, alive.ended_at) == (Status.INITIATED, None, None, None)


def withdrawn_by_a_verdict() -> Attempt:
    return replace(
        claimed(Status.WITHDRAWN),
        explanation="Claimed, but Asterisk never made a channel for it.",
        ended_at=START + timedelta(seconds=10),
        hold_until=START + timedelta(seconds=12),
    )


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([newchannel()], Status.INITIATED),
        ([newstate("Ringing", 20)], Status.RINGING),
        ([dial_state("PROGRESS", 20)], Status.RINGING),
        ([newstate("Up", 20)], Status.IN_PROGRESS),
        ([originate_response("Success", 4, 20)], Status.IN_PROGRESS),
    ],
)
def test_late_life_wins_over_a_verdict_and_wipes_it_out(seen: list[AmiMessage], expected: Status) -> None:
    alive = see(withdrawn_by_a_verdict(), read(seen))
    assert alive.status is expected
    assert (alive.disposition, alive.explanation, alive.ended_at, alive.hold_until) == (None, None, None, None)


@stories
def test_a_whole_story_that_comes_after_a_verdict_ends_as_it_happened(story: Story) -> None:
    for end in ends_of_every_split(withdrawn_by_a_verdict(), read(story.events)):
        assert_tells(story, end)


@pytest.mark.parametrize(
    "late",
    [
        originate_response("Failure", 0, 20),
        event("HangupRequest", 20, Uniqueid=str(ID)),
        event("UserEvent", 20, UserEvent="AgentLeg", Uniqueid=str(ID), status="CHANUNAVAIL"),
        call_end(20),
    ],
    ids=lambda message: message.name,
)
@pytest.mark.parametrize("status", [Status.QUEUED, Status.WITHDRAWN])
def test_what_shows_no_channel_brings_no_attempt_to_life(status: Status, late: AmiMessage) -> None:
    assert see(replace(withdrawn_by_a_verdict(), status=status), read([late])).status is status


@stories
def test_unknown_takes_no_sign_of_life_and_every_end(story: Story) -> None:
    lost = replace(claimed(Status.UNKNOWN), disposition="lost", hold_until=START, ended_at=START)
    before = [sighting for sighting in read(story.events) if sighting.sight is not Sight.ENDED]
    assert see(lost, before).status is Status.UNKNOWN
    for end in ends_of_every_split(lost, read(story.events)):
        assert_tells(story, end)


def test_only_what_may_be_a_cancel_of_ours_lingers() -> None:
    lingering = {status for status in ENDS | {Status.WITHDRAWN} if frees_after_cancel(claimed(status))}
    assert lingering == {Status.NO_ANSWER, Status.CANCELED}


def test_nothing_seen_changes_nothing() -> None:
    for status in DIALABLE:
        assert after(claimed(status), [], timer_b=TIMER_B) == claimed(status)
