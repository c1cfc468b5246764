"""The API's own description: complete, readable with no internet, and true, whatever is sent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import httpx
import pytest
import typer
from sqlalchemy import Engine

import deploy.main  # noqa: F401 - whose commands are the machine's
from models.sightings import Sight
from scheduler.cli.app import app
from tests.integration.conftest import SmallApi
from tests.integration.http import make_key
from tests.integration.ledger_rows import FROM, Rows, ended, saw, uuid7

SECONDS = 150
"""That schemathesis has: it ends by itself then, on a slow machine after fewer requests."""
_HANGS_AFTER = 180  #: seconds: three minutes at most

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)
"""Not `positive_data_acceptance`: what has the right form may still name a number that is none (422)."""

WITHOUT_ASTERISK = ["GET /readyz", "POST /call/{execution_id}/stop", "POST /sip-trunks/trunks/{trunk_id}/check"]
"""They say 503 here, where no Asterisk runs; nothing else may."""

_OF_EACH = 12
_EXAMPLES = 15

PROMISED = """
    POST /call
    GET /call/{}
    POST /call/{}/stop
    GET /executions/{}
    GET /executions/{}/log
    GET /batches
    POST /batches
    GET /batches/{}
    DELETE /batches/{}
    GET /batches/{}/all
    POST /batches/{}/schedule
    POST /batches/{}/stop
    POST /batches/{}/pause
    POST /batches/{}/resume
    GET /batches/{}/executions
    GET /batches/{}/rejected
    GET /batches/{}/explain
    POST /batches/{}/resolve
    GET /call/{}/explain
    POST /call/{}/resolve
    GET /webhooks/secret
    POST /webhooks/secret/rotate
    GET /webhooks/deliveries
    GET /sip-trunks/trunks
    POST /sip-trunks/trunks
    GET /sip-trunks/trunks/{}
    PATCH /sip-trunks/trunks/{}
    DELETE /sip-trunks/trunks/{}
    GET /sip-trunks/trunks/{}/numbers
    POST /sip-trunks/trunks/{}/numbers
    GET /sip-trunks/trunks/{}/numbers/{}
    DELETE /sip-trunks/trunks/{}/numbers/{}
    POST /sip-trunks/trunks/{}/check
    GET /agents
    POST /agents
    GET /agents/{}
    PATCH /agents/{}
    DELETE /agents/{}
    GET /user/me
    GET /healthz
    GET /readyz
    GET /metrics
