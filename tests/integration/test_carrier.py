"""The carrier does what its table says, on the wire and in its log.

Every wait is for a message or for a line of the log and has a bound; nothing here measures time.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.carrier.carrier import Carrier, CarrierNotFound, CarrierNotStarted
from deploy.carrier.numbers import BEHAVIOURS, Behaviour, Kind, fictional_number
from deploy.carrier.scenario import REALM
from deploy.carrier.witness import CarrierCall, duplicates, read

USERNAME = "u<s>er"
PASSWORD = 'p"a&ss'
CALLER = "+12025550199"
PATIENCE = 15.0


@pytest.fixture(scope="module")
def carrier(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    with Carrier(
        tree=tree, directory=tmp_path_factory.mktemp("carrier"), username=USERNAME, password=PASSWORD
    ) as carrier:
        yield carrier


@pytest.fixture(scope="module")
def strict_carrier(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    with Carrier(
        tree=tree,
        directory=tmp_path_factory.mktemp("strict"),
        username=USERNAME,
        password=PASSWORD,
        challenge=True,
    ) as carrier:
        yield carrier


@dataclass(frozen=True, kw_only=True)
class Message:
    start: str
    text: str

    @property
    def status(self) -> int | None:
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0 ") else None

    @property
    def method(self) -> str:
        """Of a request its own, of a response the one it answers."""
        return self.header("CSeq").split()[1]

    @property
    def body(self) -> str:
        return self.text.partition("\r\n\r\n")[2]

    def header(self, name: str) -> str:
        found = re.search(rf"^{name}: *(.*?)\r?$", self.text, re.MULTILINE | re.IGNORECASE)
        assert found is not None, f"no {name} in {self.text}"
        return found[1]


@dataclass(kw_only=True)
class Caller:
    """The least SIP that can call: one dialog, no retransmission."""

    carrier: Carrier
    number: str
    caller: str = CALLER
    asserted: str | None = None
    call_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.connect((self.carrier.host, self.carrier.port))
        self.port = self.socket.getsockname()[1]
        self.uri = f"sip:{self.number}@{self.carrier.address}"
        self.to = f"<{self.uri}>"
        self.cseq = 0
        self.invite_text = b""

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(
        self, method: str, *, cseq: int | None = None, to: str = "", headers: str = "", body: str = ""
    ) -> bytes:
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        kind = "Content-Type: application/sdp\r\n" if body else ""
        text = (
            f"{method} {self.uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{self.call_id}{cseq}{method[0]};rport\r\n"
            f'From: "A <b>" <sip:{self.caller}@127.0.0.1>;tag={self.call_id}\r\n'
            f"To: {to or self.to}\r\n"
            f"Contact: <sip:contact-user@127.0.0.1:{self.port};x=y>\r\n"
            f"Call-ID: {self.call_id}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n"
            f"{headers}{kind}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self.socket.send(text)
        return text

    def invite(self, headers: str = "") -> None:
        asserted = f"P-Asserted-Identity: <sip:{self.asserted}@127.0.0.1>\r\n" if self.asserted else ""
        body = (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=audio {self.port} RTP/AVP 0 8 107 101\r\na=rtpmap:101 telephone-event/8000\r\na=rtpmap:107 opus/48000/2\r\n"
        )
        self.invite_text = self.request("INVITE", headers=asserted + headers, body=body)

    def receive(self) -> Message:
        text = self.socket.recv(65535).decode()
        return Message(start=text.partition("\r\n")[0], text=text)

    def hear(self, status: int, method: str = "INVITE") -> Message:
        """The next message, which is this response: what is retransmitted would fail here."""
        message = self.receive()
        assert (message.status, message.method) == (status, method), message.text
        if method == "INVITE" and status >= 180:
            assert ";tag=" in message.header("To")
        return message

    def acknowledge(self, response: Message) -> None:
        self.request("ACK", cseq=int(response.header("CSeq").split()[0]), to=response.header("To"))

    def answered(self) -> Message:
        """From 180 to our ACK."""
        self.hear(180)
        answer = self.hear(200)
        assert "RTP/AVP 0 " in answer.body
        self.to = answer.header("To")
        self.acknowledge(answer)
        return answer

    def hang_up(self) -> None:
        self.request("BYE")
        self.hear(200, "BYE")

    def is_hung_up(self) -> None:
        bye = self.receive()
        assert bye.start == f"BYE sip:contact-user@127.0.0.1:{self.port};x=y SIP/2.0"
        assert bye.header("From") == self.to
        assert bye.header("To").endswith(f";tag={self.call_id}")
        self.respond(bye)

    def respond(self, request: Message) -> None:
        kept = (f"{name}: {request.header(name)}\r\n" for name in ("Via", "From", "To", "Call-ID", "CSeq"))
        self.socket.send(f"SIP/2.0 200 OK\r\n{''.join(kept)}Content-Length: 0\r\n\r\n".encode())

    def cancel(self) -> None:
        """CANCEL, 200 to it, 487 to the INVITE, ACK."""
        self.request("CANCEL", cseq=self.cseq, to=f"<{self.uri}>")
        self.hear(200, "CANCEL")
        self.acknowledge(self.hear(487))

    def refused(self, status: int) -> Message:
        response = self.hear(status)
        self.acknowledge(response)
        return response

    def authorise(self, password: str) -> None:
        """Answers a 401 by a second INVITE."""
        challenge = self.refused(401).header("WWW-Authenticate")
        found = re.search(r'nonce="([^"]+)"', challenge)
        assert found is not None, challenge
        assert f'realm="{REALM}"' in challenge
        nonce = found[1]
        secret, request = (_md5(text) for text in (f"{USERNAME}:{REALM}:{password}", f"INVITE:{self.uri}"))
        self.invite(
            f'Authorization: Digest username="{USERNAME}", realm="{REALM}", nonce="{nonce}", uri="{self.uri}", '
            f'response="{_md5(f"{secret}:{nonce}:{request}")}", algorithm=MD5\r\n'
        )

    def seen(self, until: Callable[[CarrierCall], bool] = lambda call: call.end is not None) -> CarrierCall:
        """This call in the carrier's log, once it is so far."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for call in read(self.carrier.log):
                if call.sip_call_id == self.call_id and until(call):
                    return call
        raise AssertionError(self.carrier.log.read_text())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def number(digits: str) -> str:
    return fictional_number(202, digits)


