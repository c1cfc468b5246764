from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from models.logs import configure, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("+14155550101", "+141…01"),
        ("14155550101", "141…01"),
        ("+6834000", "+683…00"),  # Niue: as short as they come
        ("to sip:+4930123456@127.0.0.1:5060;x", "to sip:+493…56@127.0.0.1:5060;x"),
        ("['+14155550101', ('+12025550100',)]", "['+141…01', ('+120…00',)]"),
        ("Bearer trunkline_" + "x-_9" * 10 + "abc", "Bearer trunkline_…"),
        ("trunkline_services of trunkline", "trunkline_services of trunkline"),
        ("2026-11-25 02:26:08.914123", "2026-11-25 02:26:08.914123"),
        ("01a21087-e395-7706-9290-c0828104c51d", "01a21087-e395-7706-9290-c0828104c51d"),
        ("took 1234567 of 65536 at 127.0.0.1:54939", "took 1234567 of 65536 at 127.0.0.1:54939"),
    ],
)
def test_numbers_and_keys_are_masked_and_ids_times_and_ports_are_not(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure()
    try:
        yield out
    finally:
        root.handlers[:], root.level = before
        structlog.reset_defaults()


def test_a_number_is_masked_wherever_it_stands_in_a_line(written: io.StringIO) -> None:
    number = "+14155550101"
    log = structlog.get_logger("test_logs")
    try:
        raise ValueError(number)
    except ValueError as error:
        log.error("event", field=number, many=[number], nested={"to": (number,)}, error=error)
        log.exception("failed")
        logging.getLogger("of.a.library").exception("failed with %s", {"to": number})
    said = written.getvalue()
    assert said.count("…01") == 7
    assert "4155550101" not in said
