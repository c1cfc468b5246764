"""Whoever has no business here: raw AMI, raw SIP from anybody, and a carrier that says what it likes."""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from models.settings import Login, Node

_WAIT = 10.0


class RawAmi:
    """A login without any wrapper of ours: every line is written as it is."""

    def __init__(self, node: Node, login: Login, *, source: str = "127.0.0.1") -> None:
        self._link = socket.socket()
        self._link.settimeout(_WAIT)
        self._link.bind((source, 0))
        self._link.connect((node.host, node.port))
        self._read = b""
        self.login = self.ask("Login", f"Username: {login.username}", f"Secret: {login.secret}", "Events: off")

    def ask(self, action: str, *lines: str) -> str:
        """The response, its lines one after the other."""
        self._link.sendall("\r\n".join((f"Action: {action}", *lines, "\r\n")).encode())
        while True:
            while b"\r\n\r\n" in self._read:
                message, self._read = self._read.split(b"\r\n\r\n", 1)
                if b"Response: " in message and b"Event: " not in message:
                    return message.decode(errors="replace")
            received = self._link.recv(65_536)
            assert received, f"{action}: Asterisk has closed the connection"
            self._read += received

    def close(self) -> None:
        self._link.close()


def request(
    method: str, uri: str, *, source: str, own_port: int, from_user: str = "stranger", lines: str = "", cseq: int = 1
) -> str:
    """A SIP request of nobody's."""
    token, here = secrets.token_hex(8), f"{source}:{own_port}"
    return (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{token};rport\r\n"
        f"From: <sip:{from_user}@{source}>;tag={token}\r\nTo: <{uri}>\r\nContact: <sip:x@{here}>\r\n"
        f"Call-ID: {token}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n{lines}Content-Length: 0\r\n\r\n"
    )


def status_of(port: int, method: str, user: str, *, source: str, from_user: str = "stranger", lines: str = "") -> int:
    """The final status that our Asterisk gives to a request from `source`."""
    uri = f"sip:{user}@127.0.0.1:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind((source, 0))
        link.settimeout(_WAIT)
        text = request(method, uri, source=source, own_port=link.getsockname()[1], from_user=from_user, lines=lines)
        link.sendto(text.encode(), ("127.0.0.1", port))
        while True:
            answer = link.recv(65_535).decode()
            status = int(answer.split(" ", 2)[1])
            if status >= 200:
                if method == "INVITE":
                    to = _header(answer, "To")
                    ack = re.sub(r"^INVITE|(?<=CSeq: 1 )INVITE", "ACK", re.sub(r"To: .*", f"To: {to}", text))
                    link.sendto(ack.replace("\n", "\r\n").replace("\r\r", "\r").encode(), ("127.0.0.1", port))
                return status


