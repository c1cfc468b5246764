"""How the files in `asterisk/etc` are filled in."""

from __future__ import annotations

import pytest

from asterisk.configuration import Configuration, Database, render, templates, written
from models.errors import Invalid
from models.settings import Login

DATABASE = Database(host="db", port=5432, name="n;1", user="u", password="p;w")
CONFIGURATION = Configuration(
    database=DATABASE,
    listener=Login(username="l", secret="ls"),
    sender=Login(username="s", secret="ss"),
    ami_permit=("10.0.0.0/255.0.0.0", "192.0.2.1/255.255.255.255"),
    external_address="203.0.113.7",
    local_networks=("10.0.0.0/8",),
)


def test_what_would_end_a_value_is_escaped_or_refused() -> None:
    values = CONFIGURATION.values()
    assert values["DB_PASSWORD"] == "p\\;w"
    with pytest.raises(Invalid):
        written("two\nlines")


def test_each_ami_user_is_permitted_from_every_network_that_is_given() -> None:
    manager = render(templates()["manager.conf"], CONFIGURATION.values())
    assert manager.count("permit = 10.0.0.0/255.0.0.0\npermit = 192.0.2.1/255.255.255.255\nread = ") == 2


def test_an_address_behind_nat_is_told_on_every_transport() -> None:
    pjsip = render(templates()["pjsip.conf"], CONFIGURATION.values())
    assert pjsip.count("external_media_address = 203.0.113.7") == pjsip.count("type = transport\n") == 3
