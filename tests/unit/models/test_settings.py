"""What the environment may say."""

from __future__ import annotations

import pytest

from models.errors import Invalid
from models.settings import Node


@pytest.mark.parametrize("name", ["local", "pbx-2.example.org", "A_1", "n" * 40])
def test_a_node_has_a_name_of_one_word(name: str) -> None:
    assert Node.parse(f"{name}=ami://user:secret@192.0.2.1:5038").name == name


@pytest.mark.parametrize("name", ["", "two words", "tab\there", "a/b", "n" * 41, "näher"])
def test_a_name_that_would_not_be_one_key_or_one_role_is_refused(name: str) -> None:
    """Slots are written down with spaces between their keys, and Postgres cuts what a session calls itself at 63."""
    with pytest.raises(Invalid, match=r"TRUNKLINE_ASTERISK_NODES: .* at most 40"):
        Node.parse(f"{name}=ami://user:secret@192.0.2.1:5038")