REFUSALS = [behaviour for behaviour in BEHAVIOURS if behaviour.kind is Kind.REFUSE]


@pytest.mark.parametrize("plus", ["+", ""])
def test_stays_until_the_caller_hangs_up(carrier: Carrier, plus: str) -> None:
    with Caller(carrier=carrier, number=plus + number("00")[1:], asserted="+12025550198") as caller:
        caller.invite()
        caller.answered()
        caller.hang_up()
        call = caller.seen()
    assert (call.number, call.from_number, call.asserted_number) == (caller.number, CALLER, "+12025550198")
    assert call.request_uri == caller.uri
    assert call.codecs == ("ulaw", "alaw", "payload-107")
    assert (call.end, call.status, call.digest, call.invites_with_credentials) == ("bye-received", 200, "none", 0)
    times = [at for at in (call.invited_at, call.ringing_at, call.answered_at, call.ended_at) if at is not None]
    assert len(times) == 4
    assert times == sorted(times)


@pytest.mark.parametrize("digits", ["01", "02", "77"])
def test_hangs_up_first_at_the_contact_of_the_invite(carrier: Carrier, digits: str) -> None:
    with Caller(carrier=carrier, number=number(digits)) as caller:
        caller.invite()
        caller.answered()
        caller.is_hung_up()
        call = caller.seen()
    assert (call.end, call.status) == ("bye-sent", 200)


