"""The table of numbers as a SIPp scenario.

Traps that shaped it, read in SIPp's call.cpp (June 2026) and met in SIPp 3.8.0:

- An INVITE that SIPp has already seen is answered again by its own retransmission detection, never by the scenario. The
  detection holds only the last message, so a call stays known after its end (`timewait`, then `-deadcall_wait`).
- A receive timeout belongs to the first `recv` of a group and is armed only when the call is run there. An optional
  message that comes before that disarms it for good, so every optional `recv` here has a `next`.
- Default behaviours are off (`-default_behaviors none`): with them, a message out of turn ends the call with a BYE that
  nobody logs. What may come at any time is therefore named in each group of `recv`.
- A send with retransmission blocks the next send until something of the peer stops it.
- A call makes one step, whatever it is, each time round SIPp's loop, about a millisecond: hence log actions inside `send`,
  and numbers sought by their tens first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from xml.sax.saxutils import quoteattr

from deploy.carrier.numbers import ANY_OTHER, BEHAVIOURS, BY_DIGITS, Behaviour, Kind

REALM = "carrier"

_TAG = "[pid]-[call_number]"
_CONTACT = "Contact: <sip:carrier@[local_ip]:[local_port];transport=[transport]>"
# `crypto` begins with the line's end, and is empty where none was offered. It is the caller's own line: with the key
# that the caller sends by it can read what the echo sends back.
_SDP = """\
v=0
o=carrier 1 1 IN IP[media_ip_type] [media_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] [$profile] 0 101
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
a=sendrecv[$crypto]"""

# A caller may retransmit for 32 s (64 times RFC 3261's T1). For so long after the whole call, which can answer again, is
# gone, its Call-ID alone is kept (`-deadcall_wait`), which can not, but begins no new call either.
_LINGER_MS = 2000
_PRESSES_AFTER_MS = 500
_CHALLENGE_MS = 32000
_SILENCE_MS = 40000


def render(
    *, username: str, password: str, challenge: bool, server: str, always: str = "", plus: bool | None = None
) -> str:
    """The scenario as XML. With `challenge` every number but the silent one is asked for these credentials.

    `always`: two digits, whose behaviour every number has. `plus`: how a number must be written in order to exist.

    `server` is what OPTIONS is answered with, so that a pinger can tell this carrier from another on its port.
    """
    for value in (username, password, server):
        if any(character in "[]" or not character.isprintable() for character in value):
            raise ValueError("SIPp would read square brackets in credentials as keywords")
    answers = {_label(behaviour): behaviour for behaviour in BEHAVIOURS}
    parts = [
        _incoming(),
        *(_branch(b) for b in BEHAVIOURS if b.kind is Kind.SILENT),
        '<nop next="challenge"/>' if challenge else "",
        *(_branch(b, to="challenge") for b in BEHAVIOURS if b.challenges and not challenge),
        '<label id="admitted"/>',
        _jump_if("^[0-9]" if plus else "^[+]", "number_04", hit="miswritten") if plus is not None else "",
        f'<nop next="{_label(BY_DIGITS[always])}"/>' if always else "",
        *_branches(b for b in BEHAVIOURS if b.kind is not Kind.SILENT),
        *(_block(label, behaviour) for label, behaviour in answers.items()),
        _challenge(username, password),
        _cancelled(),
        _acknowledged(),
        _hung_up(),
        _options(server),
        '<label id="linger"/>',
        f'<timewait milliseconds="{_LINGER_MS}"/>',
    ]
    body = "\n".join(part for part in parts if part)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<scenario name="trunkline carrier">\n{body}\n</scenario>\n'


_INVITE_FIELDS = (
    "uri=[$uri]",
    "via=[$via]",
    "from=[$caller]",
    "contact=[$contact]",
    "asserted=[$asserted]",
    "profile=[$profile]",
    "crypto=[$suite]",
    "dtmf=[$dtmf]",
    "formats=[$formats]",
)


def _label(behaviour: Behaviour) -> str:
    return f"number_{behaviour.digits}"


def _incoming() -> str:
    # A late stray of a forgotten call makes SIPp create a call: it ends by the timeout.
    return f"""\
