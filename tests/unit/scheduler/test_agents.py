"""What an agent's `connect` may be: nothing that Asterisk would take for more than a name gets through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.agents import Kind, host_and_port, parse_connect
from models.errors import Invalid
from models.settings import Settings
from scheduler.agents import check_connect


@pytest.mark.parametrize(
    ("text", "kind", "variables"),
    [
        ("audiosocket://127.0.0.1:9092", Kind.AUDIOSOCKET, {"TL_AGENT": "127.0.0.1:9092"}),
        ("audiosocket://agent-1.example.com:9092", Kind.AUDIOSOCKET, {"TL_AGENT": "agent-1.example.com:9092"}),
        ("audiosocket://[2001:db8::1]:9092", Kind.AUDIOSOCKET, {"TL_AGENT": "[2001:db8::1]:9092"}),
        ("dialplan://my_bot/s", Kind.DIALPLAN, {"TL_CONTEXT": "my_bot", "TL_EXTEN": "s"}),
        ("dialplan://bots/*10#", Kind.DIALPLAN, {"TL_CONTEXT": "bots", "TL_EXTEN": "*10#"}),
        ("playback://demo-congrats", Kind.PLAYBACK, {"TL_AGENT": "demo-congrats"}),
        ("playback://mine/hello_1", Kind.PLAYBACK, {"TL_AGENT": "mine/hello_1"}),
    ],
)
def test_every_form_is_taken_apart_and_put_together_again(text: str, kind: Kind, variables: dict[str, str]) -> None:
    connect = parse_connect(text)
    assert (connect.kind, connect.variables, str(connect)) == (kind, variables, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "audiosocket",
        "audiosocket:127.0.0.1:9092",
        "AUDIOSOCKET://127.0.0.1:9092",
        "audiosocket://127.0.0.1",
        "audiosocket://127.0.0.1:",
        "audiosocket://127.0.0.1:0",
        "audiosocket://127.0.0.1:65536",
        "audiosocket://127.0.0.1:٣",
        "audiosocket://:9092",
        "audiosocket://300.0.0.1:9092",
        "audiosocket://::1:9092",
        "audiosocket://[::1%eth0]:9092",
        "audiosocket://host:9092/path",
        "audiosocket://user@host:9092",
        "audiosocket://host,9:9092",
        "dialplan://bots",
        "dialplan://bots/",
        "dialplan:///s",
        "dialplan://trunkline-maintenance/att2026010100",
        "dialplan://bots/s/1",
        "dialplan://bots/_X.",
        "dialplan://bots/s,1",
        "dialplan://bots/${SHELL(x)}",
        "playback:///etc/passwd",
        "playback://../secret",
        "playback://a//b",
        "playback://a/",
        "playback://a&b",
        "playback://a\n",
        "playback://" + "a" * 201,
        "http://host:1",
    ],
)
def test_everything_else_is_refused_and_the_field_is_named(text: str) -> None:
    with pytest.raises(Invalid, match=r"^connect: ") as refused:
        parse_connect(text)
    assert "must" in refused.value.problem


@pytest.mark.parametrize("text", ["ws://host:1/x", "wss://host"])
def test_websockets_are_refused_with_a_sentence_of_their_own(text: str) -> None:
    with pytest.raises(Invalid, match=r"not supported yet: use audiosocket://HOST:PORT"):
        parse_connect(text)


@given(
    st.sampled_from(["audiosocket://", "dialplan://", "playback://", "dialplan://c/", "audiosocket://h:"]),
    st.text(max_size=40),
)
@example("playback://", "a;b")
@example("dialplan://", "a,b/s")
def test_what_gets_through_is_safe_as_a_channel_variable(form: str, rest: str) -> None:
    try:
        connect = parse_connect(form + rest)
    except Invalid:
        return
    assert all(re.fullmatch(r"[A-Za-z0-9_./*#+:\[\]-]+", value) for value in connect.variables.values())
    assert parse_connect(str(connect)) == connect


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sip.example.com", ("sip.example.com", None)),
        ("sip.example.com:5080", ("sip.example.com", 5080)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[2001:db8::1]", ("[2001:db8::1]", None)),
        ("[2001:db8::1]:65535", ("[2001:db8::1]", 65535)),
    ],
)
def test_a_host_may_have_a_port(text: str, found: tuple[str, int | None]) -> None:
    assert host_and_port(text, field="gateway") == found


@pytest.mark.parametrize(
    "text",
    ["", ":5060", "a b", "-a.de", "a-.de", "a..de", "a.de.", "a_b", "x" * 64, "1.2.3", "1.2.3.4.5", "[::1", "[::1]5060", "[1.2.3.4]",
     "sip:a.de", "a.de:+1", "a.de: 1", "a.de;transport=tcp", "a.de\0", "höst.de"],
)  # fmt: skip
def test_what_is_not_a_host_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=r"^gateway: "):
        host_and_port(text, field="gateway")


def test_a_dialplan_context_has_to_be_on_the_allow_list(tmp_path: Path) -> None:
    closed = Settings(home=tmp_path)
    with pytest.raises(
        Invalid, match=r"^connect: context 'bots' is not allowed: name it in TRUNKLINE_DIALPLAN_CONTEXTS"
    ):
        check_connect("dialplan://bots/s", closed)
    opened = Settings(home=tmp_path, dialplan_contexts="others, bots")
    assert check_connect("dialplan://bots/s", opened) == "dialplan://bots/s"
