"""Where webhooks may go by their text, and how long the next try waits."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Invalid
from models.webhooks import FIRST_WAIT, LONGEST_WAIT, TRY_FOR, check_url, next_wait
from workers.receivers import TRY_SECONDS

TRIES, JITTER = st.integers(0, 10_000), st.floats(0, 1)


@given(TRIES, JITTER)
def test_a_wait_is_longer_than_a_try_and_has_a_bound(tries: int, jitter: float) -> None:
    assert timedelta(seconds=TRY_SECONDS) < FIRST_WAIT <= next_wait(tries, jitter) <= 1.5 * LONGEST_WAIT


@given(TRIES, JITTER)
def test_waits_never_grow_shorter(tries: int, jitter: float) -> None:
    assert next_wait(tries, jitter) <= next_wait(tries + 1, jitter)
    assert next_wait(tries, 0) <= next_wait(tries, jitter)


def test_a_receiver_that_is_down_for_a_day_is_tried_often_at_first_and_every_half_hour_in_the_end() -> None:
    passed, tries = timedelta(), 0
    while passed < TRY_FOR:
        passed += next_wait(tries, 0.5)
        tries += 1
    assert 40 <= tries <= 60
    assert sum((next_wait(tries, 1) for tries in range(3)), timedelta()) < timedelta(minutes=3)


@pytest.mark.parametrize(
    "text",
    [
        *("https://example.com/calls", "http://a", "https://a.b:8443/x?y=z", "http://192.0.2.1/", "http://[2001:db8::1]:80/"),
        *("HTTPS://Example.com", "http://xn--bcher-kva.example/%C3%A4", "http://a#part"),
    ],
)  # fmt: skip
def test_an_address_of_a_web_server_is_taken_as_it_is(text: str) -> None:
    assert check_url(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "example.com", "//example.com", "http://", "http:///x", "ftp://example.com", "file:///etc/passwd"),
        *("javascript:alert(1)", "http://u:p@example.com", "http://u@example.com", "http://a:0", "http://a:99999"),
        *("http://a:b", "http://a..b", "http://[::1", "http://[fe80::1%25eth0]/", "http://a\\b", "http://a b/", "http://a/\n"),
        *("http://a/\x00", "http://bücher.example", "http://a/\udc80", "http://" + "a" * 64, "http://a/" + "a" * 2000),
    ],
)  # fmt: skip
def test_what_cannot_be_one_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(Invalid, match=r"^webhook_url: must ") as refused:
        check_url(text)
    assert refused.value.field == "webhook_url"


@given(st.text() | st.from_regex(r"https?://[^\n]{0,50}"))
def test_whatever_is_taken_the_sender_can_read(text: str) -> None:
    try:
        checked = check_url(text)
    except Invalid:
        return
    url = httpx.URL(checked)
    assert url.scheme in {"http", "https"}
    assert url.host
    assert not url.userinfo