@pytest.mark.parametrize("digits", ["01", "02"])
def test_caller_may_hang_up_before_the_carrier_does(carrier: Carrier, digits: str) -> None:
    with Caller(carrier=carrier, number=number(digits)) as caller:
        caller.invite()
        caller.answered()
        caller.hang_up()
        assert caller.seen().end == "bye-received"


def test_presses_keys_one_after_the_other_and_stays(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("06")) as caller:
        caller.invite()
        caller.answered()
        for order, key in enumerate("12#0", start=2):
            info = caller.receive()
            assert info.start.startswith("INFO sip:contact-user@")
            assert info.header("Content-Type") == "application/dtmf-relay"
            assert info.header("CSeq") == f"{order} INFO"
            assert info.body.splitlines() == [f"Signal={key}", "Duration=160"]
            caller.respond(info)
        caller.hang_up()
        assert caller.seen().end == "bye-received"


def test_answers_late(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("05")) as caller:
        caller.invite()
        caller.answered()
        caller.hang_up()
        assert caller.seen().end == "bye-received"


def test_late_answer_can_be_cancelled_while_it_rings(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("05")) as caller:
        caller.invite()
        caller.hear(180)
        caller.cancel()
        call = caller.seen()
    assert (call.end, call.status, call.answered_at) == ("cancel", 487, None)


@pytest.mark.parametrize("behaviour", REFUSALS, ids=lambda behaviour: behaviour.digits)
def test_refuses(carrier: Carrier, behaviour: Behaviour) -> None:
    assert behaviour.status is not None
    with Caller(carrier=carrier, number=number(behaviour.digits)) as caller:
        caller.invite()
        if behaviour.rings_ms:
            caller.hear(180)
        response = caller.refused(behaviour.status)
        call = caller.seen()
    assert (call.end, call.status) == ("final", behaviour.status)
    if behaviour.status == 302:
        assert "elsewhere.invalid" in response.header("Contact")


def test_refuses_long_after_its_100(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("38")) as caller:
        caller.invite()
        caller.hear(100)
        caller.refused(408)
        call = caller.seen()
    assert (call.end, call.status, call.ringing_at) == ("final", 408, None)


@pytest.mark.parametrize(("digits", "status"), [("90", 180), ("91", 183), ("92", 100)])
def test_waits_for_the_cancel(carrier: Carrier, digits: str, status: int) -> None:
    with Caller(carrier=carrier, number=number(digits)) as caller:
        caller.invite()
        progress = caller.hear(status)
        assert bool(progress.body) == (status == 183)
        assert caller.seen(lambda _: True).end is None
        caller.cancel()
        call = caller.seen()
    assert (call.end, call.status, call.answered_at) == ("cancel", 487, None)
    assert (call.ringing_at is None) == (status != 180)
    assert not call.ignored


def test_silence_is_the_answer_to_retransmissions_and_cancel_too(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("93")) as silent, Caller(carrier=carrier, number=number("86")) as busy:
        silent.invite()
        silent.socket.send(silent.invite_text)
        silent.request("CANCEL", cseq=silent.cseq)
        busy.invite()
        busy.refused(486)  # SIPp reads its socket in order: whatever the silent one were to get has been sent
        silent.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.receive()
        call = silent.seen(lambda _: True)
    assert call.ignored
    assert call.end is None


def test_credentials_right(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("41")) as caller:
        caller.invite()
        caller.authorise(PASSWORD)
        caller.answered()
        caller.is_hung_up()
        call = caller.seen(lambda call: call.end == "bye-sent")
    assert (call.digest, call.invites_with_credentials, call.status) == ("right", 1, 200)


def test_credentials_wrong(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("41")) as caller:
        caller.invite()
        caller.authorise("not the password")
        caller.refused(403)
        call = caller.seen(lambda call: call.status == 403)
    assert (call.digest, call.invites_with_credentials, call.end) == ("wrong", 1, "final")


