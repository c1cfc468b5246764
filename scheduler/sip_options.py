"""The one SIP request that trunkline sends itself: OPTIONS, and how its answer is read (RFC 3261, 11).

Whoever answers is a stranger: an answer is bytes of any kind, and counts only if it is a response to
this very request, by its branch, Call-ID and CSeq. Reading never raises for what a peer has sent.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass

LONGEST_HEAD = 65_536  #: bytes of a message up to its empty line; more is no SIP

_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: (.*))?", re.IGNORECASE)
_FOLD = re.compile(r"\r?\n[ \t]+")
_COMPACT = {"v": "via", "i": "call-id", "l": "content-length"}
_BLANKS = " \t"


@dataclass(frozen=True, kw_only=True)
class Options:
    """One OPTIONS request with ids of its own."""

    uri: str
    transport: str  #: UDP, TCP or TLS
    sent_by: str  #: HOST:PORT that the answer is to come to
    token: str

    @classmethod
    def to(cls, host: str, port: int | None, *, transport: str, local: tuple[str, int]) -> Options:
        """To `host` as the trunk names it (an IPv6 address in brackets), sent from the address `local`."""
        parameter = "" if transport == "UDP" else f";transport={transport.lower()}"
        return cls(
            uri=f"sip:{host}{f':{port}' if port else ''}{parameter}",
            transport=transport,
            sent_by=f"{f'[{local[0]}]' if ':' in local[0] else local[0]}:{local[1]}",
            token=secrets.token_hex(12),
        )

    @property
    def branch(self) -> str:
        return f"z9hG4bK{self.token}"

    def __bytes__(self) -> bytes:
        here = self.sent_by.rpartition(":")[0]
        return (
            f"OPTIONS {self.uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/{self.transport} {self.sent_by};branch={self.branch};rport\r\n"
            f"From: <sip:trunkline@{here}>;tag={self.token[:8]}\r\n"
            f"To: <{self.uri}>\r\n"
            f"Contact: <sip:trunkline@{self.sent_by}>\r\n"
            f"Call-ID: {self.token}\r\n"
            "CSeq: 1 OPTIONS\r\n"
            "Max-Forwards: 70\r\n"
            "User-Agent: trunkline\r\n"
            "Accept: application/sdp\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode("ascii")

    def answered_by(self, message: bytes) -> Answer | None:
        """The answer to this request; None for any other bytes, a request and an answer to somebody else included."""
        head = message.partition(b"\r\n\r\n")[0]
        if len(head) > LONGEST_HEAD:
            return None
        start, _, rest = head.decode("utf-8", "replace").partition("\r\n")
        status = _STATUS_LINE.fullmatch(start)
        if status is None:
            return None
        headers = _headers(rest)
        via = _parameters(headers.get("via", "").partition(",")[0])
        if (
            via.get("branch") != self.branch
            or headers.get("call-id") != self.token
            or headers.get("cseq", "").split() != ["1", "OPTIONS"]
        ):
            return None
        return Answer(
            status=int(status[1]), reason=_printable(status[2] or ""), seen_as=_address(via.get("received", ""))
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a gateway said to an OPTIONS; any status shows that SIP is spoken there."""

    status: int
    reason: str
    seen_as: str | None  #: our address as the gateway saw it (RFC 3581, 4: `received`); None: it does not say


class Stream:
    """Messages out of a TCP or TLS stream. `feed` raises `NotSip` for what cannot be cut into messages."""

    def __init__(self) -> None:
        self._held = b""
        self._body = 0  # bytes of a body that are still to be passed over

    def feed(self, data: bytes) -> list[bytes]:
        """The heads of the messages that are whole now; bodies are passed over, and so are keep-alives (RFC 5626)."""
        self._held += data
        heads: list[bytes] = []
        while True:
            passed = min(self._body, len(self._held))
            self._held, self._body = self._held[passed:], self._body - passed
            if self._body:
                return heads
            self._held = self._held.lstrip(b"\r\n")
            head, end, rest = self._held.partition(b"\r\n\r\n")
            if len(head) > LONGEST_HEAD:
                raise NotSip
            if not end:
                return heads
            self._held = rest
            length = _headers(head.decode("utf-8", "replace").partition("\r\n")[2]).get("content-length", "0")
            if not re.fullmatch(r"[0-9]{1,7}", length):
                raise NotSip
            self._body = int(length)
            heads.append(head + end)


class NotSip(Exception):
    """What came is no SIP."""


def _headers(text: str) -> dict[str, str]:
    """Names in small letters, compact forms written out; of several with one name the first, as it is the top Via."""
    headers: dict[str, str] = {}
    for line in _FOLD.sub(" ", text).split("\r\n"):
        name, _, value = line.partition(":")
        name = name.strip(_BLANKS).lower()
        headers.setdefault(_COMPACT.get(name, name), value.strip(_BLANKS))
    return headers


def _parameters(via: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for part in via.split(";")[1:]:
        name, _, value = part.partition("=")
        parameters.setdefault(name.strip(_BLANKS).lower(), value.strip(_BLANKS))
    return parameters


def _address(text: str) -> str | None:
    if "%" in text:  # a zone may be any text
        return None
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None


def _printable(text: str) -> str:
    """Short, on one line, and nothing in it that a terminal would obey."""
    return "".join(character for character in text if character.isprintable())[:60]
