"""`trunkline asterisk export DIR`: what an Asterisk of yours has to include to be a node.

The text is that of `asterisk/etc`, by which the embedded one is set up whole; here each file keeps the
sections that are trunkline's and adds to those that are yours. `README.txt` beside them says where each
is included and what to set in `TRUNKLINE_ASTERISK_NODES`. Made again, everything is rendered anew and
every secret stays.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from asterisk.configuration import Configuration, Database, render, templates
from deploy.embedded.asterisk import MACHINE_AUTHORITIES
from deploy.embedded.passwords import password, write_private
from deploy.stack import ensure_login
from models.addresses import is_address, is_loopback, local_networks
from models.database import migrate
from models.errors import Conflict, Invalid, Unavailable
from models.settings import DEFAULT_NODE_CALLS, NAMES_PORT, Login, Node, Settings

SIGNATURE = "made by `trunkline asterisk export`; do not edit, it is made anew"
SECRETS = "trunkline-secrets.json"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one file in `asterisk/etc` gives to a file of yours."""

    adds_to: frozenset[str] = frozenset()  #: sections that you have, and that get more lines
    leaves_out: frozenset[str] = frozenset()  #: sections that are yours alone
    drops: str | None = None  #: lines that match are yours to decide


PIECES: Mapping[str, Piece] = {
    "manager.conf": Piece(adds_to=frozenset({"general"})),
    "extconfig.conf": Piece(adds_to=frozenset({"settings"})),
    "sorcery.conf": Piece(),
    "res_pgsql.conf": Piece(adds_to=frozenset({"general"})),
    "cel.conf": Piece(adds_to=frozenset({"general"})),
    "cel_pgsql.conf": Piece(adds_to=frozenset({"global"})),
    "pjsip.conf": Piece(leaves_out=frozenset({"global"})),
    "extensions.conf": Piece(leaves_out=frozenset({"general"})),
    "modules.conf": Piece(adds_to=frozenset({"modules"}), drops=r"autoload\b"),
}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Where that Asterisk is, as the user says it."""

    node: str = "asterisk"
    ami: str = "127.0.0.1:5038"  #: where trunkline reaches its AMI
    permit: tuple[str, ...] = ()  #: from where trunkline comes
    database: str | None = None  #: HOST[:PORT] at which it reaches our Postgres, if not as we do
    sip_bind: str | None = None  #: HOST[:PORT] for transports of ours; none are made when None
    max_calls: int = DEFAULT_NODE_CALLS


def export(settings: Settings, directory: Path, wishes: Wishes) -> Node:
    """Writes the files, makes the database login they name, and returns the node to be set.

    Raises `Conflict` before anything is written when a file there is not ours, `Unavailable` without Postgres.
    """
    directory = directory.absolute()
    _refuse_strangers(directory)
    owner_url = _owner_url(settings)
    node = _node(settings, directory, wishes)
    database = _database(owner_url, directory, wishes, away=not is_loopback(node.host))
    configuration = Configuration(
        database=database,
        listener=node.listener,
        sender=node.sender,
        ami_host=node.host if is_address(node.host) else "0.0.0.0",  # noqa: S104 - behind `permit`
        ami_port=node.port,
        ami_permit=_permit(node, wishes),
        timer_t1_ms=settings.sip_timer_t1_ms,
        external_address=settings.external_address,
        local_networks=local_networks(settings.local_networks) if settings.external_address else (),
        ca_file=MACHINE_AUTHORITIES,
        **_sip(wishes),  # type: ignore[arg-type]
    )
    files = _files(configuration, wishes)
    files["README.txt"] = readme(directory, node, database, wishes)
    migrate(owner_url)
    ensure_login(owner_url, database.user, database.password, "trunkline_asterisk")
    for name, text in files.items():
        write_private(directory / name, text)
    return node


def _owner_url(settings: Settings) -> str:
    url = settings.database_owner_url or settings.database_url
    if url is None:
        raise Unavailable("Postgres: not running; start trunkline with `trunkline up`, or set TRUNKLINE_DATABASE_URL")
    return url.get_secret_value()


def _node(settings: Settings, directory: Path, wishes: Wishes) -> Node:
    """As it is in TRUNKLINE_ASTERISK_NODES already, else with secrets of its own, made once."""
    known = next((node for node in settings.nodes if node.name == wishes.node), None)
    if known is not None:
        return known
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", wishes.node):
        raise Invalid("--node", "must be a short word of letters, digits, dots and dashes")
    host, port = _host_port("--ami", wishes.ami, 5038)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    secrets = directory / SECRETS
    return Node(
        name=wishes.node,
        host=host,
        port=port,
        listener=Login(username="trunkline-listener", secret=password(secrets, "ami_listener")),
        sender=Login(username="trunkline-sender", secret=password(secrets, "ami_sender")),
        max_calls=wishes.max_calls,
    )


def _database(owner_url: str, directory: Path, wishes: Wishes, *, away: bool) -> Database:
    ours = urlsplit(owner_url)
    host, port = ours.hostname or "127.0.0.1", ours.port or 5432
    if wishes.database:
        host, port = _host_port("--database", wishes.database, port)
    elif away and is_loopback(host):
        raise Invalid(
            "--database",
            f"that Asterisk is elsewhere: give HOST:PORT at which it reaches the Postgres at {host}:{port}",
        )
    login = "trunkline_asterisk_" + hashlib.sha256(f"{directory} {wishes.node}".encode()).hexdigest()[:8]
    return Database(
        host=host,
        port=port,
        name=unquote(ours.path.strip("/")),
        user=login,
        password=password(directory / SECRETS, "database"),
    )


def _permit(node: Node, wishes: Wishes) -> tuple[str, ...]:
    if not wishes.permit and not is_loopback(node.host):
        raise Invalid("--permit", "that Asterisk is elsewhere: give the addresses that trunkline's processes come from")
    try:
        networks = [ipaddress.ip_network(network, strict=False) for network in wishes.permit or ("127.0.0.1",)]
    except ValueError as error:
        raise Invalid("--permit", "must be an address or a network such as 10.0.0.0/24") from error
    return tuple(f"{network.network_address}/{network.netmask}" for network in networks)


def _sip(wishes: Wishes) -> dict[str, object]:
    if wishes.sip_bind is None:
        return {}
    host, port = _host_port("--sip-bind", wishes.sip_bind, 5060)
    return {"sip_host": host, "sip_port": port}


def _host_port(option: str, text: str, default: int) -> tuple[str, int]:
    host, _, port = text.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9.-]+", host) or (port and not port.isdecimal()):
        raise Invalid(option, "must be HOST or HOST:PORT")
    return host, int(port or default)


def _files(configuration: Configuration, wishes: Wishes) -> dict[str, str]:
    values = {**configuration.values(), "DIALPLAN_INCLUDE": ""}
    files = {}
    for name, piece in PIECES.items():
        text = "".join(
            chunk
            for section, chunk in _sections(render(templates()[name], values))
            if section not in piece.leaves_out
            and (wishes.sip_bind is not None or not (section or "").startswith("transport-"))
        )
        for section in piece.adds_to:
            text = text.replace(f"[{section}]\n", f"[{section}](+)\n", 1)
        if piece.drops:
            text = re.sub(rf"^{piece.drops}.*\n", "", text, flags=re.MULTILINE)
        files[name] = f"; {name}, {SIGNATURE}\n{text.rstrip()}\n"
    return files


def _sections(text: str) -> Iterator[tuple[str | None, str]]:
    """Name (None before the first) and text of each section; a comment right above a header belongs to it."""
    name: str | None = None
    chunk: list[str] = []
    comment: list[str] = []
    for line in text.splitlines(keepends=True):
        header = re.match(r"\[([^\]]+)\]", line)
        if header:
            yield name, "".join(chunk)
            name, chunk, comment = header[1], [*comment, line], []
        elif line.startswith(";"):
            comment.append(line)
        else:
            chunk += [*comment, line]
            comment = []
    yield name, "".join([*chunk, *comment])


def _refuse_strangers(directory: Path) -> None:
    for name in (*PIECES, "README.txt"):
        try:
            if SIGNATURE not in (directory / name).read_text(errors="replace").partition("\n")[0]:
                raise Conflict(f"{directory / name} is not one of ours: choose an empty directory; nothing was written")
        except FileNotFoundError:
            continue


def readme(directory: Path, node: Node, database: Database, wishes: Wishes) -> str:
    """How to set that Asterisk up, for the person who does it."""
    includes = "\n".join(f'    {name:<16} #include "{directory / name}"' for name in PIECES)
    transports = (
        "the transports are in the pjsip.conf here; yours must not bind the same ports."
        if wishes.sip_bind
        else "it needs transports that are named transport-udp, and transport-tcp and transport-tls for trunks that want them\n"
        "  (or make this again with --sip-bind HOST:PORT, and they are in the pjsip.conf here)."
    )
    return f"""README.txt, {SIGNATURE}

