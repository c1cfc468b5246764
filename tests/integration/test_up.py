"""`trunkline up` and `down`: everything in one command, started again when it dies, and nothing lost."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.integration.system import System, until


class Home:
    """A user's shell in a directory of its own."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self._environment = environment

    def trunkline(self, *words: str, status: int = 0) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        environment |= self._environment
        done = subprocess.run(
            [Path(sys.executable).parent / "trunkline", *words],
            env=environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.trunkline("config", "--json")))

    def processes(self) -> dict[int, str]:
        """Every process that works in this home, with its words."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if str(self.directory) in f"{(entry / 'cwd').readlink()} {words}":
                        found[int(entry.name)] = words
                except OSError:
                    continue
        return found


@contextmanager
def up(directory: Path, **environment: str) -> Iterator[Home]:
    home = Home(directory, **environment)
    home.trunkline("up", "--detach")
    try:
        yield home
    finally:
        home.trunkline("down", "--hang-up")


def ask(url: str, path: str, *, login: bool) -> int:
    parts = urlsplit(url)
    request = urllib.request.Request(f"http://{parts.hostname}:{parts.port}{path}")
    if login:
        token = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_up_starts_everything_once_and_down_ends_all_of_it_and_keeps_the_data(tmp_path: Path) -> None:
    runtime = tmp_path / ".trunkline" / "runtime.json"
    with up(tmp_path) as home:
        config, written = home.config(), runtime.read_text()
        assert "up already" in home.trunkline("up", status=1)
        assert ask(config["flower_url"], "/", login=False) == 401
        assert ask(config["flower_url"], "/workers", login=True) == 200
        home.trunkline("agent", "create", "kept", "--connect", "playback://hello-world")
        words = " ".join(home.processes().values())
        for part in ("postgres", "valkey-server", "run names", "asterisk", "scheduler", "listener", "celery"):
            assert part in words, f"{part} runs"
        secrets = json.loads((tmp_path / ".trunkline" / "passwords.json").read_text()).values()
        assert not [secret for secret in secrets if secret in words], "no secret is in the list of processes"
        said = (tmp_path / ".trunkline" / "log" / "up.log").read_text()
        assert not [secret for secret in secrets if secret in said], "nor in what `up` says"
        assert f"API: {config['api_url']}/docs (a key: `trunkline key create NAME --scope call`)" in said
        assert ask(config["metrics_url"], "/metrics", login=False) == 401
        readable = [p for p in (tmp_path / ".trunkline").rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
        assert not [p for p in readable if any(secret in p.read_text(errors="replace") for secret in secrets)]
    until(lambda: not home.processes(), what="every process is gone")
    refused = home.trunkline("campaign", "status", status=1)
    assert "trunkline up" in refused
    assert len(refused.strip().splitlines()) == 1
    runtime.write_text(written)  # as a supervisor that is killed leaves it behind
    with up(tmp_path):
        assert "kept" in home.trunkline("agent", "list")


def test_a_part_that_dies_is_started_again(tmp_path: Path) -> None:
    with up(tmp_path) as home:
        config = home.config()
        parts = ("celery -A workers.main worker", "run scheduler", "run names", "valkey-server", "postgres -D")
        for part in parts:
            before = {pid for pid, words in home.processes().items() if part in words}
            assert before, f"{part} runs"
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            until(
                lambda part=part, before=before: (
                    {  # type: ignore[misc]
                        pid for pid, words in home.processes().items() if part in words
                    }
                    - before
                ),
                what=f"{part} runs again",
            )

        def dialable() -> bool:
            try:
                with psycopg.connect(config["database_url"]) as connection:
                    row = connection.execute(
                        "SELECT count(*) FROM nodes WHERE heard_at > now() - interval '4 s'"
                    ).fetchone()
                    return bool(row and row[0])
            except psycopg.OperationalError:
                return False

        until(dialable, what="the node is heard again")


def test_two_checkouts_side_by_side_do_not_disturb_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with up(first) as one, up(second) as other:
        assert one.config()["database_url"] != other.config()["database_url"]
        one.trunkline("agent", "create", "mine", "--connect", "playback://hello-world")
        assert "mine" not in other.trunkline("agent", "list")
    until(lambda: not one.processes() and not other.processes())


def test_what_is_yours_is_used_and_not_embedded(system: System, tmp_path: Path) -> None:
    given = system.stack.runtime
    yours = {
        "TRUNKLINE_DATABASE_URL": given["database_owner_url"],
        "TRUNKLINE_REDIS_URL": given["redis_url"],
        "TRUNKLINE_ASTERISK_NODES": given["asterisk_nodes"],
    }
    with up(tmp_path, **yours) as home:
        words = " ".join(home.processes().values())
        assert "celery" in words
        for part in ("postgres -D", "valkey", "asterisk.conf", "run names"):
            assert part not in words, f"{part} is not embedded"
        from_number = system.add_trunk("yours")
        system.add_agent("yours", "playback://hello-world")
        said = home.trunkline("call", "+12275550186", "--agent", "yours", "--from", from_number, "--wait", status=1)
        assert "busy" in said
    assert len(system.carried("+12275550186")) == 1


def test_an_address_that_cannot_be_had_is_said_before_anything_starts(tmp_path: Path) -> None:
    elsewhere = Home(tmp_path, TRUNKLINE_SIP_BIND="203.0.113.5:5060")
    said = elsewhere.trunkline("up", status=1)
    assert "error: TRUNKLINE_SIP_BIND: 203.0.113.5 is no address of this machine" in said
    assert "postgres" not in said
    assert not (tmp_path / ".trunkline" / "postgres").exists()


def test_an_api_that_cannot_listen_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        bind = f"127.0.0.1:{theirs.getsockname()[1]}"
        said = Home(tmp_path, TRUNKLINE_API_BIND=bind).trunkline("up", status=1)
    assert f"error: TRUNKLINE_API_BIND: {bind} is taken by another program" in said
    assert not (tmp_path / ".trunkline" / "postgres").exists()


def test_down_without_an_up_says_so(tmp_path: Path) -> None:
    assert "not up" in Home(tmp_path).trunkline("down", "--wait")


@contextmanager
def typed(directory: Path, *words: str, until_it_says: str) -> Iterator[subprocess.Popen[str]]:
    """A command that still runs when it has said something."""
    with subprocess.Popen(
        [Path(sys.executable).parent / "trunkline", *words],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if until_it_says in line:
                break
        yield process


@pytest.mark.parametrize(
    ("words", "signals", "status"),
    [
        (["up"], [signal.SIGINT], 0),
        (["up"], [signal.SIGTERM], 0),
        (["up"], [signal.SIGINT, signal.SIGINT], 0),
        (["up"], [signal.SIGHUP, signal.SIGHUP], 0),  # the kernel says so, and the shell
        (["up", "--detach"], [signal.SIGINT], 130),
    ],
)
def test_a_signal_ends_everything_in_order_also_while_it_starts(
    tmp_path: Path, words: list[str], signals: list[signal.Signals], status: int
) -> None:
    with typed(tmp_path, *words, until_it_says="starting valkey") as process:
        for number in signals:
            process.send_signal(number)
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(60) == status, said
    assert "trunkline is down" in said
    assert "Traceback" not in said
    until(lambda: not Home(tmp_path).processes(), what="every process is gone")


def test_after_a_crash_the_next_up_ends_what_is_left_and_starts_everything_anew(tmp_path: Path) -> None:
    with typed(tmp_path, "up", until_it_says="starting scheduler") as process:
        process.kill()  # Asterisk boots still, and loses the signal that it is sent
    with up(tmp_path) as home:
        running = [words for words in home.processes().values() if "asterisk.conf" in words]
        assert len(running) == 1, "the one of the dead run is gone"
    until(lambda: not home.processes(), what="every process is gone, also of the run that was killed")