<recv request="OPTIONS" optional="true" next="options" timeout="1000" ontimeout="linger"/>
<recv request="INVITE" rrs="true" ignoresdp="true">
  <action>
    <ereg regexp="^INVITE (sips?:([^@; ]*)[^ ]*)" search_in="msg" assign_to="_whole,uri,number"/>
    <ereg regexp=".*" search_in="hdr" header="From:" start_line="true" assign_to="from"/>
    <ereg regexp=".*" search_in="hdr" header="To:" start_line="true" assign_to="to"/>
    <ereg regexp="SIP/2.0/([A-Z]+)" search_in="hdr" header="Via:" start_line="true" assign_to="_whole,via"/>
    <ereg regexp="sips?:([^&gt;; ]*)" search_in="hdr" header="From:" start_line="true" assign_to="_whole,caller"/>
    <ereg regexp="sips?:([^&gt;; ]*)" search_in="hdr" header="Contact:" start_line="true" assign_to="_whole,contact"/>
    <ereg regexp="(sips?|tel):([^@&gt;; ]*)" search_in="hdr" header="P-Asserted-Identity:"
          assign_to="_whole,_scheme,asserted"/>
    <ereg regexp="m=audio [0-9]+ ([A-Z/]+) ([0-9 ]+)" search_in="msg" assign_to="_whole,profile,formats"/>
    <ereg regexp="a=rtpmap:([0-9]+) telephone-event" search_in="msg" assign_to="_whole,dtmf"/>
    <ereg regexp="[[:cntrl:]]+a=crypto:[0-9]+ ([A-Z0-9_]+) inline:[A-Za-z0-9+/=]+" search_in="msg"
          assign_to="crypto,suite"/>
    {_log_action("invite", *_INVITE_FIELDS)}
  </action>
