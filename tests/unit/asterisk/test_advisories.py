"""Which releases have a known hole."""

from __future__ import annotations

import pytest

from asterisk.advisories import HOLES, holes, parsed


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("22.10.1+dfsg+~cs6.17.60671434-1", (22, 10, 1)),
        ("22.5.2~dfsg+~cs6.15.60671435-1", (22, 5, 2)),
        ("certified-22.8-cert4", (22, 8, 0)),
        ("GIT-master-0a1b2c", None),
    ],
)
def test_a_version_is_read_however_it_is_dressed(text: str, numbers: tuple[int, int, int] | None) -> None:
    assert parsed(text) == numbers


def test_a_release_has_the_holes_that_later_ones_close_and_no_others() -> None:
    assert holes((22, 0, 0)) == list(HOLES)
    assert [hole.names for hole in holes((22, 10, 0))] == ["GHSA-g8q2-p36q-94f6", "GHSA-ph27-3m5q-mj5m"]
    assert "CVE-2025-57767" in [hole.names for hole in holes((22, 5, 1))]
    assert "CVE-2025-57767" not in [hole.names for hole in holes((22, 5, 2))]
    assert holes((22, 10, 1)) == []
    assert holes((23, 0, 0)) == [], "another branch is not in the table, and doctor says so"
