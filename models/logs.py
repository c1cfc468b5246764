"""Logs: a static event name and fields, one line each; phone numbers and the API's keys are masked wherever they stand."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

# the shortest of E.164 (7 digits) only after a +: a port, a process or a count of bytes looks the same
_NUMBER = re.compile(r"(?<![\w.-])(\+\d{3}(?=\d{4})|\d{3}(?=\d{6}))\d{2,10}(\d{2})(?![\w-])")
_KEY = re.compile(r"\b(trunkline_)[\w-]{43}")


def mask(text: str) -> str:
    """`+14155550101` → `+141…01`; ids, times and ports stay as they are."""
    return _NUMBER.sub(r"\1…\2", _KEY.sub(r"\1…", text))


def _mask_line(_: Any, __: str, line: Any) -> str:
    """Of the line as it is written, so that no list, exception or traceback in it is passed over."""
    return mask(str(line))


class _MaskingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def configure(level: str = "INFO") -> None:
    """Everything to stderr, ours by structlog, the libraries' in the same form."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S.%f", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=24),
            _mask_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_MaskingFormatter("%(asctime)s [%(levelname)-9s] %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping().get(level.upper(), logging.WARNING)))
