"""The files in `etc/`, filled in: `@NAME@` stands for a value (the dialplan has its own use for `${...}`).

One text serves an Asterisk that trunkline runs, which gets every file whole, and one of yours, which
includes what `trunkline asterisk export` makes of it: the sections that are ours, added to yours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from models.errors import Invalid
from models.settings import Login

SHORTEST_TIMER_T1 = 100  # pjsip resets a lower one


@dataclass(frozen=True, kw_only=True)
class Database:
    """The login that reads the views `ps_*` and writes the table `cel`."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What an Asterisk is told, wherever it runs. SIP is at `sip_host:sip_port`, over TLS one port above it."""

    database: Database
    listener: Login
    sender: Login
    ami_host: str = "127.0.0.1"
    ami_port: int = 5038
    ami_permit: tuple[str, ...] = ("127.0.0.1/255.255.255.255",)
    sip_host: str = "127.0.0.1"
    sip_port: int = 5060
    rtp_start: int = 10_000
    rtp_end: int = 10_399
    timer_t1_ms: int = 100
    external_address: str | None = None
    local_networks: tuple[str, ...] = ()
    ca_file: Path | None = None

    def values(self) -> dict[str, str]:
        """What stands for `@NAME@`. Raises `Invalid` for what cannot be written."""
        return {
            "FINGERPRINT": fingerprint(),
            "TIMER_T1": str(self.timer_t1_ms),
            "TIMER_B": str(64 * self.timer_t1_ms),
            "SIP_HOST": written(self.sip_host),
            "SIP_PORT": str(self.sip_port),
            "TLS_PORT": str(self.sip_port + 1),
            "CA_FILE": written(self.ca_file or ""),
            "NAT": self._behind_nat(),
            "DB_HOST": written(self.database.host),
            "DB_PORT": str(self.database.port),
            "DB_NAME": written(self.database.name),
            "DB_USER": written(self.database.user),
            "DB_PASSWORD": written(self.database.password),
            "RTP_START": str(self.rtp_start),
            "RTP_END": str(self.rtp_end),
            "AMI_HOST": written(self.ami_host),
            "AMI_PORT": str(self.ami_port),
            "AMI_PERMIT": "\n".join(f"permit = {written(network)}" for network in self.ami_permit),
            "AUTHS": self._family_of_passwords(),
            "LISTENER_USER": written(self.listener.username),
            "LISTENER_SECRET": written(self.listener.secret),
            "SENDER_USER": written(self.sender.username),
            "SENDER_SECRET": written(self.sender.secret),
        }

    def _family_of_passwords(self) -> str:
        """By which realtime asks for credentials. Any AMI user may ask as well (Getvar, REALTIME), if it knows the name."""
        return "ps_auths_" + hashlib.sha256(f"ps_auths {self.database.password}".encode()).hexdigest()[:32]

    def _behind_nat(self) -> str:
        lines = [f"local_net = {written(network)}\n" for network in self.local_networks]
        if self.external_address:
            address = written(self.external_address)
            lines += [f"external_signaling_address = {address}\n", f"external_media_address = {address}\n"]
        return "".join(lines)


@cache
def templates() -> Mapping[str, str]:
    """The text of every file in `etc/`, by name."""
    found = (resources.files("asterisk") / "etc").iterdir()
    return {file.name: file.read_text() for file in sorted(found, key=lambda f: f.name) if file.name.endswith(".conf")}


@cache
def fingerprint() -> str:
    """Which templates an Asterisk was set up from; its dialplan tells it to `trunkline doctor`."""
    digest = hashlib.sha256()
    for name, text in templates().items():
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:12]


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with every `@NAME@` replaced. Raises `KeyError` for a name without a value."""
    return re.sub(r"@([A-Z][A-Z0-9_]*)@", lambda match: values[match[1]], template)


def told(text: str, files: Mapping[str, str]) -> str:
    """The dialplan with each `${AST_CONFIG(FILE,SECTION,NAME)}` replaced by what that file says.

    For an Asterisk that goes without func_config, by which every AMI user could read every secret in its files.
    """

    def value(asked: re.Match[str]) -> str:
        file, section, name = asked.groups()
        _, _, lines = files[file].partition(f"[{section}]\n")
        found = re.search(
            rf"^{name} *= *([\w.:@-]*) *(;.*)?$", re.split(r"^\[", lines, flags=re.MULTILINE)[0], re.MULTILINE
        )
        return found[1] if found else ""

    return re.sub(r"\$\{AST_CONFIG\(([^,)]+),([^,)]+),([^,)]+)\)\}", value, text)


def written(value: object) -> str:
    """Safe as the value of one option: Asterisk takes `;` for a comment and a line's end for its end.

    Raises `Invalid` for what cannot be written.
    """
    text = str(value)
    if re.search(r'[\x00-\x1f\x7f"]', text) or text != text.strip():
        raise Invalid(
            "asterisk",
            f"a value of its configuration has a quote, a control character or outer spaces ({len(text)} long)",
        )
    return text.replace("\\;", "\\\\;").replace(";", "\\;")
