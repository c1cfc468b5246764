"""How the files in `asterisk/etc` are filled in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asterisk.configuration import Configuration, Database, render, templates, told, written
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


def test_what_the_doctor_asks_of_files_is_written_into_the_dialplan_and_nothing_else_can_ask() -> None:
    values = CONFIGURATION.values() | dict.fromkeys(
        ("ETC", "MODULES", "DIRECTORY", "RUN", "MAX_FILES", "RESOLVER"), "x"
    )
    files = {name: render(text, values | {"DIALPLAN_INCLUDE": ""}) for name, text in templates().items()}
    dialplan = told(files["extensions.conf"], files)
    assert "AST_CONFIG" not in dialplan
    for said in (
        "live_dangerously: no,rtp_start: 10000,rtp_end: 10399)",
        "t1: 100,b: 6400)",
        "udp: ${URIENCODE(127.0.0.1:5060)},tcp: ${URIENCODE(127.0.0.1:5060)},tls: ${URIENCODE(127.0.0.1:5061)}",
        "external: ${URIENCODE(203.0.113.7)}",
        "part: cel,host: ${URIENCODE(db)},port: 5432",
    ):
        assert said in dialplan, said


def test_the_family_of_the_trunks_passwords_is_another_for_every_database_login() -> None:
    family = CONFIGURATION.values()["AUTHS"]
    other = replace(CONFIGURATION, database=replace(DATABASE, password="q")).values()["AUTHS"]
    assert family != other
    assert len(family) > 32
    assert DATABASE.password not in family
