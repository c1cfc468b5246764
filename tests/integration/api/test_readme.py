"""What the README says of HTTP is what works: its commands are typed as they stand, on a whole system."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.integration.http import client, make_key
from tests.integration.system import System, until

README = Path(__file__).parents[3] / "README.md"
ADA, PEOPLE = "+12125550123", {"+12135550101": "completed", "+12135550186": "busy"}


def blocks() -> list[str]:
    """The indented blocks of the README's section."""
    section = re.search(r"^## Over HTTP$(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    return [
        re.sub("^    ", "", block, flags=re.MULTILINE)
        for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", section[1], re.MULTILINE)
    ]


def test_the_commands_call_ada_and_run_a_batch(system: System, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    number, agent = system.add_trunk("readme"), system.add_agent("readme", "playback://hello-world")
    (tmp_path / "people.csv").write_text("phone_number,name\n" + "".join(f"{one},X\n" for one in PEOPLE))
    stands_for = {
        "AGENT_ID": str(agent),
        "+12025550100": number,
        "http://127.0.0.1:8080": system.stack.runtime["api_url"],
    }
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TRUNKLINE_HOME": str(system.stack.home),
    }

    def type_in(command: str) -> str:
        for word, value in stands_for.items():
            command = command.replace(word, value)
        name = command.removeprefix("export ").partition("=")[0] if command.startswith("export ") else ""
        tail = f'\nprintf %s "${name}"' if name else ""
        done = subprocess.run(
            ["bash", "-euc", command + tail],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if name:
            environment[name] = done.stdout
        return done.stdout

    def over(path: str) -> Any:
        with client(system.stack.runtime["api_url"], make_key(system.engine, "read")) as asks:
            ended = {"completed", "failed", "busy", "no-answer", "canceled"}
            return until(lambda: asked if (asked := asks.get(path).json())["status"] in ended else None, what=path)

    said = []
    for command in blocks()[0].replace("\\\n", " ").splitlines():
        answer = type_in(command)
        said.append(command)
        if not answer.startswith("{"):
            continue
        told = json.loads(answer)
        assert "errors" not in told, f"{command}\n{answer}"
        for field in ("execution_id", "batch_id"):
            if told.get(field):
                stands_for.setdefault(field.upper(), told[field])
        if "/schedule" in command:
            assert over(f"/batches/{stands_for['BATCH_ID']}")["status"] == "completed"
        if "/call " in command:
            assert over(f"/executions/{told['execution_id']}")["status"] == "completed"
        if command.split()[2].endswith("BATCH_ID/executions"):
            assert all(each in answer for each in PEOPLE)
    assert len(said) == 12
    assert {call.number for call in system.carrier_calls()} == {ADA, *PEOPLE}
    assert len(system.carrier_calls()) == 1 + len(PEOPLE)


def test_the_lines_of_python_take_what_is_signed_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"id": "4c06b4d1", "status": "completed"}'
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "one",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("one", now, body.decode()),
    }
    lines = tmp_path / "receives.py"
    lines.write_text(blocks()[1])
    run_path(str(lines), {"secret": secret, "body": body, "headers": headers})
    assert capsys.readouterr().out == "4c06b4d1 completed\n"
    with pytest.raises(WebhookVerificationError):
        run_path(str(lines), {"secret": secret, "body": body + b" ", "headers": headers})
