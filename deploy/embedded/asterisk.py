"""An Asterisk in a directory, run from a private tree of packages.

Its configuration is rendered anew at every start from the files in `asterisk/etc`, where `@NAME@`
stands for a value. The rendered files hold passwords and
can be read by their owner only.

    DIRECTORY/
        etc/      rendered
        lib/      Asterisk's own database, with the marks of attempts; survives a restart
        data/     sounds/en and the documentation, linked into the tree; sounds/custom is yours
        ca.crt    the authorities that a carrier's TLS certificate is checked by
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from asterisk.configuration import SHORTEST_TIMER_T1, Configuration, Database, render, templates, told, written
from deploy.debian import LIBRARIES, Tree, tree_command, unprivileged
from deploy.embedded.passwords import write_private
from deploy.part import Part, accepts
from models.errors import Invalid, Unavailable
from models.settings import Login

OPEN_FILES = 65_536
SOCKET_PATH_LIMIT = 107
MACHINE_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Files that Asterisk complains about when they are missing: the package's own defaults, or nothing to say.
PACKAGED = ("amd.conf", "confbridge.conf", "indications.conf", "stasis.conf")
NOTHING_TO_SAY = ("acl.conf", "ccss.conf", "features.conf", "http.conf", "pjproject.conf", "udptl.conf")
LEDGER = (
    "ps_endpoints",
    "ps_auths",
    "ps_aors",
    "ps_endpoint_id_ips",
    "asterisk_call_context",
    "asterisk_call_person",
    "cel",
)
SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"


@dataclass(frozen=True, kw_only=True)
class Asterisk:
    """One Asterisk: SIP over UDP and TCP at `sip_host:sip_port`, over TLS one port above it."""

    tree: Tree
    directory: Path
    database: Database
    ami_port: int
    listener: Login
    sender: Login
    sip_host: str = "127.0.0.1"
    sip_port: int = 5060
    rtp_start: int = 10_000
    rtp_end: int = 10_399
    timer_t1_ms: int = 100
    external_address: str | None = None
    local_networks: tuple[str, ...] = ()
    dialplan_file: Path | None = None
    authorities: Path | None = None
    """The certificates of authorities to trust over TLS; the machine's when None."""
    nameserver: str | None = None
    """Who resolves the names of gateways, as ADDRESS or ADDRESS@PORT; the machine's files and servers when None."""

    @property
    def max_calls(self) -> int:
        """Two ports a call: the outer wall, which Asterisk itself keeps."""
        return (self.rtp_end - self.rtp_start + 1) // 2

    @property
    def etc(self) -> Path:
        return self.directory.absolute() / "etc"

    def prepare(self) -> None:
        """Make the directories and render the configuration; what Asterisk stored itself stays.

        Raises `Invalid` for a dialplan file, authorities or a timer that cannot be used.
        """
        if self.timer_t1_ms < SHORTEST_TIMER_T1:
            raise Invalid("TRUNKLINE_SIP_TIMER_T1_MS", f"Asterisk takes no less than {SHORTEST_TIMER_T1}")
        home = self.directory.absolute()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (
            "etc",
            "lib",
            "keys",
            "cache",
            "spool",
            "log",
            "run",
            "data/sounds/custom",
            "data/moh",
            "data/agi-bin",
        ):
            (home / name).mkdir(parents=True, exist_ok=True)
        _link(home / "data/sounds/en", self.tree.root / SOUNDS)
        _link(home / "data/documentation", self.tree.root / "usr/share/asterisk/documentation")
        write_private(home / "ca.crt", self._authorities())
        for name in PACKAGED:
            write_private(self.etc / name, (self.tree.root / "etc/asterisk" / name).read_text())
        for name in NOTHING_TO_SAY:
            write_private(self.etc / name, "; the defaults\n")
        values = self._values()
        files = {name: render(template, values) for name, template in templates().items()}
        files["extensions.conf"] = told(files["extensions.conf"], files)
        for name, text in files.items():
            write_private(self.etc / name, text)

    def part(self) -> Part:
        asterisk = tree_command(self.tree, "usr/sbin/asterisk")
        return Part(
            name="asterisk",
            argv=[*unprivileged(), *asterisk, "-f", "-n", "-C", str(self.etc / "asterisk.conf")],
            # CEL writes times without a zone, in UTC; the session must read them as that.
            env={"TZ": "UTC", "PGTZ": "UTC"},
            log=self.directory / "asterisk.log",
            cwd=self.directory,
            ready=self._listens,
            before_start=self._require_ledger,
            stop_timeout=15,
            stop_again_after=1,  # while it boots it loses one
        )

    def _require_ledger(self) -> None:
        """What Asterisk reads once, at its start, is there.

        An Asterisk that meets no Postgres or no table `cel` when it starts reconnects later, but has
        learnt no columns: it tries `INSERT INTO cel () VALUES ()` for the rest of its life, and every
        call looks as if it had never been made.
        """
        database = self.database
        try:
            with psycopg.connect(
                host=database.host,
                port=database.port,
                dbname=database.name,
                user=database.user,
                password=database.password,
                connect_timeout=5,
            ) as connection:
                for relation in LEDGER:
                    connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(sql.Identifier(relation)))
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise Unavailable(f"asterisk cannot start before its tables in Postgres are there: {reason}") from error

    def _listens(self) -> bool:
        """AMI says hello, and SIP has its port. Asterisk may still be booting: FullyBooted tells when it may dial.

        Without its port Asterisk runs all the same, with no transport to dial by.
        """
        try:
            with socket.create_connection(("127.0.0.1", self.ami_port), timeout=0.5) as link:
                greets = link.recv(64).startswith(b"Asterisk Call Manager")
        except OSError:
            return False
        return greets and accepts(self.sip_port, "127.0.0.1" if self.sip_host == "0.0.0.0" else self.sip_host)  # noqa: S104

    def _values(self) -> dict[str, str]:
        configuration = Configuration(
            database=self.database,
            listener=self.listener,
            sender=self.sender,
            ami_port=self.ami_port,
            sip_host=self.sip_host,
            sip_port=self.sip_port,
            rtp_start=self.rtp_start,
            rtp_end=self.rtp_end,
            timer_t1_ms=self.timer_t1_ms,
            external_address=self.external_address,
            local_networks=self.local_networks,
            ca_file=self.directory.absolute() / "ca.crt",
        )
        return {
            **configuration.values(),
            "ETC": written(self.etc),
            "DIRECTORY": written(self.directory.absolute()),
            "RUN": written(self._run_directory()),
            "MODULES": written(self.tree.root / LIBRARIES / "asterisk/modules"),
            "MAX_FILES": str(_open_files()),
            "RESOLVER": self._resolver(),
            "DIALPLAN_INCLUDE": self._dialplan_include(),
        }

    def _resolver(self) -> str:
        if self.nameserver is None:
            return "hosts = system\nresolv = system"
        # nobody beside it: a name would be asked of either, and have every address that the hosts file gives it
        return f"hosts =\nresolv =\nnameserver = {written(self.nameserver)}"

    def _dialplan_include(self) -> str:
        if self.dialplan_file is None:
            return ""
        file = self.dialplan_file.absolute()
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid("TRUNKLINE_DIALPLAN_FILE", f"{file} cannot be read") from error
        if re.search(r"^\s*\[trunkline-", text, re.MULTILINE):
            raise Invalid("TRUNKLINE_DIALPLAN_FILE", "the names of contexts that begin with trunkline- are taken")
        return f'#include "{written(file)}"'

    def _run_directory(self) -> Path:
        """Where the control socket lies: elsewhere if its path would be too long, since Asterisk cuts it off."""
        home = self.directory.absolute()
        if len(os.fsencode(home / "run/asterisk.ctl")) <= SOCKET_PATH_LIMIT:
            return home / "run"
        short = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        run = Path(tempfile.gettempdir()) / f"trunkline-{os.geteuid()}-{short}"
        run.mkdir(mode=0o700, exist_ok=True)
        if run.lstat().st_uid != os.geteuid():  # of a link, its own
            raise Unavailable(
                f"{run} belongs to somebody else, and {home} is too deep for a socket: choose a shorter TRUNKLINE_HOME"
            )
        return run

    def _authorities(self) -> str:
        if self.authorities is not None:
            try:
                return self.authorities.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise Invalid("TRUNKLINE_CA_FILE", f"{self.authorities} cannot be read") from error
        with suppress(OSError):
            return MACHINE_AUTHORITIES.read_text()
        # The package's own list, which only its maintainer script would have put together.
        found = sorted((self.tree.root / "usr/share/ca-certificates").rglob("*.crt"))
        return "".join(certificate.read_text() for certificate in found)


def _link(link: Path, target: Path) -> None:
    aside = link.with_name(link.name + ".new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def _open_files() -> int:
    """As many as a call needs a dozen of, within what this machine lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
