"""`trunkline explain`: why, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from models.errors import NotFound
from models.outcome import Disposition
from models.settings import read_settings
from models.sip_codes import in_words
from scheduler import call_story, campaigns, holdups
from scheduler.call_story import AttemptStory, CallStory
from scheduler.cli import terminal
from scheduler.cli.session import ledger, transaction
from scheduler.cli.watch import summary
from scheduler.presence import glance

_HUNG_UP = {
    "callee": "the person called",
    "agent": "the agent",
    "operator": "an operator",
    "limit": "trunkline, since the longest length of a call was over",
    "trunkline": "trunkline",
}


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CALL_ID|CAMPAIGN", show_default=False, help="A call, as `trunkline call` prints it, or a campaign."
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell what became of a call, attempt by attempt, and what to do; or why no more of a campaign is being dialled.

    With --json one object. Of a call: the fields of `scheduler.call_story.CallStory`, with a list `attempts` and a
    list `gateway_faults`. Of a campaign: `counts`, the columns of campaign_status, and a list `holdups`, each with
    `what` (a word), `sentence`, `count`, `limit` and `until`. Times are ISO 8601 in UTC, durations seconds, what is
    not known null.
    """
    story = _story(what)
    if story is None:
        _explain_campaign(what, json)
        return
    if json:
        terminal.one_json(asdict(story))
        return
    for line in _lines(story):
        terminal.say(line)


def _story(what: str) -> CallStory | None:
    """None for what is a campaign's name, which may look like the id of a call. Raises `NotFound`."""
    try:
        call_id = UUID(what)
    except ValueError:
        return None
    with transaction(read_settings()) as connection:
        try:
            return call_story.tell(connection, call_id)
        except NotFound:
            with suppress(NotFound):
                campaigns.campaign_id(connection, what)
                return None
            raise


def _explain_campaign(name: str, json: bool) -> None:
    settings = read_settings()
    with ledger(settings) as engine, glance(settings) as slots:
        now = holdups.explain(engine, slots, name)
    if json:
        terminal.one_json(asdict(now))
        return
    terminal.say(f"campaign {name}, {summary(now.counts)}")
    for holdup in now.holdups:
        terminal.say(holdup.sentence)
    if not now.holdups:
        terminal.say("Nothing holds it back: calls go out as slots come free.")


def _lines(story: CallStory) -> Iterator[str]:
    whom = f"{story.phone_number} ({story.name})" if story.name else story.phone_number
    yield f"call {story.call_id} to {whom}, agent {story.agent}, {_origin(story)}"
    ended = f" at {_at(story.ended_at)}" if story.ended_at else ""
    yield f"{story.status}{f', {story.disposition}' if story.disposition else ''}{ended}"
    for number, attempt in enumerate(story.attempts, start=1):
        yield ""
        yield f"attempt {number} of {len(story.attempts)}, {attempt.attempt_id}: {attempt.status}"
        for line in _attempt(attempt):
            yield f"  {line}"
    yield ""
    if story.explanation and not (story.attempts and story.attempts[-1].explanation == story.explanation):
        yield f"why: {story.explanation}"
    if story.what_to_do:
        yield f"what to do: {story.what_to_do}"
    for fault in story.gateway_faults:
        yield f"gateway {fault.gateway} now: {fault.detail or fault.finding} (probed at {_at(fault.probed_at)})"


def _origin(story: CallStory) -> str:
    return f"of campaign {story.campaign}" if story.campaign else "a single call"


def _attempt(attempt: AttemptStory) -> Iterator[str]:
    trunk = f"trunk {attempt.trunk}" if attempt.trunk else "a trunk that is deleted"
    gateway = f"gateway {attempt.gateway}" if attempt.gateway else "a gateway that is removed"
    yield f"through {trunk}, {gateway}, node {attempt.node}, from {attempt.from_number} to {attempt.dialed_number}"
    yield _times(attempt)
    if attempt.initiated_at:
        yield f"the far side said: {_said(attempt)}"
    if audio := _audio(attempt):
        yield f"audio: {audio}"
    if attempt.hangup_by:
        yield f"hung up by: {_HUNG_UP.get(attempt.hangup_by, attempt.hangup_by)}"
    if attempt.sip_call_id:
        yield f"Call-ID: {attempt.sip_call_id}"
    if attempt.explanation:
        yield attempt.explanation


def _times(attempt: AttemptStory) -> str:
    parts = [
        f"{name} {_at(at)}"
        for name, at in (("granted", attempt.queued_at), ("sent", attempt.initiated_at), ("over", attempt.ended_at))
        if at is not None
    ]
    spans = [
        f"{name} {seconds:.1f} s"
        for name, seconds in (
            ("post-dial delay", attempt.post_dial_delay),
            ("rang", attempt.ring_time),
            ("talked", attempt.talk_time),
        )
        if seconds is not None
    ]
    return ", ".join(parts + spans)


def _at(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def _said(attempt: AttemptStory) -> str:
    heard = [*(["ringing"] if attempt.rang else []), *(["200 OK"] if attempt.answered_at else [])]
    status = attempt.sip
    if attempt.last_reply and not heard and not status:
        status = f"{in_words(attempt.last_reply)}, and nothing more"
    if status and attempt.last_reply is None and attempt.disposition == Disposition.CONGESTION:
        status += ", or nothing: it is Asterisk's word, too, for a gateway that it did not reach"
    return ", then ".join([*heard, *([status] if status else [])]) or "nothing that was heard"


def _audio(attempt: AttemptStory) -> str:
    parts = [
        f"{way} {packets} packets{f' ({lost} lost)' if lost is not None else ''}"
        for way, packets, lost in (
            ("received", attempt.rx_packets, attempt.rx_lost),
            ("sent", attempt.tx_packets, attempt.tx_lost),
        )
        if packets is not None
    ]
    parts += [f"codec {attempt.codec}"] if attempt.codec else []
    parts += [f"to {attempt.media_address}"] if attempt.media_address else []
    return ", ".join(parts)
