"""How soon a single call reaches the carrier, when nothing else goes on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from deploy.carrier.people import numbers
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab
from tests.integration.http import client, make_key
from tests.integration.system import until

CALLS = 20


def run(lab: Lab, rounds: int) -> list[Figure]:
    """To the INVITE at the carrier: from the call's row in the ledger, and from the request over HTTP.

    `trunkline call` is measured from its row: what comes before is the start of a Python process, told apart.
    """
    system = lab.system
    from_number, agent = system.add_trunk("single"), system.add_agent("single")
    key = make_key(system.engine)
    by_command: list[float] = []
    commands: list[float] = []
    by_http: list[float] = []
    people = iter(numbers({"86": CALLS * 2 * rounds, "80": CALLS * 2 * rounds}))

    def call(place: Callable[[str], str]) -> tuple[str, float]:
        """Makes one call, and returns when it is over: its id, and when the carrier was invited."""
        number = next(people)
        system.begin_test()
        id = place(number)
        until(lambda: system.value("SELECT ended_at IS NOT NULL FROM calls WHERE id = %(id)s", id=id))
        return id, system.carried(number)[0].invited_at

    with client(system.stack.runtime["api_url"], key) as api:
        asked: list[float] = []

        def command(number: str) -> str:
            asked.append(time.time())
            id = system.trunkline("call", number, "--agent", "single", "--from", from_number).strip()
            took.append((time.time() - asked[-1]) * 1000)
            return id

        def post(number: str) -> str:
            asked.append(time.time())
            words = {"agent_id": str(agent), "from_number": from_number, "recipient": {"phone_number": number}}
            return str(api.post("/call", json=words).raise_for_status().json()["execution_id"])

        for _ in range(rounds):
            took: list[float] = []
            from_row, from_request = [], []
            for _ in range(CALLS):
                id, invited_at = call(command)
                created = system.value(
                    "SELECT extract(epoch FROM created_at)::float8 FROM calls WHERE id = %(id)s", id=id
                )
                from_row.append((invited_at - created) * 1000)
                _, invited_at = call(post)
                from_request.append((invited_at - asked[-1]) * 1000)
            by_command.append(statistics.median(from_row))
            commands.append(statistics.median(took))
            by_http.append(statistics.median(from_request))
    return [
        Figure(
            name="single call", of="trunkline call, its row", unit="ms", rounds=tuple(by_command), aim=Aim(at_most=25)
        ),
        Figure(name="single call", of="POST /call", unit="ms", rounds=tuple(by_http), aim=Aim(at_most=25)),
        Figure(name="the whole command", of="trunkline call", unit="ms", rounds=tuple(commands)),
    ]
