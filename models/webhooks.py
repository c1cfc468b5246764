"""Webhooks: where they go."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from models.agents import host_and_port
from models.errors import Invalid

_FIELD = "webhook_url"
_LONGEST = 2000
_PRINTABLE = re.compile(r"[!-~]+")


def check_url(text: str) -> str:
    """Where webhooks may go, as far as the text says; what its host resolves to is looked at when it is sent.

    Raises `Invalid`.
    """
    if len(text) > _LONGEST or not _PRINTABLE.fullmatch(text):
        raise Invalid(_FIELD, f"must be 1 to {_LONGEST} printable ASCII characters; others are written as %XX")
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets that do not match
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise Invalid(_FIELD, "must be http:// or https://, as https://example.com/calls")
    if "@" in parts.netloc:
        raise Invalid(_FIELD, "must hold no user name and password: what is sent is signed instead")
    host_and_port(parts.netloc, field=_FIELD)
    return text
