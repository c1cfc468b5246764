"""What peers say over AMI; without an import of ours, since a peer is to carry nothing of ours with it."""

from __future__ import annotations

from collections.abc import Iterable

USERNAME = SECRET = "bench-peer"


def action(name: str, headers: Iterable[tuple[str, str]]) -> str:
    return "\r\n".join([f"Action: {name}", *(f"{header}: {value}" for header, value in headers), "", ""])


LOGIN = action("Login", [("Username", USERNAME), ("Secret", SECRET)])