"""


BY_COMMAND = {
    "trunk create": "POST /sip-trunks/trunks",
    "trunk list": "GET /sip-trunks/trunks",
    "trunk show": "GET /sip-trunks/trunks/{}",
    "trunk update": "PATCH /sip-trunks/trunks/{}",
    "trunk enable": "PATCH /sip-trunks/trunks/{}",
    "trunk disable": "PATCH /sip-trunks/trunks/{}",
    "trunk delete": "DELETE /sip-trunks/trunks/{}",
    "trunk check": "POST /sip-trunks/trunks/{}/check",
    "number add": "POST /sip-trunks/trunks/{}/numbers",
    "number list": "GET /sip-trunks/trunks/{}/numbers",
    "number remove": "DELETE /sip-trunks/trunks/{}/numbers/{}",
    "agent create": "POST /agents",
    "agent list": "GET /agents",
    "agent show": "GET /agents/{}",
    "agent update": "PATCH /agents/{}",
    "agent delete": "DELETE /agents/{}",
    "campaign upload": "POST /batches",
    "campaign start": "POST /batches/{}/schedule",
    "campaign pause": "POST /batches/{}/pause",
    "campaign resume": "POST /batches/{}/resume",
    "campaign stop": "POST /batches/{}/stop",
    "campaign resolve": "POST /batches/{}/resolve",
    "campaign status": "GET /batches/{}",
    "campaign calls": "GET /batches/{}/executions",
    "campaign rejected": "GET /batches/{}/rejected",
    "call": "POST /call",
    "hang-up": "POST /call/{}/stop",
    "resolve": "POST /call/{}/resolve",
    "explain": "GET /call/{}/explain",
    "webhook secret": "POST /webhooks/secret/rotate",
    "webhook list": "GET /webhooks/deliveries",
}
OF_THE_MACHINE = {"up", "down", "run", "doctor", "config", "demo", "asterisk", "key"}


@pytest.fixture
def document(small_api: SmallApi) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{small_api.url}/openapi.json").raise_for_status().json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_that_was_promised_is_described(document: dict[str, Any]) -> None:
    described = {re.sub(r"\{\w+\}", "{}", label) for label, _ in operations(document)}
    assert {line.strip() for line in PROMISED.strip().splitlines()} <= described


def commands(group: Any, *before: str) -> Iterator[str]:
    """Every command of the command line that is not of the machine alone."""
    for name, command in group.commands.items():
        if not before and name in OF_THE_MACHINE:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield " ".join((*before, name))


def test_whatever_a_command_does_is_done_over_http_but_for_what_is_of_the_machine(document: dict[str, Any]) -> None:
    described = {re.sub(r"\{\w+\}", "{}", label) for label, _ in operations(document)}
    assert set(commands(typer.main.get_command(app))) == set(BY_COMMAND)
    assert set(BY_COMMAND.values()) <= described
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    said = readme.partition("What is of the machine is done on it alone:")[2].partition(".")[0]
    assert {word.split()[0] for word in re.findall("`(.+?)`", said)} == OF_THE_MACHINE


def schemas(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema and what it refers to, by name or as one of several."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield schema
    for part in (*schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from schemas(document, part)


def test_every_operation_says_what_it_does_and_every_body_shows_what_may_be_sent(document: dict[str, Any]) -> None:
    for label, operation in operations(document):
        assert operation.get("description") or operation.get("summary"), label
        for media in operation.get("requestBody", {}).get("content", {}).values():
            shown = [media, *schemas(document, media["schema"])]
            fields = [field for schema in shown[1:] for field in schema.get("properties", {}).values()]
            has_example = any(part.get("examples") or "example" in part for part in (*shown, *fields))
            assert has_example or all(field.get("description") for field in fields), f"{label}: an example of its body"


def test_the_page_for_people_needs_no_other_host(small_api: SmallApi) -> None:
    page = httpx.get(f"{small_api.url}/docs").raise_for_status()
    addresses = [one or other for one, other in re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)]
    assert len(addresses) == 4, addresses  # the program, its style, an icon, the document
    assert "//" not in re.sub("<!--.*?-->", "", page.text)
    for address in addresses:
        assert httpx.get(urljoin(str(page.url), address)).raise_for_status().content


def test_a_field_that_nobody_knows_is_refused_by_name_wherever_a_body_is_taken(
    small_api: SmallApi, document: dict[str, Any]
) -> None:
    with small_api.client("admin") as asks:
        for label, operation in operations(document):
            method, path = label.split()
            kinds = operation.get("requestBody", {}).get("content", {})
            for kind, words in (("application/json", "json"), ("multipart/form-data", "data")):
                if kind in kinds:
                    sent: Any = {words: {"nobody_knows": "me"}} | ({"files": {"file": b"x"}} if words == "data" else {})
                    answer = asks.request(method, re.sub(r"\{\w+\}", str(uuid4()), path), **sent)
                    assert answer.status_code == 422, f"{label}: {answer.text}"
                    assert "nobody_knows" in [error["field"] for error in answer.json()["errors"]], (
                        f"{label}: {answer.text}"
                    )


# ---------------------------------------------------------------------------------------------
# Whatever is sent
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is in the ledger, so that not every id leads nowhere."""

    agents: list[str]
    trunks: list[str]
    numbers: list[str]
    batches: list[str]
    executions: list[str]
    attempts: list[str]

    @classmethod
    def make(cls, engine: Engine) -> Known:
        """Each kind in each state that it may be in, several times: some are deleted on the way."""
        rows = Rows(engine=engine)
        for _ in range(_OF_EACH):
            rows.run("INSERT INTO agents (id, name, connect) VALUES (%(id)s, %(id)s, 'playback://hi')", id=uuid7())
            trunk = uuid7()
            rows.run("INSERT INTO trunks (id, name, auth_type) VALUES (%(id)s, %(id)s, 'ip-based')", id=trunk)
            rows.run(
                "INSERT INTO trunk_gateways (trunk_id, gateway_address, port) VALUES (%(id)s, '127.0.0.1', 5070)",
                id=trunk,
            )
            for status in ("loading", "ready", "running", "paused", "stopped", "completed"):
                rows.campaign(2, status)
        rows.run("UPDATE nodes SET heard_at = now() + interval '1 hour'")  # an Asterisk that is there to the end
        single = uuid7()
        rows.run(
            "INSERT INTO calls (id, agent_id, phone_number, from_number, name) VALUES (%(id)s, %(a)s, %(to)s, %(f)s, 'Ö')",
            id=single,
            a=rows.agent,
            to="+12125550123",
            f=FROM,
        )
        running = rows.campaign(6)
        attempts = rows.claim(rows.grant(running, 5))
        for attempt in attempts[1:]:
            rows.record(saw(attempt, Sight.CHANNEL), saw(attempt, Sight.RINGING))
        for attempt, *end in ((attempts[2], 17, 486), (attempts[3], 21, 403)):
            rows.record(ended(attempt, *end))
        rows.record(saw(attempts[4], Sight.ANSWERED))
        rows.record(ended(attempts[4], 16))

        def ids(table: str) -> list[str]:
            return [str(row[0]) for row in rows.all(f"SELECT id FROM {table} ORDER BY id")]

        return cls(
            agents=ids("agents"),
            trunks=[trunk for trunk in ids("trunks") if trunk != str(rows.trunk)],  # a test call would be waited for
            numbers=ids("phone_numbers"),
            batches=ids("campaigns"),
            executions=[*ids("calls")[-8:], str(single)],
            attempts=ids("attempts"),
        )


