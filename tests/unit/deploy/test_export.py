"""What an exported file is made of."""

from __future__ import annotations

import re

from asterisk.configuration import Configuration, Database, templates
from deploy.export import PIECES
from models.settings import Login


def test_what_is_exported_needs_no_value_that_only_an_embedded_asterisk_has() -> None:
    configuration = Configuration(
        database=Database(host="db", port=5432, name="n", user="u", password="p"),
        listener=Login(username="l", secret="ls"),
        sender=Login(username="s", secret="ss"),
    )
    known = {*configuration.values(), "DIALPLAN_INCLUDE"}  # the last is a file of the user's, who includes it alone
    for name in PIECES:
        assert set(re.findall(r"@([A-Z][A-Z0-9_]*)@", templates()[name])) <= known, name


def test_the_sections_that_are_added_to_or_left_out_are_in_the_files() -> None:
    for name, piece in PIECES.items():
        sections = set(re.findall(r"^\[([^\]]+)\]$", templates()[name], re.MULTILINE))
        assert piece.adds_to | piece.leaves_out <= sections, name
