"""Which AMI events say what about which attempt, and which are about somebody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from asterisk import events
from asterisk.connection import AmiMessage
from asterisk.events import Interpreter
from models.sightings import AtTheEnd, Sight, Sighting

ID = UUID("0192f7a4-0000-7000-8000-000000000001")
OTHER = UUID("0192f7a4-0000-7000-8000-000000000002")
NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
AT = datetime(2026, 5, 4, 11, 59, 58, 250_000, tzinfo=UTC)
AGENTS_LEG = "asterisk-1777896000.17"


def event(name: str, **headers: str) -> AmiMessage:
    stamped = {"Timestamp": f"{AT.timestamp():.6f}", **headers}
    return AmiMessage(name=name, headers={header.lower(): value for header, value in stamped.items()})


def interpreter() -> Interpreter:
    return Interpreter(now=lambda: NOW)


def newchannel(id: UUID = ID) -> AmiMessage:
    return event("Newchannel", Uniqueid=str(id), Linkedid=str(id), ChannelStateDesc="Down")


def failure(id: UUID = ID) -> AmiMessage:
    return event("OriginateResponse", ActionID=str(id), Uniqueid=str(id), Response="Failure", Reason="0")


@pytest.mark.parametrize(
    ("said", "sight"),
    [
        (newchannel(), Sight.CHANNEL),
        (event("Newstate", Uniqueid=str(ID), ChannelState="5", ChannelStateDesc="Ringing"), Sight.RINGING),
        (event("Newstate", Uniqueid=str(ID), ChannelState="6", ChannelStateDesc="Up"), Sight.ANSWERED),
        (event("DialState", DestUniqueid=str(ID), DialStatus="RINGING"), Sight.RINGING),
        (event("DialState", DestUniqueid=str(ID), DialStatus="PROGRESS"), Sight.RINGING),
        (event("DialEnd", DestUniqueid=str(ID), DialStatus="ANSWER"), Sight.ANSWERED),
        (event("OriginateResponse", ActionID=str(ID), Response="Success", Reason="4"), Sight.ANSWERED),
        (failure(), Sight.NOT_PLACED),
        (event("HangupRequest", Uniqueid=str(ID)), Sight.CALLEE_HUNG_UP),
        (event("UserEvent", UserEvent="AgentLeg", Uniqueid=str(ID), status="CHANUNAVAIL"), Sight.AGENT_LEG),
        (event("UserEvent", UserEvent="CallEnd", Uniqueid=str(ID), callid="a@b"), Sight.ENDING),
        (event("Hangup", Uniqueid=str(ID), Cause="17", TechCause="486"), Sight.ENDED),
    ],
    ids=lambda value: value.name if isinstance(value, Sight) else "",
)
def test_each_kind_of_event_is_a_sight_of_its_attempt_at_asterisks_time(said: AmiMessage, sight: Sight) -> None:
    seen = interpreter().read(said)
    assert seen is not None
    assert (seen.attempt_id, seen.sight, seen.at) == (ID, sight, AT)


@pytest.mark.parametrize(
    "said",
    [
        event("Newstate", Uniqueid=str(ID), ChannelStateDesc="Dialing"),
        event("Newstate", Uniqueid=str(ID), ChannelStateDesc="Busy"),
        event("DialState", DestUniqueid=str(ID), DialStatus="PROCEEDING"),
        event("DialEnd", DestUniqueid=str(ID), DialStatus="BUSY"),
        event("DialEnd", DestUniqueid=str(ID), DialStatus="CONGESTION"),
        event("UserEvent", UserEvent="CallMedia", Uniqueid=str(ID), rx="51"),
        event("SoftHangupRequest", Uniqueid=str(ID), Cause="16"),
        event("VarSet", Uniqueid=str(ID), Variable="X", Value="1"),
        event("FullyBooted"),
    ],
    ids=lambda message: message.name,
)
def test_what_decides_nothing_is_passed_over(said: AmiMessage) -> None:
    assert interpreter().read(said) is None


@pytest.mark.parametrize(
    "said",
    [
        event("Newchannel", Uniqueid=AGENTS_LEG, ChannelStateDesc="Down"),
        event("Newstate", Uniqueid=AGENTS_LEG, ChannelStateDesc="Up"),
        event("Hangup", Uniqueid=AGENTS_LEG, Cause="16"),
        event("Hangup", Uniqueid="", Cause="16"),
        event("Hangup", Cause="16"),
        event("Hangup", Uniqueid="x" * 36, Cause="16"),
        event("Hangup", Uniqueid=str(ID) + "0", Cause="16"),
        event("Hangup", Uniqueid=ID.hex, Cause="16"),
        event("OriginateResponse", Response="Failure", Reason="0", Uniqueid=str(ID)),
        event("OriginateResponse", ActionID="ping-1", Response="Success"),
    ],
)
def test_channels_that_are_no_attempts_are_passed_over(said: AmiMessage) -> None:
    assert interpreter().read(said) is None


@pytest.mark.parametrize("name", ["DialState", "DialEnd"])
@pytest.mark.parametrize("status", ["RINGING", "PROGRESS", "ANSWER", "CHANUNAVAIL"])
def test_the_agents_leg_neither_rings_nor_answers_for_the_attempt(name: str, status: str) -> None:
    """There the attempt is the one that dials: Uniqueid, with another DestUniqueid."""
    for dest in (AGENTS_LEG, str(OTHER)):
        assert interpreter().read(event(name, Uniqueid=str(ID), DestUniqueid=dest, DialStatus=status)) is None


def test_a_hangup_brings_its_cause_its_sip_status_and_when_its_channel_was_made() -> None:
    reader = interpreter()
    made = event("Newchannel", Uniqueid=str(ID), Timestamp=f"{(AT - timedelta(seconds=6)).timestamp():.6f}")
    assert reader.read(made)
    assert reader.read(event("Hangup", Uniqueid=str(ID), Cause="18", TechCause="408")) == Sighting(
        attempt_id=ID,
        at=AT,
        sight=Sight.ENDED,
        cause=18,
        sip_code=408,
        channel_at=AT - timedelta(seconds=6),
    )


@pytest.mark.parametrize(
    ("headers", "cause", "sip_code"),
    [
        ({"Cause": "0", "TechCause": ""}, 0, None),
        ({"Cause": "0"}, 0, None),
        ({"Cause": "16", "TechCause": "0"}, 16, None),
        ({"Cause": "", "TechCause": "486"}, None, 486),
        ({"Cause": "-1", "TechCause": "nothing"}, None, None),
    ],
)
def test_numbers_that_are_not_there_are_not_made_up(
    headers: dict[str, str], cause: int | None, sip_code: int | None
) -> None:
    seen = interpreter().read(event("Hangup", Uniqueid=str(ID), **headers))
    assert seen is not None
    assert (seen.cause, seen.sip_code, seen.channel_at) == (cause, sip_code, None)


def test_the_agents_status_is_told_word_for_word() -> None:
    seen = interpreter().read(event("UserEvent", UserEvent="AgentLeg", Uniqueid=str(ID), status="CHANUNAVAIL"))
    assert seen is not None
    assert seen.text == "CHANUNAVAIL"


@pytest.mark.parametrize("stamp", ["", "soon", "nan"])
def test_an_event_without_a_time_of_asterisks_gets_ours(stamp: str) -> None:
    seen = interpreter().read(event("Newchannel", Uniqueid=str(ID), Timestamp=stamp))
    assert seen is not None
    assert seen.at == NOW


def test_a_refusal_of_a_duplicate_says_nothing_about_the_live_channel() -> None:
    """Asterisk refuses a second Originate with the same ChannelId, and its answer names the live channel."""
    reader = interpreter()
    reader.read(newchannel())
    assert reader.read(failure()) is None
    assert reader.read(failure()) is None


def test_a_failure_of_a_channel_that_was_made_is_left_to_its_hangup() -> None:
    reader = interpreter()
    reader.read(newchannel(OTHER))
    assert reader.read(failure(OTHER)) is None
    seen = reader.read(failure(ID))
    assert seen is not None
    assert seen.sight is Sight.NOT_PLACED, "another's channel proves nothing"


def test_a_failure_that_comes_after_the_hangup_of_its_channel_says_nothing_either() -> None:
    """The two come in no fixed order."""
    reader = interpreter()
    reader.read(newchannel())
    reader.read(event("Hangup", Uniqueid=str(ID), Cause="17", TechCause="486"))
    assert reader.read(failure()) is None


def test_a_redirect_is_remembered_until_a_hangup_that_has_lost_its_cause() -> None:
    reader = interpreter()
    for forwarded, headers, expected in [
        (True, {"Cause": "0", "TechCause": ""}, (23, None)),
        (True, {"Cause": "23", "TechCause": "302"}, (23, 302)),
        (False, {"Cause": "0", "TechCause": ""}, (0, None)),
    ]:
        forward = {"Forward": "sip:+12125550199@203.0.113.9"} if forwarded else {}
        assert reader.read(event("Newchannel", Uniqueid=str(ID))) is not None
        assert reader.read(event("DialState", DestUniqueid=str(ID), DialStatus="CANCEL", **forward)) is None
        seen = reader.read(event("Hangup", Uniqueid=str(ID), **headers))
        assert seen is not None
        assert (seen.cause, seen.sip_code) == expected


def test_an_interpreter_remembers_so_many_channels_and_no_more_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MOST_REMEMBERED", 100)
    reader = interpreter()
    ids = [UUID(int=ID.int + number) for number in range(1000)]
    for id in ids:
        reader.read(newchannel(id))
        reader.read(event("Hangup", Uniqueid=str(id), Cause="16"))
    assert all(reader.read(failure(id)) is None for id in ids[-100:])
    assert all(reader.read(failure(id)) for id in ids[:-100])


def test_the_call_end_of_an_unanswered_call_has_its_call_id_alone() -> None:
    seen = interpreter().read(event("UserEvent", UserEvent="CallEnd", Uniqueid=str(ID), callid="a@b"))
    assert seen is not None
    assert seen.at_the_end == AtTheEnd(sip_call_id="a@b")


@pytest.mark.parametrize(
    ("left", "ended", "hangup_by"),
    [
        ("3606.977", "agent", "agent"),
        ("3606.977", "", None),
        ("0.000", "agent", "limit"),
        ("-0.013", "", "limit"),
        ("0", "agent", "agent"),  # a dialplan has taken the limit away
        ("", "", None),
    ],
)
def test_who_ended_the_call_is_told_by_the_time_that_was_left(left: str, ended: str, hangup_by: str | None) -> None:
    seen = interpreter().read(event("UserEvent", UserEvent="CallEnd", Uniqueid=str(ID), left=left, ended=ended))
    assert seen is not None
    assert seen.at_the_end is not None
    assert seen.at_the_end.hangup_by == hangup_by


def test_figures_that_cannot_be_counts_of_packets_are_left_out() -> None:
    rtcp = "ssrc=1;rxcount=4294967295;txcount=7;lp=;rlp=4294967290;rtt"
    seen = interpreter().read(event("UserEvent", UserEvent="CallEnd", Uniqueid=str(ID), rtcp=rtcp, codec="(ulaw|alaw)"))
    assert seen is not None
    assert seen.at_the_end == AtTheEnd(tx_packets=7, codec="ulaw|alaw")
