"""Everything that runs on one machine, in the order in which it starts; later parts need earlier ones.

    postgres → migrations, logins → valkey → names → asterisk → scheduler, a listener a node, workers, webhooks, api, flower

Postgres, Redis and Asterisk are yours where their address is set; otherwise embedded ones run under
`TRUNKLINE_HOME`. What was started is written to `TRUNKLINE_HOME/runtime.json` (0600), where commands
in other shells find it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import SOCK_STREAM
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from asterisk.configuration import Database
from deploy.debian import Tree, provide
from deploy.embedded.addresses import Reach, find_reach
from deploy.embedded.asterisk import Asterisk
from deploy.embedded.passwords import password, write_private
from deploy.embedded.postgres import Postgres
from deploy.embedded.valkey import Valkey
from deploy.given import require_given
from deploy.part import Part, accepts, free_port, taken_port
from deploy.processes import webhook_worker_command, worker_command
from models.database import migrate, reason
from models.errors import Unavailable
from models.settings import NAMES_PORT, Login, Node, Settings

NODE = "local"
_FLOWER_USER = "trunkline"
_ADDRESSES = {"home", "database_url", "database_owner_url", "redis_url", "asterisk_nodes"}
# Celery warns of running as root, for pickle's sake; ours takes JSON only
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}


@dataclass(kw_only=True)
class Stack:
    """What `trunkline up` runs. Each part that `parts` yields has to be up before the next is asked for."""

    settings: Settings
    """As the user set them: without what an earlier run wrote down."""
    tree: Tree | None = None
    """The tree to run Asterisk from; found or fetched when None."""
    runtime: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def passwords(self) -> Path:
        return self.home / "passwords.json"

    def parts(self) -> Iterator[Part]:
        """Every part in turn. Raises TrunklineError when one cannot be prepared."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        reach = self._reach() if self.settings.asterisk_nodes is None else None
        require_given(self.settings)
        if "api_bind" in self.settings.model_fields_set:
            host, _, port = self.settings.api_bind.partition(":")
            require_bind(host, int(port))
        yield from self._postgres()
        owner_url = self._owner_url()
        migrate(owner_url)
        self._make_logins(owner_url)
        yield from self._redis()
        if reach:
            yield from self._asterisk(owner_url, reach)
        self._write_runtime()
        yield from self._own_processes()

    def _postgres(self) -> Iterator[Part]:
        if self.settings.database_url is not None:
            return
        postgres = Postgres(
            directory=self.home / "postgres", port=self._port("postgres", 5433), passwords=self.passwords
        )
        postgres.prepare()
        yield postgres.part()
        self.runtime["database_owner_url"] = postgres.owner_url
        self.runtime["database_url"] = postgres.url("trunkline", password(self.passwords, "trunkline"))

    def _owner_url(self) -> str:
        for url in (self.settings.database_owner_url, self.settings.database_url):
            if url is not None:
                return url.get_secret_value()
        return str(self.runtime["database_owner_url"])

    def _make_logins(self, owner_url: str) -> None:
        if "database_url" in self.runtime:
            ensure_login(owner_url, "trunkline", password(self.passwords, "trunkline"), "trunkline_services")
            write_private(self.home / "pg_service.conf", _service(self.runtime["database_url"]))

    def _redis(self) -> Iterator[Part]:
        if self.settings.redis_url is not None:
            return
        valkey = Valkey(directory=self.home / "valkey", port=self._port("valkey", 6380), passwords=self.passwords)
        valkey.prepare()
        yield valkey.part()
        self.runtime["redis_url"] = valkey.url

    def _reach(self) -> Reach:
        known = self._known_ports()
        reach = find_reach(self.settings, known_sip_port=known.get("sip"), known_rtp_port=known.get("rtp"))
        self._remember_ports({"sip": reach.sip_port, "rtp": reach.rtp_ports.first})
        return reach

    def _asterisk(self, owner_url: str, reach: Reach) -> Iterator[Part]:
        tree = self.tree or provide()
        # one cluster may serve several checkouts: each Asterisk has a login of its own
        login = "trunkline_asterisk_" + hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        ensure_login(owner_url, login, password(self.passwords, "asterisk_database"), "trunkline_asterisk")
        database = urlsplit(owner_url)
        yield self._names(names_port := self._port("names", NAMES_PORT))
        asterisk = Asterisk(
            tree=tree,
            directory=self.home / "asterisk",
            database=Database(
                host=database.hostname or "127.0.0.1",
                port=database.port or 5432,
                name=database.path.strip("/"),
                user=login,
                password=password(self.passwords, "asterisk_database"),
            ),
            ami_port=self._port("ami", 5038),
            listener=Login(username="trunkline-listener", secret=password(self.passwords, "ami_listener")),
            sender=Login(username="trunkline-sender", secret=password(self.passwords, "ami_sender")),
            sip_host=reach.sip_host,
            sip_port=reach.sip_port,
            rtp_start=reach.rtp_ports.first,
            rtp_end=reach.rtp_ports.last,
            timer_t1_ms=self.settings.sip_timer_t1_ms,
            external_address=reach.external_address,
            local_networks=reach.local_networks,
            dialplan_file=self.settings.dialplan_file,
            authorities=self.settings.ca_file,
            nameserver=f"127.0.0.1@{names_port}",
        )
        asterisk.prepare()
        yield asterisk.part()
        self.runtime |= {
            "sip_address": reach.sip_address,
            "sip_port": reach.sip_port,
            "rtp_ports": str(reach.rtp_ports),
        }
        self.runtime["asterisk_nodes"] = str(
            Node(
                name=NODE,
                host="127.0.0.1",
                port=asterisk.ami_port,
                listener=asterisk.listener,
                sender=asterisk.sender,
                max_calls=asterisk.max_calls,
            )
        )

    def _names(self, port: int) -> Part:
        self._write_runtime()  # it is ours, and reads whom to ask
        words = [sys.executable, "-m", "deploy.main", "run", "names", "--port", str(port)]
        return replace(self._own("names", words), ready=lambda: accepts(port))

    def _own_processes(self) -> Iterator[Part]:
        settings = Settings(home=self.home)
        trunkline = [sys.executable, "-m", "deploy.main", "run"]
        yield self._own("scheduler", [*trunkline, "scheduler"])
        for node in settings.nodes:
            yield self._own(f"listener-{node.name}", [*trunkline, "listener", node.name])
        for number in range(1, settings.workers + 1):
            words = [*worker_command(settings, sys.executable), "--hostname", f"worker{number}@trunkline"]
            yield self._own(f"worker-{number}", words)
        yield self._own("webhooks", [*webhook_worker_command(sys.executable), "--hostname", "webhooks@trunkline"])
        yield self._api()
        yield self._flower()

    def _own(self, name: str, words: list[str]) -> Part:
        return Part(
            name=name,
            argv=words,
            env=_ENVIRONMENT | {"TRUNKLINE_HOME": str(self.home)},
            log=self.home / "log" / f"{name}.log",
            cwd=self.home,
            ready=lambda: True,  # they find what they need by themselves, and wait for it
            stop_timeout=20,
        )

    def _api(self) -> Part:
        host, _, asked = self.settings.api_bind.partition(":")
        port = int(asked) if "api_bind" in self.settings.model_fields_set else self._port("api", int(asked))
        self.runtime["api_bind"] = f"{host}:{port}"
        reached_at = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - what it means is asked
        self.runtime["api_url"] = f"http://{reached_at}:{port}"
        self._write_runtime()
        words = [sys.executable, "-m", "deploy.main", "run", "api"]
        return replace(
            self._own("api", words),
            before_start=lambda: require_bind(host, port),
            ready=lambda: accepts(port, reached_at),
        )

    def _flower(self) -> Part:
        port = self._port("flower", 5555)
        secret = password(self.passwords, "flower")
        configuration = self.home / "flower" / "flowerconfig.py"
        configuration.parent.mkdir(exist_ok=True, mode=0o700)
        # a file, not words: what is in argv every user of the machine can read
        write_private(
            configuration,
            f"address = '127.0.0.1'\nport = {port}\nbasic_auth = ['{_FLOWER_USER}:{secret}']\n"
            f"persistent = False\nmax_tasks = 20000\nlogging = 'warning'\ncookie_secret = '{password(self.passwords, 'flower_cookie')}'\n",
        )
        self.runtime["flower_url"] = f"http://{_FLOWER_USER}:{secret}@127.0.0.1:{port}/"
        self._write_runtime()
        words = [sys.executable, "-m", "celery", "-A", "workers.main", "flower", f"--conf={configuration}"]
        return Part(
            name="flower",
            argv=words,
            env=_ENVIRONMENT | {"TRUNKLINE_HOME": str(self.home)},
            log=self.home / "log" / "flower.log",
            cwd=configuration.parent,
            ready=lambda: accepts(port),
        )

    def _port(self, name: str, default: int) -> int:
        """The default if it is free, else another; the same again as long as this home is used, if it still is."""
        port = free_port(self._known_ports().get(name, default))
        self._remember_ports({name: port})
        return port

    def _known_ports(self) -> dict[str, int]:
        try:
            known = json.loads((self.home / "ports.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return {str(name): int(port) for name, port in known.items()}

    def _remember_ports(self, ports: dict[str, int]) -> None:
        write_private(self.home / "ports.json", json.dumps(self._known_ports() | ports, indent=1) + "\n")

    def _write_runtime(self) -> None:
        """What this run was given and what it started, for our processes and for commands in other shells."""
        given = self.settings.model_dump(mode="json", include=self.settings.model_fields_set - _ADDRESSES)
        self.runtime = {**given, **self.runtime}
        write_private(self.home / "runtime.json", json.dumps(self.runtime, indent=1) + "\n")


def require_bind(host: str, port: int) -> None:
    """Raises `Unavailable` where the API cannot listen; whoever does would be taken for it."""
    if taken_port(port, port, host, [SOCK_STREAM]) is not None:
        raise Unavailable(
            f"TRUNKLINE_API_BIND: {host}:{port} is taken by another program, or no address of this machine"
        )


def _service(url: str) -> str:
    """For psql and other programs of libpq's: what is among their words every user of the machine can read."""
    at = urlsplit(url)
    return (
        f"[trunkline]\nhost={at.hostname}\nport={at.port}\ndbname={at.path.strip('/')}\n"
        f"user={at.username}\npassword={at.password}\n"
    )


def ensure_login(owner_url: str, name: str, secret: str, role: str) -> None:
    """A login that is a member of `role`, with this password; its sessions are in UTF-8 and in UTC.

    Asterisk's CEL writes times without a zone, and neither it nor realtime asks for an encoding.
    Raises Unavailable if the owner may not make one.
    """
    try:
        with psycopg.connect(owner_url, connect_timeout=5, autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
            verb = sql.SQL("ALTER") if known else sql.SQL("CREATE")
            # as SCRAM keeps it: a server that logs its statements would log a password
            kept = connection.pgconn.encrypt_password(secret.encode(), name.encode(), b"scram-sha-256").decode()
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(name), sql.Literal(kept))
            )
            for setting in ("timezone = 'UTC'", "client_encoding = 'UTF8'"):
                connection.execute(sql.SQL("ALTER ROLE {} SET " + setting).format(sql.Identifier(name)))
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise Unavailable(f"Postgres: the owner of the database needs CREATEROLE to make the login {name!r}") from error
    except psycopg.OperationalError as error:
        raise Unavailable(f"Postgres does not answer: {reason(error)}") from error