def test_credentials_not_given_end_in_401(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("41")) as caller:
        caller.invite()
        caller.refused(401)
        call = caller.seen()
    assert (call.digest, call.invites_with_credentials, call.status) == ("none", 0, 401)


@pytest.mark.parametrize("behaviour", REFUSALS, ids=lambda behaviour: str(behaviour.status))
def test_strict_carrier_lets_the_number_decide_after_the_credentials(
    strict_carrier: Carrier, behaviour: Behaviour
) -> None:
    assert behaviour.status is not None
    with Caller(carrier=strict_carrier, number=number(behaviour.digits)) as caller:
        caller.invite()
        caller.authorise(PASSWORD)
        if behaviour.rings_ms:
            caller.hear(180)
        caller.refused(behaviour.status)
        call = caller.seen(lambda call: call.status == behaviour.status)
    assert (call.digest, call.end) == ("right", "final")


@pytest.mark.parametrize("digits", ["00", "41", "77"])
def test_strict_carrier_answers_after_the_credentials(strict_carrier: Carrier, digits: str) -> None:
    with Caller(carrier=strict_carrier, number=number(digits)) as caller:
        caller.invite()
        caller.authorise(PASSWORD)
        caller.answered()
        caller.hang_up()
        call = caller.seen(lambda call: call.end == "bye-received")
    assert (call.digest, call.invites_with_credentials) == ("right", 1)


@pytest.mark.parametrize(("digits", "status"), [("90", 180), ("91", 183), ("92", 100)])
def test_strict_carrier_waits_for_the_cancel(strict_carrier: Carrier, digits: str, status: int) -> None:
    with Caller(carrier=strict_carrier, number=number(digits)) as caller:
        caller.invite()
        caller.authorise(PASSWORD)
        caller.hear(status)
        caller.cancel()
        assert caller.seen(lambda call: call.end == "cancel").digest == "right"


def test_strict_carrier_refuses_wrong_credentials(strict_carrier: Carrier) -> None:
    with Caller(carrier=strict_carrier, number=number("00")) as caller:
        caller.invite()
        caller.authorise("not the password")
        caller.refused(403)
        assert caller.seen(lambda call: call.status == 403).digest == "wrong"


@pytest.mark.parametrize("plus", [True, False])
def test_a_number_that_is_not_written_as_the_carrier_wants_it_does_not_exist(
    tree: Path, tmp_path: Path, plus: bool
) -> None:
    with Carrier(tree=tree, directory=tmp_path, username=USERNAME, password=PASSWORD, plus=plus) as fussy:
        for written, status in ((number("86"), 486 if plus else 404), (number("86")[1:], 404 if plus else 486)):
            with Caller(carrier=fussy, number=written) as caller:
                caller.invite()
                caller.refused(status)


def test_retransmissions_are_answered_again_and_are_no_new_call(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=fictional_number(303, "86")) as caller:
        caller.invite()
        response = caller.hear(486)
        caller.socket.send(caller.invite_text)
        assert caller.hear(486).text == response.text
        caller.acknowledge(response)
        caller.acknowledge(response)
        caller.seen()
        caller.socket.send(caller.invite_text)  # after the end
        with Caller(carrier=carrier, number=number("86")) as another:
            another.invite()
            another.refused(486)
        calls = read(carrier.log)
    assert caller.number not in duplicates(calls)
    assert carrier.log.read_text().count(f" invite {caller.call_id} ") == 1


def test_a_bye_sent_again_is_answered_again(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("00")) as caller:
        caller.invite()
        caller.answered()
        bye = caller.request("BYE")
        caller.hear(200, "BYE")
        caller.socket.send(bye)
        caller.hear(200, "BYE")
        caller.seen()
    assert carrier.log.read_text().count(f" bye-received {caller.call_id}") == 1


