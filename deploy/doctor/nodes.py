"""Each Asterisk: what `asterisk.inspection` found, held against the settings, the ledger and the clock."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import DBAPIError

from asterisk.advisories import AS_OF, BRANCH, OLDEST, holes, parsed
from asterisk.configuration import fingerprint
from asterisk.inspection import CALL_EVENTS, Access, Inspection, inspect
from deploy.doctor.clock import clock_finding
from deploy.doctor.ledger import Ledger, connected, listener_finding
from models.errors import TrunklineError
from models.findings import Finding, ok, unknown, warning, wrong
from models.settings import Node, Settings
from models.statements import statement

LISTENER_NEEDS = {
    "coresettings": "reporting",
    "corestatus": "reporting",
    "coreshowchannels": "reporting",
    "dbget": "reporting",
}
SENDER_NEEDS = {"originate": "originate", "hangup": "call"}
DANGEROUS = {"command": "command", "updateconfig": "config", "moduleload": "system", "dbdel": "system", "agi": "agi"}
"""An action that only users of a class may do, and the class."""

AGAIN = "set it up again (`trunkline asterisk export`, then restart Asterisk; the embedded one: restart `trunkline up`)"
FILES_A_CALL = 12
_CEL_WITHIN = 2.0  # seconds
_CEL_OFF = timedelta(seconds=60)  # half a zone is half an hour
_IN_UTF8 = "unset PGCLIENTENCODING for Asterisk, and SET client_encoding of its database login to UTF8"
_MISREAD_AS = ("iso8859-15", "latin-1", "cp1252")


def examine_node(settings: Settings, node: Node, ledger: Ledger | None) -> list[Finding]:
    """Logs in, lets Asterisk report, and reads what it wrote into CEL."""
    found = inspect(node, gateway_id=ledger.gateway_id if ledger else None)
    return list(_Node(settings, node, ledger, found).findings())


class _Node:
    """One node's findings, in the order in which they have to be mended."""

    def __init__(self, settings: Settings, node: Node, ledger: Ledger | None, found: Inspection) -> None:
        self._settings, self._node, self._ledger, self._found = settings, node, ledger, found
        self._part = f"asterisk {node.name}"

    def findings(self) -> Iterator[Finding]:
        found = self._found
        yield from self._access(found.listener, "listener", LISTENER_NEEDS)
        yield from self._access(found.sender, "sender", SENDER_NEEDS)
        if found.version:
            yield from self._version()
            yield from self._limits()
        if found.listener.error is None and found.sender.error is None:
            yield from self._examined()
        if self._ledger:
            yield listener_finding(self._part, self._node.name, self._ledger)

    def _access(self, access: Access, role: str, needs: Mapping[str, str]) -> Iterator[Finding]:
        user = f"the {role}'s AMI user {access.user}"
        where = f"{self._node.host}:{self._node.port}"
        if access.refused:
            yield wrong(
                self._part, f"refuses {user}", "mend name and secret in manager.conf or in TRUNKLINE_ASTERISK_NODES"
            )
            return
        if access.error is not None:
            yield self._no_access(user, where, access.error)
            return
        lacks = sorted({wanted for action, wanted in needs.items() if action not in access.actions})
        same = self._node.listener == self._node.sender
        has = {kind for action, kind in DANGEROUS.items() if action in access.actions}
        if role == "listener" and not same and "originate" in access.actions:
            has.add("originate")
        if lacks:
            yield wrong(
                self._part, f"{user} lacks class {' and '.join(lacks)} in write", "give it to the user in manager.conf"
            )
        if has:
            sentence = f"{user} has class {' and '.join(sorted(has))} in write, which trunkline never needs"
            yield warning(self._part, sentence, "take it away in manager.conf: who has it rules that machine")
        if not lacks and not has:
            yield ok(self._part, f"{user} logs in at {where} and may do what it needs, no more")
        if role == "sender" and same:
            yield warning(self._part, "one AMI user listens and sends", "give each its own, with ?sender=USER:SECRET")

    def _no_access(self, user: str, where: str, error: str) -> Finding:
        if "FullyBooted" in error:
            return wrong(
                self._part,
                f"{user} logs in and never hears that Asterisk has booted",
                "give it class system in read and let its filter pass FullyBooted, or wait if it boots",
            )
        return wrong(
            self._part,
            f"{user} cannot log in at {where}: {error}",
            "start Asterisk (`trunkline up`, or yours), or mend TRUNKLINE_ASTERISK_NODES",
        )

    def _version(self) -> Iterator[Finding]:
        number = parsed(self._found.version)
        if number is None or number < OLDEST:
            yield wrong(
                self._part, f"Asterisk {self._found.version} is too old", f"version {OLDEST[0]} or later is needed"
            )
            return
        yield ok(self._part, f"Asterisk {self._found.version}")
        if number[0] != BRANCH:
            yield unknown(
                self._part,
                f"which holes are known of Asterisk {number[0]} is not in our table",
                "see its security advisories",
            )
            return
        known = holes(number)
        for hole in known:
            release = ".".join(map(str, hole.fixed_in))
            yield warning(
                self._part,
                f"{hole.what} ({hole.names})",
                f"update to {release} or later, unless your distribution has closed it",
            )
        if not known:
            yield ok(self._part, f"no hole is known of this version (as of {AS_OF:%B %Y})")

    def _limits(self) -> Iterator[Finding]:
        settings = self._found.settings
        most = settings.get("coremaxcalls", "0")
        if most not in ("0", ""):
            yield wrong(
                self._part,
                f"maxcalls is {most}: it drops calls after people have answered",
                "take maxcalls out of asterisk.conf",
            )
        files = int(settings.get("coremaxfilehandles") or 0)
        if files and files < FILES_A_CALL * self._node.max_calls:
            sentence = f"may open {files} files, too few for {self._node.max_calls} calls"
            yield warning(
                self._part, sentence, f"maxfiles = {FILES_A_CALL * self._node.max_calls} or more in asterisk.conf"
            )
        elif files:
            yield ok(self._part, f"may open {files} files")

    # what its extension reported

    def _examined(self) -> Iterator[Finding]:
        found = self._found
        if found.refusal is not None:
            if "not exist" in found.refusal:
                yield wrong(self._part, "does not have our dialplan", f"#include it in extensions.conf, or {AGAIN}")
            else:
                yield unknown(self._part, f"would not examine itself: {found.refusal}")
            return
        yield from self._hearing()
        if "end" not in found.report:
            return
        yield from self._dialplan()
        yield from self._modules()
        yield from self._realtime()
        yield from self._cel()
        yield from self._timers()
        yield from self._transports()
        yield from self._rtp()
        yield self._clock()

    def _hearing(self) -> Iterator[Finding]:
        user = f"the listener's AMI user {self._found.listener.user}"
        reported = "end" in self._found.report
        missing = sorted(CALL_EVENTS - self._found.heard)
        if missing and not reported:
            yield wrong(
                self._part, f"{user} hears nothing of a call that was made", "give it classes call and user in read"
            )
        elif missing:
            advice = "give it class call in read, and let its eventfilter pass them"
            yield wrong(
                self._part, f"{user} does not hear {', '.join(missing)}: calls would be lost from sight", advice
            )
        elif not reported:
            advice = f"give it class user in read and let its eventfilter pass Doctor and AgentLeg, or {AGAIN}"
            yield wrong(self._part, f"{user} does not hear UserEvent", advice)
        else:
            yield ok(self._part, f"{user} hears the calls")

    def _dialplan(self) -> Iterator[Finding]:
        said = self._found.report.get("dialplan", {})
        missing = [name for name, there in self._found.report.get("agents", {}).items() if there != "1"]
        if missing:
            yield wrong(self._part, f"has not the extensions of our dialplan for {', '.join(missing)} agents", AGAIN)
        if said.get("made_from") == fingerprint():
            yield ok(self._part, "our dialplan is in place, of this version")
        else:
            yield warning(self._part, "was set up by another version of trunkline", AGAIN)
        if "1" in said.get("strays", ""):
            sentence = "the context trunkline-endpoint has an extension: a carrier's redirect could dial somebody"
            yield wrong(self._part, sentence, "take the extension or the include out of it")
        if self._found.report.get("settings", {}).get("live_dangerously") in ("yes", "true", "1", "on"):
            yield wrong(
                self._part, "live_dangerously is on: AMI could run a shell", "live_dangerously = no in asterisk.conf"
            )

    def _modules(self) -> Iterator[Finding]:
        missing = [name for name, loaded in self._found.report.get("modules", {}).items() if loaded != "1"]
        if missing:
            names = ", ".join(f"{name}.so" for name in missing)
            yield wrong(self._part, f"has not loaded {names}", "load it in modules.conf and take out any noload of it")
        else:
            yield ok(self._part, "has loaded the modules that trunkline needs")

    def _realtime(self) -> Iterator[Finding]:
        said = self._found.report.get("ledger", {})
        if self._ledger is None:
            yield unknown(self._part, "whether it reads our Postgres cannot be told without it")
            return
        if not said.get("ledger"):
            advice = "see extconfig.conf, res_pgsql.conf, Asterisk's log, and that it reaches Postgres"
            yield wrong(self._part, "does not read our views in Postgres (realtime)", advice)
            return
        if said["ledger"] != self._ledger.ledger:
            theirs, ours = said["ledger"].rpartition(" ")[0], self._ledger.ledger.rpartition(" ")[0]
            sentence = f"reads another Postgres than ours: its database is {theirs}, ours is {ours}"
            yield wrong(self._part, sentence, "mend res_pgsql.conf and restart Asterisk")
            return
        if said.get("text") != self._ledger.text:
            yield wrong(self._part, "reads names in another encoding than UTF-8", _IN_UTF8)
            return
        yield ok(self._part, "reads our views in Postgres, in UTF-8")
        if self._ledger.gateway_id is None:
            yield unknown(
                self._part, "whether it finds trunks cannot be told before there is one", "trunkline trunk create"
            )
        elif self._found.report.get("trunks", {}).get("endpoint_context") == "trunkline-endpoint":
            yield ok(self._part, "finds the trunks")
        else:
            yield wrong(
                self._part, "does not find the trunks: PJSIP does not ask realtime", "see [res_pjsip] in sorcery.conf"
            )

    def _cel(self) -> Iterator[Finding]:
        if self._ledger is None:
            yield unknown(self._part, "whether its CEL arrives cannot be told without Postgres")
            return
        said = self._found.report.get("cel", {})
        try:
            rows = self._cel_rows()
        except (DBAPIError, TrunklineError) as error:
            yield unknown(self._part, f"CEL cannot be read ({type(error).__name__})")
            return
        if not rows:
            target = f"{said.get('name') or 'no database'} at {said.get('host') or 'no host'}:{said.get('port') or '?'}"
            advice = "mend cel.conf and cel_pgsql.conf, then restart Asterisk: it learns the table's columns only at its start"
            yield wrong(
                self._part,
                f"its CEL does not reach our Postgres (cel_pgsql.conf: {target}): after a gap no outcome is found",
                advice,
            )
            return
        if not any(id == self._found.probe for id, _, _ in rows):
            yield wrong(
                self._part,
                "writes CEL in another encoding than UTF-8",
                _IN_UTF8,
            )
        missing = {"CHAN_START", "HANGUP"} - {kind for _, kind, _ in rows}
        if missing:
            yield wrong(
                self._part, f"its CEL leaves out {', '.join(missing)}", "events = CHAN_START,ANSWER,HANGUP in cel.conf"
            )
        off = min((at - self._said_at() for _, _, at in rows), key=abs)
        if abs(off) > _CEL_OFF:
            sentence = f"writes CEL with times {off.total_seconds() / 3600:+.1f} h off: a zone is missing"
            yield wrong(
                self._part,
                sentence,
                "usegmtime = yes in cel_pgsql.conf, and PGTZ=UTC for Asterisk or its database login",
            )
        elif not missing:
            yield ok(self._part, "its CEL reaches our Postgres, with the right times")

    def _cel_rows(self) -> list[tuple[str, str, datetime]]:
        """What has arrived under the probe's id, however it was misread, once it is complete; then it is removed."""
        probe = self._found.probe
        ids = [probe, *dict.fromkeys(_misread(probe, encoding) for encoding in _MISREAD_AS)]
        with connected(self._settings) as connection:
            connection.exec_driver_sql("SET ROLE trunkline_services")

            def read() -> list[tuple[str, str, datetime]]:
                return [
                    (row.uniqueid, row.eventtype, row.eventtime)
                    for row in connection.exec_driver_sql(statement("cel_of_probe"), {"ids": ids})
                ]

            rows = _asked_until(read, lambda rows: {kind for _, kind, _ in rows} >= {"CHAN_START", "HANGUP"})
            both_halves = [*ids, *(f"{id};2" for id in ids)]
            connection.exec_driver_sql(statement("forget_probe"), {"ids": both_halves})
            return rows

    def _said_at(self) -> datetime:
        """When it reported: by its own clock, so that a zone shows and a clock that is off does not."""
        return self._found.their_clock or self._found.reported_at or datetime.now(UTC)

    def _clock(self) -> Finding:
        theirs, ours = self._found.their_clock, self._found.reported_at
        if theirs is None or ours is None:
            return warning(
                self._part,
                "its events have no times: ours are used, late or not",
                "timestampevents = yes in manager.conf",
            )
        return clock_finding(self._part, theirs, ours, self._found.spread)

    def _timers(self) -> Iterator[Finding]:
        said = self._found.report.get("timers", {})
        t1, b = _number(said.get("t1")), _number(said.get("b"))
        wanted = self._settings.sip_timer_t1_ms
        if t1 == wanted and b == 64 * wanted:
            yield ok(self._part, f"gives up a silent gateway after {b / 1000:.1f} s")
            return
        has = f"timer_t1 {t1 or 'unset'}, timer_b {b or 'unset'}"
        yield wrong(
            self._part,
            f"PJSIP's timers are {has} and not {wanted} and {64 * wanted}: a call that was given up would be dialled again",
            "set them under [system], type=system, in pjsip.conf, then restart Asterisk",
        )

    def _transports(self) -> Iterator[Finding]:
        said = self._found.report.get("transports", {})
        missing = [f"transport-{name}" for name in ("udp", "tcp", "tls") if not said.get(name)]
        if "transport-udp" in missing:
            yield wrong(
                self._part,
                "pjsip.conf has no transport-udp: no trunk over UDP can be dialled",
                "name a transport so in pjsip.conf",
            )
        elif missing:
            yield warning(
                self._part,
                f"pjsip.conf has no {' and no '.join(missing)}",
                "add it before you make a trunk that needs it",
            )
        for bind in [said["udp"]] if said.get("udp") else []:
            away = [address for address in (self._ledger.gateways if self._ledger else ()) if not _is_loopback(address)]
            if not _is_loopback(bind):
                external = f", known to carriers as {said['external']}" if said.get("external") else ""
                yield ok(self._part, f"SIP is at {bind}{external}")
            elif away:
                sentence = f"SIP is at {bind}, and loopback does not reach {away[0]}"
                yield wrong(
                    self._part,
                    sentence,
                    "set TRUNKLINE_SIP_BIND (behind NAT TRUNKLINE_EXTERNAL_ADDRESS too), or bind in pjsip.conf",
                )
            else:
                sentence = f"SIP is at {bind}: loopback reaches no carrier"
                yield warning(self._part, sentence, "set TRUNKLINE_SIP_BIND before you add a real trunk")

    def _rtp(self) -> Iterator[Finding]:
        said = self._found.report.get("settings", {})
        start, end = _number(said.get("rtp_start")) or 5000, _number(said.get("rtp_end")) or 31000  # Asterisk's own
        room, slots = (end - start + 1) // 2, self._node.max_calls
        if room < slots:
            sentence = f"RTP ports {start}-{end} hold {room} calls and the node is given {slots}"
            yield wrong(self._part, sentence, f"widen rtp.conf, or max_calls={room} in TRUNKLINE_ASTERISK_NODES")
        else:
            yield ok(self._part, f"RTP ports {start}-{end} hold its {slots} calls")


