"""What an Asterisk's own extension reported, held against the settings and the ledger, and what it wrote into CEL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from sqlalchemy.exc import DBAPIError

from asterisk.configuration import fingerprint
from asterisk.inspection import CALL_EVENTS, Inspection
from deploy.doctor.clock import clock_finding
from deploy.doctor.ledger import Ledger, connected
from models.addresses import is_loopback
from models.database import SERVICES
from models.errors import TrunklineError
from models.findings import Finding, ok, unknown, warning, wrong
from models.settings import Node, Settings
from models.statements import statement

AGAIN = "set it up again (`trunkline asterisk export`, then restart Asterisk; the embedded one: restart `trunkline up`)"
_CEL_WITHIN = 2.0  # seconds
_CEL_OFF = timedelta(seconds=60)  # the smallest difference of zones is a quarter of an hour
_IN_UTF8 = "unset PGCLIENTENCODING for Asterisk, and SET client_encoding of its database login to UTF8"
_MISREAD_AS = ("iso8859-15", "latin-1", "cp1252")

_Row = tuple[str, str, datetime]  # uniqueid, eventtype, eventtime


class Reported:
    """The findings, in the order in which they have to be mended."""

    def __init__(self, settings: Settings, node: Node, ledger: Ledger | None, found: Inspection, part: str) -> None:
        self._settings, self._node, self._ledger, self._found, self._part = settings, node, ledger, found, part

    def findings(self) -> Iterator[Finding]:
        found = self._found
        if found.refusal is not None:
            if "not exist" in found.refusal:
                yield wrong(self._part, "does not have our dialplan", f"#include it in extensions.conf, or {AGAIN}")
            else:
                yield unknown(self._part, f"would not examine itself: {found.refusal}")
            return
        yield from self._hearing()
        if "end" not in found.report:
            yield from self._cel()
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
            advice = f"give it class user in read and let its eventfilter pass all of ours, or {AGAIN}"
            yield wrong(self._part, f"{user} does not hear UserEvent", advice)
        else:
            yield ok(self._part, f"{user} hears the calls")

    def _dialplan(self) -> Iterator[Finding]:
        said = self._found.report.get("dialplan", {})
        missing = [name for name, there in self._found.report.get("extensions", {}).items() if there != "1"]
        if missing:
            yield wrong(self._part, f"lacks extensions of our dialplan: {', '.join(missing)}", AGAIN)
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
            database, host, port = said.get("name") or "none", said.get("host") or "nowhere", said.get("port") or "?"
            target = f" (cel_pgsql.conf: database {database} at {host}:{port})" if said else ""
            advice = "mend cel.conf and cel_pgsql.conf, then restart Asterisk: it learns the table's columns only at its start"
            yield wrong(
                self._part,
                f"its CEL does not reach our Postgres{target}: after a gap no outcome is found",
                advice,
            )
            return
        if not any(id.startswith(self._found.probe) for id, _, _ in rows):
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
                "usegmtime = yes in cel_pgsql.conf, no PGTZ for Asterisk, and SET timezone of its database login to UTC",
            )
        elif not missing:
            yield ok(self._part, "its CEL reaches our Postgres, with the right times")

    def _cel_rows(self) -> list[_Row]:
        """What has arrived of both halves of the probe's channel, however their ids were misread; then it is removed."""
        probe = self._found.probe
        ids = [probe, *(probe.encode().decode(encoding) for encoding in _MISREAD_AS)]
        arguments = {"ids": [*ids, *(f"{id};2" for id in ids)]}
        deadline = time.monotonic() + _CEL_WITHIN
        with connected(self._settings) as connection:
            connection.exec_driver_sql(f"SET ROLE {SERVICES}")
            while True:
                rows = [tuple(row) for row in connection.exec_driver_sql(statement("cel_of_probe"), arguments)]
                ended = [id for id, kind, _ in rows if kind == "HANGUP"]
                if len(ended) == 2 or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            connection.exec_driver_sql(statement("forget_probe"), arguments)
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
        if said.get("udp"):
            yield self._address(said["udp"], said.get("external"))

    def _address(self, bind: str, external: str | None) -> Finding:
        if not _is_loopback(bind):
            return ok(self._part, f"SIP is at {bind}" + (f", known to carriers as {external}" if external else ""))
        away = [address for address in (self._ledger.gateways if self._ledger else ()) if not _is_loopback(address)]
        if away:
            advice = "set TRUNKLINE_SIP_BIND (behind NAT TRUNKLINE_EXTERNAL_ADDRESS too), or bind in pjsip.conf"
            return wrong(self._part, f"SIP is at {bind}, and loopback does not reach {away[0]}", advice)
        sentence = f"SIP is at {bind}: loopback reaches no carrier"
        return warning(self._part, sentence, "set TRUNKLINE_SIP_BIND before you add a real trunk")

    def _rtp(self) -> Iterator[Finding]:
        said = self._found.report.get("settings", {})
        start, end = _number(said.get("rtp_start")) or 5000, _number(said.get("rtp_end")) or 31000  # Asterisk's own
        room, slots = (end - start + 1) // 2, self._node.max_calls
        if room < slots:
            sentence = f"RTP ports {start}-{end} hold {room} calls and the node is given {slots}"
            yield wrong(self._part, sentence, f"widen rtp.conf, or max_calls={room} in TRUNKLINE_ASTERISK_NODES")
        else:
            yield ok(self._part, f"RTP ports {start}-{end} hold its {slots} calls")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _is_loopback(address: str) -> bool:
    """Of `HOST`, `HOST:PORT` or `[HOST]:PORT`; a name is taken for somewhere else."""
    return is_loopback(urlsplit(f"//{address}").hostname or "")