def test_a_cancel_that_crosses_the_answer_does_not_end_the_call(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("00")) as caller:
        caller.invite()
        caller.hear(180)
        answer = caller.hear(200)
        caller.request("CANCEL", cseq=caller.cseq)
        caller.hear(200, "CANCEL")
        caller.to = answer.header("To")
        caller.acknowledge(answer)
        caller.hang_up()
        assert caller.seen().end == "bye-received"


@pytest.mark.parametrize("method", ["INVITE", "UPDATE", "INFO", "OPTIONS"])
def test_requests_in_a_call_leave_it_up(carrier: Carrier, method: str) -> None:
    with Caller(carrier=carrier, number=number("00")) as caller:
        caller.invite()
        caller.answered()
        caller.request(method)
        response = caller.hear(200, method)
        if method == "INVITE":
            caller.acknowledge(response)
        caller.hang_up()
        assert caller.seen().end == "bye-received"
    assert carrier.log.read_text().count(f" invite {caller.call_id} ") == 1


def test_byes_that_cross_end_the_call_for_both(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("01")) as caller:
        caller.invite()
        caller.answered()
        bye = caller.receive()
        assert bye.method == "BYE"
        caller.hang_up()
        assert caller.seen().end == "bye-sent"


def test_audio_is_echoed(carrier: Carrier) -> None:
    with Caller(carrier=carrier, number=number("00")) as caller:
        caller.invite()
        answer = caller.answered()
        port = re.search(r"m=audio (\d+)", answer.body)
        assert port is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as audio:
            audio.settimeout(PATIENCE)
            packet = b"\x80\x00\x00\x01" + bytes(8) + b"\xff" * 160
            audio.sendto(packet, (carrier.host, int(port[1])))
            assert audio.recv(2048) == packet
        caller.hang_up()


def test_carriers_run_side_by_side(carrier: Carrier, strict_carrier: Carrier) -> None:
    assert carrier.address != strict_carrier.address
    assert carrier.running
    assert strict_carrier.running


def test_stops_twice_and_starts_again_at_the_same_address(tree: Path, tmp_path: Path) -> None:
    carrier = Carrier(tree=tree, directory=tmp_path, username=USERNAME, password=PASSWORD)
    try:
        carrier.start()
        address = carrier.address
        with Caller(carrier=carrier, number=number("90")) as first:
            first.invite()
            first.hear(180)
        carrier.stop()
        carrier.stop()
        assert not carrier.running
        assert [call.sip_call_id for call in read(carrier.log)] == [first.call_id]
        carrier.start()
        assert carrier.address == address
        with Caller(carrier=carrier, number=number("86")) as second:
            second.invite()
            second.refused(486)
        assert [call.sip_call_id for call in read(carrier.log)] == [first.call_id, second.call_id]
    finally:
        carrier.stop()


def test_a_port_that_is_taken_is_said(tree: Path, tmp_path: Path, carrier: Carrier) -> None:
    second = Carrier(tree=tree, directory=tmp_path, username=USERNAME, password=PASSWORD, port=carrier.port)
    with pytest.raises(CarrierNotStarted, match=re.escape(carrier.address)):
        second.start()
    assert not second.running


def test_a_tree_without_sipp_is_said(tmp_path: Path) -> None:
    with pytest.raises(CarrierNotFound):
        Carrier(tree=tmp_path, directory=tmp_path, username=USERNAME, password=PASSWORD).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no privileges to give up")
def test_root_gives_up_its_privileges(carrier: Carrier) -> None:
    assert carrier.command()[0] == "unshare"


def test_every_behaviour_is_tried_here() -> None:
    tried = {"00", "01", "02", "05", "06", "38", "41", "90", "91", "92", "93"} | {
        behaviour.digits for behaviour in REFUSALS
    }
    assert tried == {behaviour.digits for behaviour in BEHAVIOURS}