def configuration(document: dict[str, Any], known: Known, key: str) -> str:
    """Of schemathesis (JSON is TOML here): two times of three an id is one that exists, and so with the fields of bodies."""
    words: dict[str, list[str]] = {
        "agent_id": known.agents,
        "trunk_id": known.trunks,
        "number_id": known.numbers,
        "batch_id": known.batches,
        "execution_id": known.executions,
        "attempt_id": known.attempts,
    }
    in_paths = {
        parameter["name"]
        for _, operation in operations(document)
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "path"
    }
    assert in_paths <= set(words), "a parameter of a path that the test knows no values of"
    in_bodies = {
        "body.agent_id": known.agents[:1],
        "body.from_number": [FROM],
        "body.from_phone_number": [FROM],
        "body.recipient_phone_number": ["+12125550123"],
        "body.recipient.phone_number": ["+12125550123"],
        "body.phone_number": ["+12125550188", "12125550199", FROM],
        "body.connect": ["playback://hello-world", "audiosocket://127.0.0.1:9092"],
    }
    values = {f"path.{name}": words[name] for name in in_paths} | in_bodies
    lines = [
        f"headers = {{ Authorization = {json.dumps('Bearer ' + key)} }}",
        "[[operations]]",
        f"include-name = {json.dumps(WITHOUT_ASTERISK)}",
        'checks = { not_a_server_error = { expected-statuses = ["2xx", "3xx", "4xx", 503] } }',
        "[generation]",
        "deterministic = true",
        'database = "none"',
        f"max-examples = {_EXAMPLES}",
        "[dictionaries]",
        *(f"{json.dumps(name)} = {{ values = {json.dumps(given)} }}" for name, given in values.items()),
        "[parameters]",
        *(f"{json.dumps(name)} = {{ dictionary = {json.dumps(name)}, probability = 0.66 }}" for name in values),
    ]
    return "\n".join(lines)


@pytest.mark.timeout(2 * _HANGS_AFTER)
def test_whatever_is_sent_the_answer_is_one_that_is_described(
    small_api: SmallApi, document: dict[str, Any], tmp_path: Path
) -> None:
    engine = small_api.database.engine
    (tmp_path / "schemathesis.toml").write_text(configuration(document, Known.make(engine), make_key(engine, "admin")))
    done = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            *("--config-file", "schemathesis.toml", "run", f"{small_api.url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--continue-on-failure", "--max-time", str(SECONDS)),
            *("--no-color", "--warnings", "off"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_HANGS_AFTER,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
