"""`trunkline run api`, as a service manager runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.embedded.valkey import Valkey
from deploy.part import accepts, free_port
from tests.integration.api.raw import connected, head
from tests.integration.conftest import Database
from tests.integration.http import make_key
from tests.integration.system import until


@contextmanager
def started(database: Database, valkey: Valkey, bind: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    environment |= {
        "TRUNKLINE_HOME": str(database.settings.home),
        "TRUNKLINE_DATABASE_URL": database.owner_url,
        "TRUNKLINE_REDIS_URL": valkey.url,
        "TRUNKLINE_API_BIND": bind,
    }
    words = [str(Path(sys.executable).parent / "trunkline"), "run", "api"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_is_in_hand_is_answered_before_it_stops_and_nothing_new_is_taken(
    database: Database, valkey: Valkey
) -> None:
    port, key = free_port(), make_key(database.engine)
    with started(database, valkey, f"0.0.0.0:{port}") as process:
        until(lambda: accepts(port), what="the API listens")
        url = f"http://127.0.0.1:{port}"
        with connected(url) as idle, connected(url) as asks:
            idle.send(head("GET /healthz"))
            assert idle.answer().status == 200
            asks.send(head(f"GET /agents/{uuid4()}", key, Content_Length=2, Content_Type="application/json"))
            process.terminate()
            idle.trickle_until_closed(b"", within=5)
            until(lambda: not accepts(port), what="nobody else is let in")
            assert process.poll() is None
            asks.send("{}")
            assert asks.answer().status == 404
        assert process.wait(10) in (0, -15)
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("taken", [True, False])
def test_an_address_that_cannot_be_had_is_said_in_one_line(database: Database, valkey: Valkey, taken: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        bind = f"127.0.0.1:{theirs.getsockname()[1]}" if taken else "203.0.113.5:8080"
        with started(database, valkey, bind) as process:
            _, said = process.communicate(timeout=30)
    reason = "Address already in use" if taken else "Cannot assign requested address"
    assert (process.returncode, said) == (1, f"error: TRUNKLINE_API_BIND: {bind}: {reason}\n")
