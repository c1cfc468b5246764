"""What a terminal gets to see: names as they are, and nothing that it would obey."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scheduler.campaigns import Counts, TrunkInUse
from scheduler.cli import terminal
from scheduler.cli.watch import Pace, View, render, summary

AT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def counts(**given: int | str) -> Counts:
    numbers = dict.fromkeys(
        ("total", "scheduled", "queued", "initiated", "ringing", "in_progress", "completed", "busy", "no_answer",
         "failed", "canceled", "unknown", "rejected_rows"),
        0,
    )  # fmt: skip
    row = {"campaign_id": UUID(int=1), "name": "c", "status": "running", "updated_at": AT, **numbers, **given}
    return Counts(**row)  # type: ignore[arg-type]


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_shown(text: str) -> None:
    shown = terminal.shown(text)
    assert not any(unicodedata.category(character) in {"Cc", "Zl", "Zp", "Cs"} for character in shown)
    assert not any(character in shown for character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@pytest.mark.parametrize("name", ["[red]x[/]", 'O\'Brien, "Jo"', "李小龙", "👩‍👩‍👧", ":smile:"])
def test_a_name_is_shown_as_it_is(name: str) -> None:
    assert terminal.shown(name) == name


def test_an_escape_sequence_is_made_visible() -> None:
    assert terminal.shown("a\x1b[31mb\n\u202ec") == r"a\x1b[31mb\n\u202ec"


def test_json_has_utc_times_numbers_and_ids_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    terminal.one_json({"at": at, "id": UUID(int=1), "n": 3, "none": None, "yes": True, "name": "李"})
    assert json.loads(capsys.readouterr().out) == {
        "at": "2025-01-02T01:04:05.000000Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "n": 3,
        "none": None,
        "yes": True,
        "name": "李",
    }


@pytest.mark.parametrize("rows", [[], [(1, "a")], [(1, "a"), (2, None)]])
def test_a_streamed_list_is_json(rows: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    terminal.json_list(("n", "t"), rows)
    assert json.loads(capsys.readouterr().out) == [{"n": n, "t": t} for n, t in rows]


def test_columns_stand_below_each_other_whatever_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("NAME", "N"), [("李小龙", 1), ("[red]x[/]", 20)])
    assert capsys.readouterr().out == "NAME       N\n李小龙     1\n[red]x[/]  20\n"


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    now = counts(total=100, scheduled=100)
    assert pace.time_left(now) is None
    for second in range(30):
        over = second if second < 15 else 15 + 2 * (second - 15)
        now = counts(total=100, completed=over, ringing=1, scheduled=99 - over)
        pace.see(now, float(second))
    assert pace.started_a_second == pytest.approx(2.0)
    assert pace.time_left(now) == timedelta(seconds=(100 - 43 + 1) // 2)


def test_the_picture_shows_names_as_they_are_and_slots_as_far_as_known() -> None:
    console = Console(width=80, markup=True, force_terminal=False)
    trunk = TrunkInUse(id=UUID(int=2), name="[b]t[/b]\x1b", max_concurrent_calls=20)
    now = counts(name="[red]x[/]", total=4, completed=1, ringing=1, scheduled=2)
    with console.capture() as picture:
        console.print(render(View(counts=now, slots={trunk: 3}), Pace()))
        console.print(render(View(counts=now, slots={trunk: None}), Pace()))
    text = picture.get()
    assert "[red]x[/]" in text
    assert r"trunk [b]t[/b]\x1b: 3 of 20 slots in use" in text
    assert "not known, Redis does not answer" in text
    assert "\nrunning: 1 of 4 over; 2 scheduled, 1 up, 1 completed\n" in text
    assert "25%\n" in text


def test_the_picture_says_why_a_campaign_has_paused_itself() -> None:
    console = Console(width=80, markup=True, force_terminal=False)
    with console.capture() as picture:
        console.print(
            render(View(counts=counts(status="paused", pause_reason="Its agent [b] is down."), slots={}), Pace())
        )
    assert "\nIts agent [b] is down.\n" in picture.get()


def test_the_picture_says_why_a_trunk_has_paused_by_itself() -> None:
    console = Console(width=80, markup=True, force_terminal=False)
    with console.capture() as picture:
        console.print(render(View(counts=counts(), slots={}, pauses=("Trunk [b] is paused.",)), Pace()))
    assert "\nTrunk [b] is paused.\n" in picture.get()


def test_a_summary_leaves_out_what_is_nothing() -> None:
    assert summary(counts()) == "running: 0 of 0 over"
