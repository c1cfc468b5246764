"""Each Asterisk: whether both of its users get in, with the rights they need and no more, and what version it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from asterisk.advisories import AS_OF, BRANCH, OLDEST, holes, parsed
from asterisk.inspection import Access, Inspection, inspect
from deploy.doctor.ledger import Ledger, breaker_finding, listener_finding
from deploy.doctor.reported import Reported
from models.findings import Finding, ok, unknown, warning, wrong
from models.settings import Node, Settings

LISTENER_NEEDS = {
    "coresettings": "reporting",
    "corestatus": "reporting",
    "coreshowchannels": "reporting",
    "dbget": "reporting",
}
SENDER_NEEDS = {"originate": "originate", "hangup": "call"}
DANGEROUS = {"command": "command", "updateconfig": "config", "moduleload": "system", "dbdel": "system", "agi": "agi"}
"""An action that only users of a class may do, and the class."""

FILES_A_CALL = 12


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
            yield from Reported(self._settings, self._node, self._ledger, found, self._part).findings()
        if self._ledger:
            yield listener_finding(self._part, self._node.name, self._ledger)
            breaker = breaker_finding(self._part, self._node.name, self._ledger)
            if breaker:
                yield breaker

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


def slots_finding(settings: Settings, ledger: Ledger | None) -> Finding | None:
    """The trunks' slots against what all nodes can carry."""
    if ledger is None or not settings.nodes or not ledger.trunk_slots:
        return None
    room = sum(node.max_calls for node in settings.nodes)
    if ledger.trunk_slots > room:
        sentence = f"the trunks have {ledger.trunk_slots} slots and the nodes carry {room} calls"
        return warning("slots", sentence, "widen the RTP range, or add a node: the nodes' limit holds")
    return ok("slots", f"the nodes carry {room} calls, the trunks have {ledger.trunk_slots} slots")