</recv>
<Reference variables="_whole,_scheme"/>"""


def _branches(behaviours: Iterable[Behaviour]) -> Iterator[str]:
    """To the block of the number that was dialled, by its tens, then by its units."""
    tens: dict[str, list[Behaviour]] = defaultdict(list)
    for behaviour in behaviours:
        tens[behaviour.digits[0]].append(behaviour)
    for digit in tens:
        yield _jump_if(f"{digit}[0-9]$", f"tens_{digit}", hit="tens")
    yield f'<nop next="{_label(ANY_OTHER)}"/>'
    for digit, group in tens.items():
        yield f'<label id="tens_{digit}"/>'
        yield from (_branch(behaviour) for behaviour in group)
        yield f'<nop next="{_label(ANY_OTHER)}"/>'


def _branch(behaviour: Behaviour, *, to: str = "") -> str:
    return _jump_if(f"{behaviour.digits}$", to or _label(behaviour), hit="hit" if not to else "challenged")


def _jump_if(number: str, label: str, *, hit: str) -> str:
    """To the label if the number is such. `hit` stays set, so it may serve only where its jump leads away for good."""
    return (
        f'<nop next="{label}" test="{hit}"><action>'
        f'<ereg regexp="{number}" search_in="var" variable="number" assign_to="{hit}"/></action></nop>'
    )


def _block(label: str, behaviour: Behaviour) -> str:
    begin = f'<label id="{label}"/>\n'
    match behaviour.kind:
        case Kind.ANSWER:
            return begin + _answer(label, behaviour)
        case Kind.REFUSE:
            return begin + _refuse(label, behaviour)
        case Kind.RING:
            return begin + _reply("180 Ringing", log="ringing") + _WAIT_FOR_CANCEL
        case Kind.PROGRESS:
            return begin + _reply("183 Session Progress", log="progress", sdp=True) + _WAIT_FOR_CANCEL
        case Kind.TRYING if behaviour.rings_ms:
            return begin + _refuse(label, behaviour)
        case Kind.TRYING:
            return begin + _reply("100 Trying", log="trying", tag=False) + _WAIT_FOR_CANCEL
        case Kind.SILENT:
            return begin + f'<pause milliseconds="{_SILENCE_MS}"/>\n<nop next="linger"/>'


_WAIT_FOR_CANCEL = '\n<recv request="CANCEL"/>\n<nop next="cancelled"/>'


def _refuse(label: str, behaviour: Behaviour) -> str:
    elsewhere = ("Contact: <sip:+12025550100@elsewhere.invalid>",) if behaviour.status == 302 else ()
    refusal = _reply(
        f"{behaviour.status} {behaviour.reason}",
        *elsewhere,
        log=f"final {behaviour.status}",
        retransmit=True,
        then="acknowledged",
    )
    if not behaviour.rings_ms:
        return refusal
    first = (
        _reply("100 Trying", log="trying", tag=False)
        if behaviour.kind is Kind.TRYING
        else _reply("180 Ringing", log="ringing")
    )
    return "\n".join((first, _ring(behaviour, then=f"{label}_refusal"), refusal))


def _ring(behaviour: Behaviour, *, then: str) -> str:
    """Rings for a while; the label `then` follows unless the caller gives up."""
    return (
        f'<recv request="CANCEL" timeout="{behaviour.rings_ms}" ontimeout="{then}"/>\n<nop next="cancelled"/>\n'
        f'<label id="{then}"/>'
    )


def _answer(label: str, behaviour: Behaviour) -> str:
    """180, perhaps a while of it, 200, then everything that may come in a call that is up."""
    hangs_up = behaviour.hangs_up_after_ms
    limit = f' timeout="{hangs_up}" ontimeout="hang_up"' if hangs_up is not None else ""
    if behaviour.presses:
        limit = f' timeout="{_PRESSES_AFTER_MS}" ontimeout="{label}_press"'
    return "\n".join(
        (
            _reply("180 Ringing", log="ringing"),
            _ring(behaviour, then=f"{label}_answer") if behaviour.rings_ms else "",
            _reply("200 OK", _ALLOW, log="answered", sdp=True, retransmit=True),
            f'<label id="{label}_wait"/>',
            f'<recv request="ACK" optional="true" ignoresdp="true" next="{label}_up"/>',
            # The CANCEL that crossed our 200 has lost (RFC 3261, 9.2): the call is up until the BYE.
            f'<recv request="CANCEL" optional="true" next="{label}_late"/>',
            '<recv request="BYE"/>',
            '<nop next="hung_up"/>',
            f'<label id="{label}_late"/>',
            _reply("200 OK", then=f"{label}_wait"),
            *_up(f"{label}_up", limit),
            *(_press(f"{label}_press", behaviour.presses, then=f"{label}_pressed") if behaviour.presses else ()),
            *(_up(f"{label}_pressed", "") if behaviour.presses else ()),
        )
    )


def _up(label: str, limit: str) -> Iterator[str]:
    """Whatever may come in a call that is up, until the BYE; `limit` is the attributes of a time that ends it."""
    yield f'<label id="{label}"/>'
    yield f'<recv request="INVITE" optional="true" ignoresdp="true" next="{label}_again"{limit}/>'
    yield f'<recv request="UPDATE" optional="true" ignoresdp="true" next="{label}_again"/>'
    yield f'<recv request="INFO|OPTIONS" regexp_match="true" optional="true" next="{label}_ok"/>'
    yield '<recv request="BYE"/>'
    yield '<nop next="hung_up"/>'
    yield f'<label id="{label}_again"/>'
    yield _reply("200 OK", _ALLOW, sdp=True, tag=False, then=label)
    yield f'<label id="{label}_ok"/>'
    yield _reply("200 OK", tag=False, then=label)


def _press(label: str, keys: str, *, then: str) -> Iterator[str]:
    """Each key as an INFO of its own, the next one after the answer to it."""
    yield f'<label id="{label}"/>'
    for key in keys:
        yield _send(
            _request("INFO", "Content-Type: application/dtmf-relay", body=f"Signal={key}\nDuration=160"),
            retransmit=True,
        )
        yield '<recv request="BYE" optional="true" next="hung_up"/>'
        yield '<recv response="200"/>'
    yield f'<nop next="{then}"/>'


_ALLOW = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE"


def _challenge(username: str, password: str) -> str:
    authenticate = f'WWW-Authenticate: Digest realm="{REALM}", nonce="[pid]-[call_number]-[clock_tick]", algorithm=MD5'
    verify = f'<verifyauth assign_to="right" username={quoteattr(username)} password={quoteattr(password)}/>'
    return "\n".join(
        (
            '<label id="challenge"/>',
            _reply("401 Unauthorized", authenticate, log="challenge", retransmit=True),
            '<recv request="ACK"/>',
            f'<recv request="INVITE" ignoresdp="true" timeout="{_CHALLENGE_MS}" ontimeout="linger"><action>',
            verify,
            # A caller may begin its second INVITE with another tag.
            '<ereg regexp=".*" search_in="hdr" header="From:" start_line="true" assign_to="from"/>',
            "</action></recv>",
            '<nop test="right" next="credentials_right"/>',
            _log("credentials wrong"),
            '<nop next="number_03"/>',
            '<label id="credentials_right"/>',
            _log("credentials right"),
            '<nop next="admitted"/>',
        )
    )


def _cancelled() -> str:
    # The CANCEL has the Via, From and number of the INVITE it cancels, so the 487 is built from it.
    return "\n".join(
        (
            '<label id="cancelled"/>',
            _reply("200 OK", log="cancel"),
            _reply("487 Request Terminated", method="INVITE", retransmit=True),
            '<recv request="ACK"/>',
            '<nop next="linger"/>',
        )
    )


def _acknowledged() -> str:
    return "\n".join(
        (
            '<label id="acknowledged"/>',
            '<recv request="CANCEL" optional="true" next="cancelled_late"/>',
            '<recv request="ACK"/>',
            '<nop next="linger"/>',
            '<label id="cancelled_late"/>',
            _reply("200 OK", then="acknowledged"),
        )
    )


def _hung_up() -> str:
    return "\n".join(
        (
            '<label id="hung_up"/>',
            _reply("200 OK", log="bye-received", tag=False, then="linger"),
            '<label id="hang_up"/>',
            _send(_request("BYE"), log="bye-sent", retransmit=True),
            '<recv request="BYE" optional="true" next="crossed"/>',
            '<recv response="481" optional="true" next="linger"/>',
            '<recv response="200"/>',
            '<nop next="linger"/>',
            '<label id="crossed"/>',
            _reply("200 OK", tag=False, then="linger"),
        )
    )


def _request(method: str, *headers: str, body: str = "") -> str:
    """A request of the carrier's in a call that is up."""
    lines = [
        f"{method} [next_url] SIP/2.0",
        "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]",
        "Max-Forwards: 70",
        "[routes]",
        f"From: [$to];tag={_TAG}",
        "To: [$from]",
        "Call-ID: [call_id]",
        f"CSeq: [cseq] {method}",
        _CONTACT,
        *headers,
        *(("Content-Length: [len]", "", body) if body else ("Content-Length: 0",)),
    ]
    return "\n".join(lines)


