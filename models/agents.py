"""Where an agent is: the URI of its `connect`, taken apart.

    audiosocket://HOST:PORT      an AudioSocket server; G.711 u-law frames
    dialplan://CONTEXT/EXTEN     an extension of your own dialplan
    playback://SOUND             a sound of Asterisk's, or several folders deep: demo/hello

What passes here becomes channel variables and the data of `Dial`, `Goto` and `Playback`, so only an
allow-list of characters does: no comma, quote, semicolon, blank, `$`, `&` or control character.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from models.errors import Invalid

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_CONTEXT = re.compile(r"(?!trunkline-)[A-Za-z0-9][A-Za-z0-9_.-]{0,78}")  # AST_MAX_CONTEXT is 80, with the final NUL
_EXTEN = re.compile(r"[A-Za-z0-9*#+][A-Za-z0-9*#+_.-]{0,78}")  # one that starts with _ is a pattern
_SOUND = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_SOUND_LIMIT = 200
DEFAULT_FALLBACK = "sorry&goodbye"
"""What a person hears whom the agent does not reach, of Asterisk's core sounds: "We're sorry. Goodbye!"."""

_FORMS = "audiosocket://HOST:PORT, dialplan://CONTEXT/EXTEN or playback://SOUND"


class Kind(StrEnum):
    """Also the extensions of Asterisk's context `trunkline-agent`."""

    AUDIOSOCKET = "audiosocket"
    DIALPLAN = "dialplan"
    PLAYBACK = "playback"


@dataclass(frozen=True, kw_only=True, slots=True)
class Connect:
    """A `connect` that was understood; `str()` gives the URI back.

    `parts` are (HOST:PORT,), (CONTEXT, EXTEN) or (SOUND,).
    """

    kind: Kind
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}://{'/'.join(self.parts)}"

    @property
    def variables(self) -> Mapping[str, str]:
        """The channel variables that `asterisk/etc/extensions.conf` reads."""
        names = ("TL_CONTEXT", "TL_EXTEN") if self.kind is Kind.DIALPLAN else ("TL_AGENT",)
        return dict(zip(names, self.parts, strict=True))


def parse_connect(text: str) -> Connect:
    """Takes a `connect` URI apart. Raises `Invalid` with the form that would be right."""
    scheme, separator, rest = text.partition("://")
    if scheme in {"ws", "wss"} and separator:
        raise Invalid("connect", f"{scheme}:// is not supported yet: use {_FORMS}")
    match scheme if separator else None:
        case Kind.AUDIOSOCKET:
            host, port = host_and_port(rest, field="connect")
            if port is None:
                raise Invalid("connect", "has no port: must be audiosocket://HOST:PORT")
            return Connect(kind=Kind.AUDIOSOCKET, parts=(f"{host}:{port}",))
        case Kind.DIALPLAN:
            context, slash, exten = rest.partition("/")
            if not slash or not _CONTEXT.fullmatch(context) or not _EXTEN.fullmatch(exten):
                raise Invalid(
                    "connect",
                    "must be dialplan://CONTEXT/EXTEN: CONTEXT of letters, digits, _ . and -, none of trunkline's own,"
                    " EXTEN of letters, digits, * # + _ . and -, each at most 79",
                )
            return Connect(kind=Kind.DIALPLAN, parts=(context, exten))
        case Kind.PLAYBACK:
            return Connect(kind=Kind.PLAYBACK, parts=(check_sound(rest, field="connect", form="playback://SOUND"),))
        case _:
            raise Invalid("connect", f"must be {_FORMS}")


def check_sound(text: str, *, field: str, form: str = "SOUND") -> str:
    """A sound of Asterisk's. Raises `Invalid`, naming `field`."""
    if not _SOUND.fullmatch(text) or len(text) > _SOUND_LIMIT:
        raise Invalid(
            field,
            f"must be {form}: a sound without its extension, such as demo-congrats or mine/hello,"
            f" of letters, digits, _ - and /, at most {_SOUND_LIMIT}",
        )
    return text


def host_and_port(text: str, *, field: str) -> tuple[str, int | None]:
    """`HOST[:PORT]`, where HOST is a host name, an IPv4 address or an IPv6 address in brackets.

    Raises `Invalid`, naming `field`.
    """
    bracketed = text.startswith("[")
    if bracketed:
        host, bracket, rest = text.partition("]")
        host += bracket
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in {"", ":"}:
            raise Invalid(field, "must be HOST or HOST:PORT; an IPv6 address as [2001:db8::1]:5060")
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            raise Invalid(
                field,
                "has several colons: must be HOST or HOST:PORT; an IPv6 address goes in brackets, as [2001:db8::1]:5060",
            )
    return check_host(host, field=field), _port(port, field) if colon else None


def check_host(host: str, *, field: str) -> str:
    """A host name, an IPv4 address or an IPv6 address in brackets. Raises `Invalid`, naming `field`."""
    if host.startswith("["):
        valid = host.endswith("]") and "%" not in host and _is_address(host[1:-1], ipaddress.IPv6Address)
    elif host and all(character in "0123456789." for character in host):
        valid = _is_address(host, ipaddress.IPv4Address)
    else:
        valid = len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))
    if not valid:
        raise Invalid(
            field, "must have a host name (sip.example.com), an IPv4 address or an IPv6 address in brackets as its host"
        )
    return host


def _is_address(text: str, kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _port(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise Invalid(field, "must have a port from 1 to 65535 after its colon")
    return int(text)
