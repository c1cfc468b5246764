"""Passwords of the embedded services: made once, kept in one file that only its owner can read."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path

from models.errors import Unavailable

BYTES = 24


def password(file: Path, name: str) -> str:
    """The password called `name` in `file`; made on first use. Letters, digits, `-` and `_` only.

    Safe when several processes ask at once. Raises `Unavailable` for a file that cannot be read:
    making new passwords would lock us out of the data that the old ones guard.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(file.with_name(file.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
            if name in known:
                return known[name]
        except (OSError, ValueError, TypeError) as error:
            raise Unavailable(f"the passwords in {file} cannot be read: restore the file") from error
        known[name] = secrets.token_urlsafe(BYTES)
        write_private(file, json.dumps(known, indent=1) + "\n")
        return known[name]


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step with one that only its owner can read."""
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
