"""Only an answer to this very request counts, whatever else a stranger sends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.sip_options import LONGEST_HEAD, Answer, NotSip, Options, Stream

OPTIONS = Options(uri="sip:gw.example.com", transport="UDP", sent_by="192.0.2.1:5062", token="0123456789abcdef")


def answer(
    *,
    start: str = "SIP/2.0 200 OK",
    via: str = "SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bK0123456789abcdef;rport=40000;received=203.0.113.9",
    call_id: str = "0123456789abcdef",
    cseq: str = "1 OPTIONS",
    more: str = "",
) -> bytes:
    return f"{start}\r\nVia: {via}\r\n{more}Call-ID: {call_id}\r\nCSeq: {cseq}\r\nContent-Length: 0\r\n\r\n".encode()


def test_the_request_is_whole_and_asks_for_our_address() -> None:
    made = Options.to("[2001:db8::1]", 5080, transport="TLS", local=("2001:db8::2", 40000))
    text = bytes(made).decode()
    assert text.startswith("OPTIONS sip:[2001:db8::1]:5080;transport=tls SIP/2.0\r\n")
    assert f"Via: SIP/2.0/TLS [2001:db8::2]:40000;branch={made.branch};rport\r\n" in text
    assert text.endswith("Content-Length: 0\r\n\r\n")
    names = re.findall(r"^([A-Za-z-]+): ", text, re.MULTILINE)
    assert {"From", "To", "Call-ID", "CSeq", "Max-Forwards"} <= set(names)  # RFC 3261, 8.1.1
    assert len(names) == len(set(names))
    assert Options.to("h", None, transport="UDP", local=("192.0.2.1", 1)).token != made.token


@pytest.mark.parametrize("status", [100, 200, 302, 401, 404, 405, 483, 503, 603])
def test_any_status_is_an_answer(status: int) -> None:
    found = OPTIONS.answered_by(answer(start=f"SIP/2.0 {status} Why Not"))
    assert found == Answer(status=status, reason="Why Not", seen_as="203.0.113.9")


@pytest.mark.parametrize(
    "message",
    [
        answer(call_id="another"),
        answer(via="SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bKanother"),
        answer(via="SIP/2.0/UDP 192.0.2.1:5062"),
        answer(via="SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKproxy, SIP/2.0/UDP h;branch=z9hG4bK0123456789abcdef"),
        answer(cseq="2 OPTIONS"),
        answer(cseq="1 INVITE"),
        answer(cseq=""),
        answer(start="SIP/2.0 999 No"),
        answer(start="SIP/3.0 200 OK"),
        answer(start="HTTP/1.1 200 OK"),
        answer(start="OPTIONS sip:x SIP/2.0"),
        answer(more="X: " + "x" * LONGEST_HEAD + "\r\n"),
        bytes(OPTIONS),  # an echo of what we sent
        b"",
        b"\r\n\r\n",
        b"\0" * 1000,
        b"SIP/2.0 200 OK",
    ],
)
def test_what_is_no_answer_to_this_request_does_not_count(message: bytes) -> None:
    assert OPTIONS.answered_by(message) is None


def test_folded_compact_and_oddly_spaced_headers_are_read() -> None:
    message = (
        "sip/2.0 200\r\nv : SIP / 2.0 / UDP 192.0.2.1:5062 ;received = 2001:DB8::1\r\n\t;BRANCH=z9hG4bK0123456789abcdef\r\n"
        "i: 0123456789abcdef\r\ncseq:  1   OPTIONS \r\n\r\nbody"
    )
    assert OPTIONS.answered_by(message.encode()) == Answer(status=200, reason="", seen_as="2001:db8::1")


@pytest.mark.parametrize("received", ["", "nonsense", "1.2.3", "::1%\x1b[31m", "203.0.113.9 x", "999.1.1.1"])
def test_an_address_of_ours_that_is_none_is_not_believed(received: str) -> None:
    via = f"SIP/2.0/UDP h;branch={OPTIONS.branch};received={received}"
    found = OPTIONS.answered_by(answer(via=via))
    assert found is not None
    assert found.seen_as is None


def test_a_reason_is_short_and_holds_nothing_that_a_terminal_would_obey() -> None:
    found = OPTIONS.answered_by(answer(start="SIP/2.0 200 \x1b[2J" + "long" * 100))
    assert found is not None
    assert found.reason.isprintable()
    assert len(found.reason) <= 60


noise = st.binary(max_size=200)
lines = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [b"Via:", b"v: ;;branch", b"CSeq: 1 OPTIONS", b"Call-ID: 0123456789abcdef", b" folded", b":", b";"]
        ),
    ),
    max_size=12,
).map(b"\r\n".join)


@given(st.one_of(noise, lines.map(lambda rest: b"SIP/2.0 200 OK\r\n" + rest)))
def test_nothing_that_is_sent_raises(message: bytes) -> None:
    found = OPTIONS.answered_by(message)
    assert found is None or found.status == 200


@given(st.data())
def test_an_answer_with_bytes_changed_is_read_or_left_and_never_raises(data: st.DataObject) -> None:
    message = bytearray(answer())
    for _ in range(data.draw(st.integers(1, 10))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    found = OPTIONS.answered_by(bytes(message))
    assert found is None or found.reason.isprintable()


@given(
    st.lists(st.tuples(st.binary(max_size=50), st.sampled_from([b"", b"\r\n\r\n", b"\r\n"])), max_size=5),
    st.integers(1, 40),
)
def test_a_stream_gives_the_same_messages_however_it_is_cut(parts: list[tuple[bytes, bytes]], size: int) -> None:
    heads = [
        answer(call_id=str(number)).replace(b"Length: 0", b"Length: %d" % len(body))
        for number, (body, _) in enumerate(parts)
    ]
    whole = b"".join(alive + head + body for head, (body, alive) in zip(heads, parts, strict=True))
    stream = Stream()
    cut = [found for at in range(0, len(whole), size) for found in stream.feed(whole[at : at + size])]
    assert cut == heads


@given(st.lists(noise, max_size=8))
def test_a_stream_of_anything_gives_messages_or_is_no_sip(chunks: list[bytes]) -> None:
    stream = Stream()
    try:
        for chunk in chunks:
            for head in stream.feed(chunk):
                assert OPTIONS.answered_by(head) is None
    except NotSip:
        pass


@pytest.mark.parametrize("length", ["-1", "99999999", "one", ""])
def test_a_stream_with_a_length_that_is_none_is_no_sip(length: str) -> None:
    with pytest.raises(NotSip):
        Stream().feed(f"SIP/2.0 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())


def test_a_head_without_an_end_is_no_sip() -> None:
    stream = Stream()
    stream.feed(b"x" * LONGEST_HEAD)
    with pytest.raises(NotSip):
        stream.feed(b"x")