class HostileCarrier:
    """Takes calls over UDP, and writes into its replies, and does in the calls, what no honest carrier would.

    A number that ends in 86 is busy; every other answers, and its call gets the requests in `sends`, whose statuses are kept;
    it ends when the last of them has been answered.
    """

    def __init__(self, words: str, sends: tuple[tuple[str, str, str], ...]) -> None:
        self.invited: list[str] = []  #: the request URI of each INVITE
        self.answers: dict[str, int] = {}  #: by the name of what was sent
        self._words, self._sends = words, sends
        self._link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._link.bind(("127.0.0.1", 0))
        self._link.settimeout(0.2)
        self._audio = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # nobody listens to what comes
        self._audio.bind(("127.0.0.1", 0))
        self.port: int = self._link.getsockname()[1]
        self._stop = threading.Event()
        self._seen: dict[str, str] = {}  # Call-ID → its INVITE
        self._sent: dict[str, str] = {}  # branch → the name of what was sent

    @contextmanager
    def running(self) -> Iterator[HostileCarrier]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            self._link.close()
            self._audio.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                data, (host, port) = self._link.recvfrom(65_535)
            except TimeoutError:
                continue
            self._take(data.decode(), (host, port))

    def _take(self, text: str, sender: tuple[str, int]) -> None:
        method = text.split(" ", 1)[0]
        if method == "SIP/2.0":
            branch = _header(text, "Via").partition("branch=")[2].partition(";")[0]
            if branch in self._sent and (status := int(text.split(" ", 2)[1])) >= 200:
                self.answers[self._sent[branch]] = status
                if self._sent[branch] == self._sends[-1][0]:
                    self._link.sendto(self._in_dialog(_header(text, "Call-ID"), "BYE", "", 99).encode(), sender)
        elif method == "INVITE":
            self._invite(text, sender)
        elif method == "ACK":
            invite = self._seen.pop(_header(text, "Call-ID"), None)
            if invite and not self._busy(invite):
                self._seen[_header(text, "Call-ID")] = invite
                for number, (name, verb, lines) in enumerate(self._sends, 1):
                    message = self._in_dialog(_header(text, "Call-ID"), verb, lines, number)
                    self._sent[_header(message, "Via").partition("branch=")[2]] = name
                    self._link.sendto(message.encode(), sender)
        else:
            self._link.sendto(self._reply(text, "200 OK").encode(), sender)

    def _busy(self, invite: str) -> bool:
        return "86@" in invite.partition("\r\n")[0]

    def _invite(self, text: str, sender: tuple[str, int]) -> None:
        if _header(text, "Call-ID") not in self._seen:
            self.invited.append(text.split(" ", 2)[1])
        self._seen[_header(text, "Call-ID")] = text
        lines = (
            f'P-Asserted-Identity: "{self._words}" <sip:+19005550100@127.0.0.1>\r\nServer: {self._words}\r\n'
            f'Reason: Q.850;cause=16;text="{self._words}"\r\nX-Trunkline: {self._words}\r\n'
        )
        if self._busy(text):
            self._link.sendto(self._reply(text, f"486 {self._words}", lines).encode(), sender)
            return
        sdp = (
            f"v=0\r\no={'-'} 1 1 IN IP4 127.0.0.1\r\ns={self._words}\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=audio {self._audio.getsockname()[1]} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=note:{self._words}\r\n"
        )
        self._link.sendto(self._reply(text, f"180 {self._words}", lines).encode(), sender)
        lines += f"Contact: <sip:callee@127.0.0.1:{self.port}>\r\nContent-Type: application/sdp\r\n"
        self._link.sendto(self._reply(text, f"200 {self._words}", lines, sdp).encode(), sender)

    def _reply(self, text: str, status: str, lines: str = "", body: str = "") -> str:
        vias = "".join(f"Via: {via}\r\n" for via in re.findall(r"^Via: (.*?)\r$", text, re.MULTILINE))
        to = _header(text, "To")
        to += "" if "tag=" in to else ";tag=hostile"
        return (
            f"SIP/2.0 {status}\r\n{vias}From: {_header(text, 'From')}\r\nTo: {to}\r\nCall-ID: {_header(text, 'Call-ID')}\r\n"
            f"CSeq: {_header(text, 'CSeq')}\r\n{lines}Content-Length: {len(body.encode())}\r\n\r\n{body}"
        )

    def _in_dialog(self, call_id: str, method: str, lines: str, number: int) -> str:
        invite = self._seen[call_id]
        target = re.search(r"<([^>]*)>", _header(invite, "Contact"))
        assert target
        return (
            f"{method} {target[1]} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{secrets.token_hex(8)}\r\n"
            f"From: {_header(invite, 'To')};tag=hostile\r\nTo: {_header(invite, 'From')}\r\nCall-ID: {call_id}\r\n"
            f"Contact: <sip:callee@127.0.0.1:{self.port}>\r\nCSeq: {number} {method}\r\nMax-Forwards: 70\r\n"
            f"{lines or 'Content-Length: 0' + chr(13) + chr(10)}" + ("\r\n" if not lines else "")
        )


def _header(text: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r?$", text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""
