"""The HTTP API: does it answer, and to whom."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from models.findings import Finding, ok, unknown, warning, wrong
from models.settings import Settings

PART = "api"
_ANSWERS_IN = 3.0  # seconds


def examine_api(settings: Settings) -> list[Finding]:
    return list(_findings(settings))


def _findings(settings: Settings) -> Iterator[Finding]:
    bound = "api_bind" in settings.model_fields_set
    url = settings.api_url or (f"http://{settings.api_bind}" if bound else None)
    if url is None:
        yield unknown(PART, "does not run here", "start it with `trunkline up`, or `trunkline run api`")
        return
    try:
        with httpx.Client(timeout=_ANSWERS_IN, trust_env=False) as client:
            alive = client.get(f"{url}/healthz").json() == {"status": "ok"}
    except httpx.HTTPError as error:
        yield wrong(
            PART,
            f"does not answer at {url} ({type(error).__name__})",
            "start `trunkline up`, or `trunkline run api`, and see its log",
        )
        return
    except ValueError:  # no JSON
        alive = False
    if alive:
        yield ok(PART, f"answers at {url}; a key: `trunkline key create NAME --scope call`")
    else:
        yield wrong(PART, f"another program answers at {url}", "stop that, or choose another TRUNKLINE_API_BIND")
    host = settings.api_bind.partition(":")[0] if bound else urlsplit(url).hostname or ""
    if (bound or urlsplit(url).scheme != "https") and not _is_this_machine(host):
        yield warning(
            PART,
            f"listens on {host} without TLS: whoever is on the way reads keys and numbers",
            "put a reverse proxy with TLS before it, on this machine with TRUNKLINE_API_BIND on 127.0.0.1 (SECURITY.md)",
        )


def _is_this_machine(host: str) -> bool:
    """Whether all that an address or a name stands for is loopback."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # somebody else's, as far as is known
        return False
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)