How to make an Asterisk of yours, version 22 or later, a node of trunkline. The files here hold passwords. Asterisk's user
has to be able to read them, and nobody else: chown -R asterisk: {directory}
If you move them to another machine, put them at the same path or change the paths below.

1. Add to the end of each of these files, in Asterisk's own configuration directory (usually /etc/asterisk):

{includes}

   The files that add to a section of yours say so with (+): [general] in manager.conf, res_pgsql.conf and cel.conf, [global] in
   cel_pgsql.conf, [settings] in extconfig.conf, [modules] in modules.conf have to be there above, if empty.

2. Take out of modules.conf:

    noload => res_config_pgsql.so
    noload => cel_pgsql.so

3. See to it that
   - res_pgsql.conf and cel_pgsql.conf name no other database of yours, and sorcery.conf has no other [res_pjsip];
   - rtp.conf gives two ports a call: rtpend - rtpstart + 1 is at least {2 * node.max_calls}; and it says
     rtcpinterval=1000, since what is lost is counted with each report and a call shorter than the first has lost nothing;
   - pjsip.conf has no other section with type=system, and {transports}
   - resolver_unbound.conf says under [general], and nothing else there,

    hosts =
    resolv =
    nameserver = 127.0.0.1@{NAMES_PORT}

     and `trunkline run names` runs on that machine, whenever Asterisk does. Asterisk tries every address of a gateway's name by itself,
     so that a phone may ring twice: this tells it of one only. It may stay as it is if every gateway is an address;
   - asterisk.conf does not set maxcalls, nor live_dangerously = yes;
   - it reaches Postgres at {database.host}:{database.port} when it starts: without it, it learns no columns and writes no CEL.
     Its login is {database.user}, a member of trunkline_asterisk, which reads views and writes the table cel.
   AMI is not encrypted: keep {node.host}:{node.port} on loopback, in a private network or in a tunnel. Whoever has a secret of its users
   reads every file in Asterisk's own format by AST_CONFIG (these too), and with the sender's can have your dialplan run and files
   written (Record): load no func_shell.so, func_env.so, func_curl.so, app_record.so or app_mixmonitor.so that you do not need. Without
   func_config.so nothing can be read so, and `trunkline doctor` cannot look at the files either.

4. Restart Asterisk (a reload does not set PJSIP's timers), and tell trunkline (several nodes with commas between):

    TRUNKLINE_ASTERISK_NODES={node}

5. Run `trunkline up` (or restart it) and `trunkline doctor`, which checks all this over AMI.
"""
