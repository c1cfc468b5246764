"""The whole round: everything that does not depend on each other at once, each within its bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from deploy.doctor.api import examine_api
from deploy.doctor.broker import examine_redis, examine_workers
from deploy.doctor.ledger import examine_postgres, examine_scheduler, examine_trunks
from deploy.doctor.machine import examine_machine, runs_here
from deploy.doctor.nodes import examine_node, slots_finding
from models.errors import TrunklineError
from models.findings import Finding, Verdict, unknown, wrong
from models.settings import Node, Settings

T = TypeVar("T")

FIRST_WITHIN, THEN_WITHIN = 5.0, 9.0  # seconds


@dataclass(kw_only=True)
class _Look(Generic[T]):
    """One look in a thread of its own, which is left behind if it hangs: nothing else waits for it."""

    part: str
    do: Callable[[], T]
    done: threading.Event = field(default_factory=threading.Event)
    result: T | None = None
    failure: Exception | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"doctor-{self.part}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = self.do()
        except Exception as failure:  # one part's surprise must not hide what is found of the others
            self.failure = failure
        self.done.set()

    def why_not(self, within: float) -> Finding:
        if self.failure is None:
            return wrong(
                self.part, f"did not answer within {within:.0f} s", "see whether it hangs, or the network to it"
            )
        return unknown(self.part, f"could not be looked at: {type(self.failure).__name__}: {self.failure}")


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which parts need each other. Takes at most fifteen seconds."""
    postgres = _Look(part="postgres", do=lambda: examine_postgres(settings))
    broker = _Look(part="redis", do=lambda: examine_redis(settings))
    machine = _Look(part="machine", do=lambda: examine_machine(settings))
    api = _Look(part="api", do=lambda: examine_api(settings))
    _wait_for([postgres, broker, machine, api], FIRST_WITHIN)
    of_postgres, ledger = postgres.result or ([postgres.why_not(FIRST_WITHIN)], None)
    of_redis = broker.result or [broker.why_not(FIRST_WITHIN)]

    redis_answers = broker.result is not None and any(f.verdict is Verdict.OK for f in of_redis)
    expected = settings.workers if runs_here(settings) else None
    workers = _Look(part="workers", do=lambda: examine_workers(settings, redis_answers, expected, ledger))
    nodes, of_no_node = _nodes(settings)
    looks = {
        name: _Look(part=f"asterisk {name}", do=partial(examine_node, settings, node, ledger))
        for name, node in nodes.items()
    }
    _wait_for([workers, *looks.values()], THEN_WITHIN)

    findings = [*(machine.result or [machine.why_not(FIRST_WITHIN)]), *of_postgres, *of_redis, *of_no_node]
    for look in looks.values():
        findings += look.result or [look.why_not(THEN_WITHIN)]
    slots = slots_finding(settings, ledger) if nodes else None
    findings += [slots] if slots else []
    findings += examine_trunks(ledger)
    findings += examine_scheduler(ledger)
    findings += workers.result or [workers.why_not(THEN_WITHIN)]
    findings += api.result or [api.why_not(FIRST_WITHIN)]
    return findings


def _nodes(settings: Settings) -> tuple[Mapping[str, Node], list[Finding]]:
    advice = (
        "start one with `trunkline up`, or set TRUNKLINE_ASTERISK_NODES (`trunkline asterisk export` makes the files)"
    )
    try:
        nodes = {node.name: node for node in settings.nodes}
    except TrunklineError as error:
        return {}, [wrong("asterisk", str(error), "mend it")]
    return nodes, [] if nodes else [wrong("asterisk", "is not running", advice)]


def _wait_for(looks: list[_Look[Any]], within: float) -> None:
    for look in looks:
        look.start()
    deadline = time.monotonic() + within
    for look in looks:
        look.done.wait(max(0.0, deadline - time.monotonic()))
