"""A second real Asterisk beside the first, with its own listener and proxies: `asterisk-second`, `listener-second`, `ami-second`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from asterisk.configuration import Database
from deploy.debian import provide
from deploy.embedded.addresses import Reach, find_reach
from deploy.embedded.asterisk import Asterisk
from deploy.embedded.passwords import password
from deploy.part import Part, free_port
from deploy.stack import Stack, ensure_login
from models.settings import Node
from tests.faults.world import World

SECOND = "second"
_LOGIN = "trunkline_asterisk_second"


class _Stack(Stack):
    def _asterisk(self, owner_url: str, reach: Reach) -> Iterator[Part]:
        yield from super()._asterisk(owner_url, reach)  # it runs by now: its ports are taken
        first = Node.parse(self.runtime["asterisk_nodes"])
        database = urlsplit(owner_url)
        secret = password(self.passwords, _LOGIN)
        ensure_login(owner_url, _LOGIN, secret, "trunkline_asterisk")
        own = find_reach(self.settings, known_sip_port=None, known_rtp_port=None)
        second = Asterisk(
            tree=self.tree or provide(),
            directory=self.home / SECOND,
            database=Database(
                host=database.hostname or "127.0.0.1",
                port=database.port or 5432,
                name=database.path.strip("/"),
                user=_LOGIN,
                password=secret,
            ),
            ami_port=free_port(),
            listener=first.listener,
            sender=first.sender,
            sip_host=own.sip_host,
            sip_port=own.sip_port,
            rtp_start=own.rtp_ports.first,
            rtp_end=own.rtp_ports.last,
        )
        second.prepare()
        yield replace(second.part(), name=f"asterisk-{SECOND}")
        node = replace(first, name=SECOND, port=second.ami_port, max_calls=second.max_calls)
        self.runtime["asterisk_nodes"] = f"{first},{node}"


class TwoNodes(World):
    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.stack = _Stack(settings=self.stack.settings, tree=self.stack.tree)