def _options(server: str) -> str:
    return '<label id="options"/>\n' + _reply("200 OK", _ALLOW, f"Server: {server}", then="linger")


def _reply(
    status: str,
    *headers: str,
    log: str = "",
    sdp: bool = False,
    tag: bool = True,
    method: str = "",
    retransmit: bool = False,
    then: str = "",
) -> str:
    """A response to the last message received; `tag` where that message is from before the dialog."""
    contact = () if any(header.startswith("Contact:") for header in headers) else (_CONTACT,)
    lines = [
        f"SIP/2.0 {status}",
        "[last_Via:]",
        "[last_From:]",
        f"[last_To:];tag={_TAG}" if tag else "[last_To:]",
        "[last_Call-ID:]",
        f"CSeq: [last_cseq_number] {method}" if method else "[last_CSeq:]",
        *contact,
        *headers,
    ]
    lines += ["Content-Type: application/sdp", "Content-Length: [len]", "", _SDP] if sdp else ["Content-Length: 0"]
    return _send("\n".join(lines), log=log, retransmit=retransmit, then=then)


def _send(message: str, *, log: str = "", retransmit: bool = False, then: str = "") -> str:
    attributes = (' retrans="500"' if retransmit else "") + (f' next="{then}"' if then else "")
    action = f"<action>{_log_action(log)}</action>" if log else ""
    return f"<send{attributes}><![CDATA[\n\n{message}\n\n]]>{action}</send>"


def _log(event: str) -> str:
    return f"<nop><action>{_log_action(event)}</action></nop>"


def _log_action(event: str, *fields: str) -> str:
    name, _, value = event.partition(" ")
    return f"<log message={quoteattr(' '.join(_words('[timestamp]', name, '[call_id]', value, *fields)))}/>"


def _words(*words: str) -> Iterable[str]:
    return (word for word in words if word)