def slots_finding(settings: Settings, ledger: Ledger | None) -> Finding | None:
    """The trunks' slots against what all nodes can carry."""
    if ledger is None or not settings.nodes or not ledger.trunk_slots:
        return None
    room = sum(node.max_calls for node in settings.nodes)
    if ledger.trunk_slots > room:
        sentence = f"the trunks have {ledger.trunk_slots} slots and the nodes carry {room} calls"
        return warning("slots", sentence, "widen the RTP range, or add a node: the nodes' limit holds")
    return ok("slots", f"the nodes carry {room} calls, the trunks have {ledger.trunk_slots} slots")


def _asked_until(
    read: Callable[[], list[tuple[str, str, datetime]]], whole: Callable[[list[tuple[str, str, datetime]]], bool]
) -> list[tuple[str, str, datetime]]:
    deadline = time.monotonic() + _CEL_WITHIN
    while True:
        rows = read()
        if whole(rows) or time.monotonic() > deadline:
            return rows
        time.sleep(0.05)


def _misread(text: str, encoding: str) -> str:
    return text.encode().decode(encoding, errors="replace")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _is_loopback(address: str) -> bool:
    """Of `HOST`, `HOST:PORT` or `[HOST]:PORT`; a name is taken for somewhere else."""
    host = address.strip()
    host = (
        host[1:].partition("]")[0]
        if host.startswith("[")
        else host.rpartition(":")[0] or host
        if host.count(":") == 1
        else host
    )
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
