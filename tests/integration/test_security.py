"""The walls that SECURITY.md names, tried on the running system by whoever stands outside each of them."""

from __future__ import annotations

import base64
import csv
import json
import os
import pickle
import re
import stat
import subprocess
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from asterisk.configuration import templates
from deploy.carrier import witness
from deploy.carrier.people import numbers
from deploy.debian import tree_command
from deploy.stack import NODE, ensure_login
from models.database import sqlalchemy_url
from models.errors import Invalid
from models.settings import Login, Node
from tests.integration.hostile import HostileCarrier, RawAmi, status_of
from tests.integration.system import PASSWORD, System, until
from tests.integration.test_campaign import seen_of

REFUSED = ("Permission denied", "Invalid/unknown command", "Forbidden", "blacklisted")


def node_of(system: System) -> Node:
    (node,) = system.settings.nodes
    return node


@contextmanager
def logged_in(system: System, role: str) -> Iterator[RawAmi]:
    ami = RawAmi(node_of(system), getattr(node_of(system), role))
    assert "Response: Success" in ami.login
    try:
        yield ami
    finally:
        ami.close()


def passwords(system: System) -> dict[str, str]:
    """Every secret there is, by name: those of the parts, and that of the trunks."""
    return {**json.loads((system.stack.home / "passwords.json").read_text()), "a trunk's": PASSWORD}


def leaked(system: System, text: str) -> list[str]:
    return [name for name, secret in passwords(system).items() if secret in text]


def cli(system: System, command: str) -> str:
    """What Asterisk's own console answers."""
    words = [
        *tree_command(system.tree, "usr/sbin/asterisk"),
        "-C",
        str(system.stack.home / "asterisk/etc/asterisk.conf"),
    ]
    done = subprocess.run([*words, "-rx", command], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def calls_processed(system: System) -> int:
    found = re.search(r"(\d+) calls? processed", cli(system, "core show channels"))
    assert found
    return int(found[1])


# ---------------------------------------------------------------------------------------------
# AMI: who has one of its two logins
# ---------------------------------------------------------------------------------------------

NOBODY_MAY = (
    ("Command", "Command: core show version"),
    ("GetConfig", "Filename: manager.conf"),
    ("GetConfigJSON", "Filename: manager.conf"),
    ("UpdateConfig", "SrcFilename: manager.conf", "DstFilename: manager.conf"),
    ("CreateConfig", "Filename: x.conf"),
    ("ModuleLoad", "LoadType: load", "Module: app_system.so"),
    ("ModuleLoad", "LoadType: load", "Module: func_config.so"),
    ("Reload",),
    ("DBPut", "Family: x", "Key: y", "Val: z"),
    ("DBDel", "Family: x", "Key: y"),
    ("DBDelTree", "Family: x"),
    ("AGI", "Channel: x", "Command: EXEC System id"),
    ("MixMonitor", "Channel: x", "File: /tmp/x", "Command: id"),
    ("MessageSend", "To: pjsip:x", "Body: x"),
    ("DialplanExtensionAdd", "Context: trunkline-endpoint", "Extension: s", "Priority: 1", "Application: NoOp"),
    ("PJSIPRegister", "Registration: x"),
    ("PJSIPNotify", "URI: sip:127.0.0.1", "Variable: Event=x"),
    ("PJSIPShowAuths",),
    ("PJSIPShowEndpoints",),
    ("Filter", "Operation: Add", "Filter: !Event: Hangup"),
    ("UserEvent", "UserEvent: CallEnd"),
)
ONLY_THE_SENDER_MAY = (
    ("Originate", "Channel: Local/doctor@trunkline-maintenance/n", "Application: NoOp", "Async: true"),
    ("Hangup", "Channel: nobody"),
    ("Redirect", "Channel: nobody", "Context: trunkline-maintenance", "Exten: doctor", "Priority: 1"),
    ("Setvar", "Variable: X", "Value: 1"),
    ("Atxfer", "Channel: nobody", "Exten: 1"),
    ("BlindTransfer", "Channel: nobody", "Context: x", "Exten: 1"),
)
ONLY_THE_LISTENER_MAY = (
    ("CoreShowChannels",),
    ("CoreStatus",),
    ("DBGetTree", "Family: att2000010100"),
    ("ShowDialPlan",),
)


def is_refused(answer: str) -> bool:
    return "Response: Error" in answer and any(word in answer for word in REFUSED)


@pytest.mark.parametrize(
    ("role", "forbidden", "allowed"),
    [
        ("listener", (*NOBODY_MAY, *ONLY_THE_SENDER_MAY), ONLY_THE_LISTENER_MAY),
        ("sender", (*NOBODY_MAY, *ONLY_THE_LISTENER_MAY), ONLY_THE_SENDER_MAY),
    ],
)
def test_each_ami_user_may_do_what_its_role_needs_and_no_more(
    system: System, role: str, forbidden: tuple[tuple[str, ...], ...], allowed: tuple[tuple[str, ...], ...]
) -> None:
    with logged_in(system, role) as ami:
        assert [action for action in forbidden if not is_refused(ami.ask(*action))] == []
        assert [action for action in allowed if is_refused(ami.ask(*action))] == []


@pytest.mark.parametrize("role", ["listener", "sender"])
def test_an_ami_login_from_another_address_or_with_a_wrong_secret_is_refused(system: System, role: str) -> None:
    node = node_of(system)
    login: Login = getattr(node, role)
    for source, secret in (("127.0.0.2", login.secret), ("127.0.0.1", login.secret[:-1]), ("127.0.0.1", "")):
        ami = RawAmi(node, Login(username=login.username, secret=secret), source=source)
        assert "Authentication failed" in ami.login
        ami.close()


@pytest.mark.parametrize("role", ["listener", "sender"])
def test_no_ami_user_can_read_a_secret_by_a_function(system: System, role: str, tmp_path: Path) -> None:
    system.add_trunk(f"read-by-{role}")
    secret = tmp_path / "credentials"
    secret.write_text("[default]\nkey = of-somebody-else\n")
    family = re.search(r"^auth = realtime,(\S+)$", (system.stack.home / "asterisk/etc/sorcery.conf").read_text(), re.M)
    assert family
    functions = (
        f"AST_CONFIG(manager.conf,{node_of(system).sender.username},secret)",
        "AST_CONFIG(res_pgsql.conf,general,dbpass)",
        f"AST_CONFIG({secret},default,key)",
        "REALTIME(ps_auths,auth_type,userpass)",
        "REALTIME_FIELD(ps_auths,auth_type,userpass,password)",
        "REALTIME_HASH(ps_auths,auth_type,userpass)",
        f"FILE({secret})",
        f"SHELL(cat {secret})",
        f"EVAL(${{SHELL(cat {secret})}})",
        f"CURL(file://{secret})",
        "ENV(HOME)",
        "DB(att/x)",
    )
    with logged_in(system, role) as ami:
        for function in functions:
            value = ami.ask("Getvar", f"Variable: {function}").partition("Value: ")[2].strip()
            assert value == "", function
        # what keeps the trunks' passwords is that the name of their family is not known
        known = ami.ask("Getvar", f"Variable: REALTIME_FIELD({family[1]},auth_type,userpass,password)")
        assert PASSWORD in known, "the question is the right one"
        assert len(family[1]) > 32


def test_the_sender_can_have_no_program_run_and_no_file_written(system: System, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    applications = (
        ("System", f"touch {out}/a"),
        ("TrySystem", f"touch {out}/b"),
        ("Exec", f"System(touch {out}/c)"),
        ("ExecIf", f"1?System(touch {out}/d)"),
        ("AGI", f"/usr/bin/touch,{out}/e"),
        ("ExternalIVR", f"/usr/bin/touch({out}/f)"),
        ("MixMonitor", f"{out}/g.wav,,touch {out}/h"),
        ("Record", f"{out}/i.wav,1,1"),
        ("ChanSpy", "PJSIP,q"),
        ("Set", f"FILE({out}/j)=1"),
    )
    variables = (
        f"FILE({out}/k)=1",
        f"SHELL(touch {out}/l)=1",
        rf"CHANNEL(hangup_handler_push)=System\,touch {out}/m\,1",
    )
    # the far half of this one answers and plays a sound, as a person's phone would
    leg = (
        "Channel: Local/playback@trunkline-agent/n",
        "Variable: TL_AGENT=demo-congrats",
        "Variable: TL_LONGEST=3",
        "Async: true",
    )
    before = calls_processed(system)
    with logged_in(system, "sender") as ami:
        for name, data in applications:
            ami.ask("Originate", *leg, f"Application: {name}", f"Data: {data}")
        for variable in variables:
            ami.ask("Originate", *leg, "Application: NoOp", f"Variable: {variable}")
    until(lambda: calls_processed(system) > before, what="those that are not refused run")
    until(lambda: "0 active channels" in cli(system, "core show channels"), what="all of them are over")
    assert list(out.iterdir()) == []


RUNS_READS_OR_FETCHES = re.compile(
    r"app_(system|externalivr|mixmonitor|record|monitor|chanspy|agi|voicemail\w*|minivm|dictate|festival|sms|adsiprog|jack|ices"
    r"|mp3|nbscat|getcpeid|alarmreceiver|fax|followme|directory|ivrdemo|morsecode|waitforring|attended_transfer|blind_transfer)"
    r"|func_(shell|env|config|curl|odbc|lock|blacklist|speex|frame_trace)|res_(agi|curl|odbc\w*|config_(curl|odbc|ldap|sqlite3)|ari\w*|stasis\w*"
    r"|http\w*|snmp|xmpp|calendar\w*|phoneprov|monitor|smdi|fax\w*|speech\w*|musiconhold|pjsip_(refer|messaging|registrar|publish\w*|mwi"
    r"|one_touch\w*|endpoint_identifier_(anonymous|user)|notify|outbound_(registration|publish)|transport_websocket))|pbx_(spool|lua|ael|dundi|realtime)"
    r"|cdr_\w+|cel_(?!pgsql)\w+|chan_(?!pjsip|audiosocket)\w+"
)


def test_what_runs_programs_reads_files_or_listens_is_not_loaded(system: System) -> None:
    loaded = set(re.findall(r"^(\w+)\.so ", cli(system, "module show"), re.MULTILINE))
    assert loaded == set(re.findall(r"^(?:pre)?load = (\w+)\.so$", templates()["modules.conf"], re.MULTILINE))
    assert [name for name in loaded if RUNS_READS_OR_FETCHES.fullmatch(name)] == []
    functions, applications = cli(system, "core show functions"), cli(system, "core show applications")
    for name in ("SHELL", "FILE", "ENV", "CURL", "ODBC", "AST_CONFIG", "STAT", "FILE_FORMAT"):
        assert not re.search(rf"^{name}\b", functions, re.MULTILINE), name
    for name in (
        "System",
        "TrySystem",
        "AGI",
        "EAGI",
        "ExternalIVR",
        "MixMonitor",
        "Record",
        "ChanSpy",
        "Stasis",
        "ReceiveFAX",
    ):
        assert not re.search(rf"^ *{name}:", applications, re.MULTILINE), name
    # CDR() and others of Asterisk's core stay; none of them runs a program
    assert "live_dangerously = no" in (system.stack.home / "asterisk/etc/asterisk.conf").read_text()


# ---------------------------------------------------------------------------------------------
# SIP: anybody, and the carrier
# ---------------------------------------------------------------------------------------------

EXTENSIONS = ("s", "playback", "audiosocket", "dialplan", "doctor", "att2026010100", "talk", "+12025550100", "")


def test_no_request_from_anybody_or_from_a_provider_reaches_an_extension(system: System) -> None:
    port = system.settings.sip_port
    assert port
    system.add_trunk("inbound")
    gateway = system.value(
        "SELECT g.id FROM trunk_gateways g JOIN trunks t ON t.id = g.trunk_id WHERE t.name = 'inbound'"
    )
    before = calls_processed(system)
    methods = ("INVITE", "OPTIONS", "REGISTER", "MESSAGE", "SUBSCRIBE", "PUBLISH", "NOTIFY", "REFER", "INFO", "UPDATE")
    for method in methods:
        event = "Event: presence\r\n" if method in {"SUBSCRIBE", "PUBLISH", "NOTIFY"} else ""
        # a stranger, and one who says that he is a gateway of ours
        for name in ("stranger", str(gateway)):
            assert status_of(port, method, "playback", source="127.8.8.8", from_user=name, lines=event) >= 400, method
    system.run("UPDATE trunks SET ip_identifiers = '{127.8.8.9}' WHERE name = 'inbound'")
    for extension in EXTENSIONS:
        for context in ("", "trunkline-agent", "trunkline-maintenance", "mine"):
            user = f"{extension}%40{context}" if context else extension or "x"
            assert status_of(port, "INVITE", user, source="127.8.8.9") == 404
    for method in ("REGISTER", "MESSAGE", "SUBSCRIBE", "PUBLISH", "REFER"):
        event = "Event: presence\r\n" if method in {"SUBSCRIBE", "PUBLISH"} else ""
        assert status_of(port, method, "playback", source="127.8.8.9", lines=event) >= 400, method
    assert calls_processed(system) == before, "no channel was made"


HOSTILE_WORDS = r"Busy, status: ANSWER,UserEvent: AgentLeg ${SHELL(id)} $[1+1] %0d%0aHangup ;x=y ^3B' \\"
TRANSFER = "Refer-To: <sip:+19005550100@127.0.0.1>\r\nContent-Length: 0\r\n\r\n"
DTMF = "Content-Type: application/dtmf-relay\r\n"
SENDS = (
    ("refer", "REFER", TRANSFER),
    ("message", "MESSAGE", "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"),
    ("subscribe", "SUBSCRIBE", "Event: dialog\r\nExpires: 60\r\nContent-Length: 0\r\n\r\n"),
    ("record", "INFO", "Record: on\r\nContent-Length: 0\r\n\r\n"),
    ("no key", "INFO", f"{DTMF}Content-Length: 19\r\n\r\nSignal=${{SHELL(id)}}"),
    ("a key", "INFO", f"{DTMF}Content-Length: 8\r\n\r\nSignal=5"),
)


def test_a_carrier_that_writes_and_sends_what_it_likes_moves_nothing_but_its_own_call(system: System) -> None:
    agent = system.add_agent("victim", "playback://demo-congrats")
    from_number = system.add_trunk("hostile", userpass=False)
    with HostileCarrier(HOSTILE_WORDS, SENDS).running() as carrier:
        system.run(
            "UPDATE trunk_gateways g SET port = %(p)s FROM trunks t WHERE t.id = g.trunk_id AND t.name = 'hostile'",
            p=carrier.port,
        )
        busy = system.call(agent, from_number, "+12125550186")
        until(lambda: system.status(busy) == "busy")
        answered = system.call(agent, from_number, "+12125550101")
        until(lambda: system.status(answered) == "completed", what="the last of its requests has an answer")
        assert carrier.invited == [f"sip:+12125550{s}@127.0.0.1:{carrier.port}" for s in ("186", "101")], (
            "and to nobody else"
        )
    assert {name for name, status in carrier.answers.items() if status < 400} == {"a key"}, "some get no answer at all"
    row = system.rows(
        "SELECT a.sip_code, a.last_reply, a.agent_status, a.hangup_by, c.attempts FROM attempts a JOIN calls c ON c.id = a.call_id"
        " WHERE c.id = %(c)s",
        c=busy,
    )
    assert [tuple(r) for r in row] == [(486, 486, None, None, 1)]
    assert tuple(
        system.rows("SELECT codec, hangup_by, agent_status FROM attempts WHERE call_id = %(c)s", c=answered)[0]
    ) == ("ulaw", "callee", "ANSWER")


# ---------------------------------------------------------------------------------------------
# What lists and people who type choose
# ---------------------------------------------------------------------------------------------


def test_nothing_of_a_list_is_evaluated_and_nothing_moves_into_its_neighbours_place(
    system: System, tmp_path: Path
) -> None:
    out = tmp_path / "evaluated"
    names = [
        "back\\", "back\\\\", 'q"', '"a","b"', 'x\\"y', "com,ma", "a\\,b", "a;b^c^3B", "&PJSIP/x/sip:y@z",
        f"${{SHELL(touch {out})}}", "$[1+1]", "${GLOBAL(x)}", "'; DROP TABLE calls; --", "redis.call('FLUSHALL')",
        "\U0001f600" * 200, "x" * 1000, ")", "}", "${", "%{x}%0d%0a", "Application: System",
    ]  # fmt: skip
    thing = 'evil, "q" ;^3B${EXTEN}$[1+1]\\'
    shown = thing.replace('"', "").replace("\\", "")
    from_number = system.add_trunk(thing)
    system.add_agent(thing, "dialplan://mine/say")
    to = numbers({"01": len(names)}, skip=420)
    file = tmp_path / "hostile.csv"
    with file.open("w", newline="") as text:
        csv.writer(text).writerows(
            [["phone_number", "name", "v"], *([n, name, name] for n, name in zip(to, names, strict=True))]
        )
    at = len(system.parts["asterisk"].log.read_text())
    system.trunkline("campaign", "upload", file, "--name", thing, "--agent", thing, "--from", from_number, "--start")
    until(lambda: system.campaign(thing)["status"] == "completed", within=60)

    def said() -> list[tuple[str, str]]:
        log = system.parts["asterisk"].log.read_text()[at:]
        return re.findall(r"([0-9a-f-]{36}) says (.*)$", log, re.MULTILINE)

    until(lambda: len(said()) >= len(names), what="Asterisk has written its log")
    people = dict(zip(to, names, strict=True))
    for attempt, words in said():
        name, variables, number, caller, nth, campaign, agent, trunk, node = words.split(" ")
        assert system.value("SELECT dialed_number FROM attempts WHERE id = %(a)s", a=attempt) == number
        assert unquote(name) == people.pop(number)
        assert json.loads(unquote(variables)) == {"v": unquote(name)}
        assert (caller, nth, node) == (from_number, "1", NODE)
        assert [unquote(text) for text in (campaign, agent, trunk)] == [shown] * 3
    assert people == {}, "everybody was heard of once"
    assert not out.exists()
    assert sorted(call.number for call in seen_of(system, to)) == sorted(to)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (
            "UPDATE attempts SET dialed_number = %s",
            (
                "+12025550100;x=y",
                "+12025550100\n",
                "+1202555010^3B",
                "+12025550100@evil",
                "sip:x",
                "",
                "+1202",
                "\uff0b12025550100",
            ),
        ),
        ("UPDATE attempts SET from_number = %s", ('"x" <+12025550100>', "+12025550100\r\nX: y", "12025550100")),
        ("UPDATE calls SET phone_number = %s", ("+12025550100;x", "1", "+12025550100 ")),
        ("UPDATE phone_numbers SET phone_number = %s", ("+12025550100;x", "12025550100")),
        (
            "UPDATE trunk_gateways SET gateway_address = %s",
            ("a;transport=tls", "a^3Bx", "a@b", "a b", "a\n", "a:5060", "a>", "[::1]x", "", "ä", "a?x=y", "a/b"),
        ),
        ("UPDATE trunks SET from_user = %s", ("a@b", "a;b", "a^3B", "a\r\nX: y", "a b", "")),
        ("UPDATE trunks SET from_domain = %s", ("a;b", "a\n", "a:1")),
        ("UPDATE trunks SET contact_user = %s", ("a;b", "a\n", "a>")),
        ("UPDATE trunks SET allow = %s", ("ulaw;x", "ulaw,", "^3B")),
        ("UPDATE trunks SET transport = %s", ("transport-ws", "")),
        ("UPDATE trunks SET ip_identifiers = ARRAY[%s]", ("1.2.3.4;x", "a.example", "1.2.3.4^3B", "1.2.3.4\n", None)),
        ("UPDATE trunk_credentials SET auth_username = %s", ("a\r\nX: y", "a\n")),
        ("UPDATE trunk_credentials SET auth_password = %s", ("a\r\nX: y", "\x01")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_ledger_refuses_what_could_be_more_than_it_says(
    system: System, change: str, values: tuple[str, ...]
) -> None:
    with services(system) as ledger:
        for value in values:
            with pytest.raises(psycopg.errors.CheckViolation):
                ledger.execute(change.encode(), (value,))


@contextmanager
def services(system: System) -> Iterator[psycopg.Connection[Any]]:
    """The services' own login, on a trunk, a call and an attempt of its own; nothing of it stays."""
    assert system.settings.database_url
    with psycopg.connect(system.settings.database_url.get_secret_value(), autocommit=True) as ledger:
        ids = {"trunk": uuid4(), "agent": uuid4(), "call": uuid4()}
        number = f"+1303555{os.getpid() % 10_000:04}"
        for statement in (
            "INSERT INTO trunks (id, name, auth_type) VALUES (%(trunk)s, 'walls', 'userpass')",
            "INSERT INTO trunk_gateways (trunk_id, gateway_address) VALUES (%(trunk)s, 'walls.invalid')",
            "INSERT INTO trunk_credentials VALUES (%(trunk)s, 'u', 'p')",
            f"INSERT INTO phone_numbers (phone_number, trunk_id) VALUES ('{number}', %(trunk)s)",
            "INSERT INTO agents (id, name, connect) VALUES (%(agent)s, 'walls', 'playback://beep')",
            "INSERT INTO calls (id, agent_id, phone_number, due_at) VALUES (%(call)s, %(agent)s, '+12025550177', 'infinity')",
            "INSERT INTO attempts (id, call_id, trunk_id, gateway_id, node, dialed_number, from_number, status)"
            f" SELECT gen_random_uuid(), %(call)s, %(trunk)s, id, 'nowhere', '+12025550177', '{number}', 'withdrawn'"
            " FROM trunk_gateways WHERE trunk_id = %(trunk)s",
        ):
            ledger.execute(statement.encode(), ids)
        try:
            yield ledger
        finally:
            ledger.execute("DELETE FROM calls WHERE id = %(call)s", ids)
            ledger.execute("DELETE FROM trunks WHERE id = %(trunk)s", ids)
            ledger.execute("DELETE FROM agents WHERE id = %(agent)s", ids)


def test_a_login_of_the_services_cannot_become_the_owner_by_a_temporary_table(system: System) -> None:
    with services(system) as ledger:
        (login,) = ledger.execute("SELECT current_user").fetchone() or ("",)
        for table in ("call_events", "campaign_count_deltas"):
            ledger.execute(f"CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING DEFAULTS)".encode())
            ledger.execute(
                f"CREATE FUNCTION pg_temp.take_{table}() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN EXECUTE 'ALTER ROLE {login} SUPERUSER'; RETURN NEW; END $$".encode()
            )
            ledger.execute(
                f"CREATE TRIGGER t BEFORE INSERT ON pg_temp.{table} FOR EACH ROW EXECUTE FUNCTION pg_temp.take_{table}()".encode()
            )
        ledger.execute("UPDATE calls SET status = 'canceled' WHERE phone_number = '+12025550177'")
        found = ledger.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        assert found == (False,)
        events = ledger.execute(
            "SELECT count(*) FROM public.call_events WHERE call_id = (SELECT id FROM calls WHERE phone_number = '+12025550177')"
        )
        assert events.fetchone() == (1,), "and what was done is written down"


# ---------------------------------------------------------------------------------------------
# Redis, Celery, Flower, and who listens where
# ---------------------------------------------------------------------------------------------


class _Touches:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return os.mkdir, (str(self._path),)


_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def message(body: bytes, *, task: str = "originate", content_type: str = "application/json") -> str:
    """As kombu puts one into its list."""
    return json.dumps({
        "body": base64.b64encode(body).decode(),
        "content-type": content_type,
        "content-encoding": "binary" if "python" in content_type else "utf-8",
        "headers": {"lang": "py", "task": task, "id": str(uuid4()), "root_id": None, "parent_id": None, "group": None},
        "properties": {
            "correlation_id": str(uuid4()), "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "trunkline"}, "delivery_tag": str(uuid4()),
        },
    })  # fmt: skip


def test_a_worker_refuses_what_is_not_a_list_of_ids_and_goes_on(system: System, tmp_path: Path) -> None:
    log, queue = system.parts["worker-1"].log, "{trunkline}:broker:trunkline"
    at = len(log.read_text())
    loads = tmp_path / "unpickled"
    not_ids = [[["x"]], [["'; DROP TABLE calls; --"]], [[1]], [[None]], ["x"], [{"a": 1}], [], [[]], [None]]
    with redis.Redis.from_url(system.stack.runtime["redis_url"]) as broker:
        broker.lpush(
            queue,
            message(pickle.dumps(([_Touches(loads)], {}, _EMBED)), content_type="application/x-python-serialize"),
            message(b"!!python/object/apply:os.mkdir ['x']", content_type="application/x-yaml"),
            message(b"not json"),
            *(message(json.dumps([[[str(uuid4())]], {}, _EMBED]).encode(), task=task)
              for task in ("os.system", "celery.backend_cleanup\n2026 [error] forged", "workers.tasks.originate")),
            *(message(json.dumps([arguments, {}, _EMBED]).encode()) for arguments in not_ids),
            # well made, and of nothing that is queued: nobody is called
            message(json.dumps([[[str(uuid4())]], {}, _EMBED]).encode()),
        )  # fmt: skip
        from_number, agent = system.add_trunk("after"), system.add_agent("after", "playback://hello-world")
        call = system.call(agent, from_number, "+12285550186")
        until(lambda: system.status(call) == "busy", what="the worker works on")
        assert broker.llen(queue) == 0
        assert not broker.exists("{trunkline}:broker:unacked"), "what was refused does not come again"
    assert system.processes["worker-1"].poll() is None
    assert not loads.exists()
    assert len(system.carrier_calls()) == 1
    said = log.read_text()[at:].splitlines()
    assert len([line for line in said if "task_refused" in line]) == len(not_ids)
    assert not any(line.startswith("2026 [error] forged") for line in said)


def test_redis_wants_its_password_and_lets_nobody_write_files_or_load_code(system: System) -> None:
    address = urlsplit(system.stack.runtime["redis_url"])
    assert address.port
    for password in (None, "wrong"):
        with (
            redis.Redis(
                host="127.0.0.1", port=address.port, password=password, retry=Retry(NoBackoff(), 0)
            ) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
    with redis.Redis.from_url(system.stack.runtime["redis_url"]) as ours:
        for command in (
            ("CONFIG", "SET", "dir", "/tmp"),  # noqa: S108 - it is refused
            ("CONFIG", "SET", "dbfilename", "x"),
            ("MODULE", "LOAD", "/tmp/x.so"),  # noqa: S108
            ("DEBUG", "SLEEP", "0"),
        ):
            with pytest.raises(redis.ResponseError):
                ours.execute_command(*command)


def flower(system: System, path: str, *, login: str | None) -> tuple[int, str]:
    address = urlsplit(system.stack.runtime["flower_url"])
    request = urllib.request.Request(f"http://{address.hostname}:{address.port}{path}")
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""


PAGES = (
    "/",
    "/workers",
    "/worker/worker1@trunkline",
    "/tasks",
    "/broker",
    "/api/workers",
    "/api/tasks",
    "/api/queues/length",
)


def test_flower_shows_nobody_anything_without_its_login_and_no_password_with_it(system: System) -> None:
    address = urlsplit(system.stack.runtime["flower_url"])
    for login in (None, "trunkline:", "trunkline:wrong", f"admin:{address.password}"):
        assert [path for path in PAGES if flower(system, path, login=login)[0] != 401] == []
    # what Flower gives to anybody on this machine: how often which task ran
    status, counts = flower(system, "/metrics", login=None)
    assert (status, leaked(system, counts), re.findall(r"\d{7}-|\+\d{7}", counts)) == (200, [], [])
    for path in PAGES:
        status, text = flower(system, path, login=f"{address.username}:{address.password}")
        assert (path, status, leaked(system, text)) == (path, 200, [])


def test_everything_listens_on_loopback_only(system: System) -> None:
    inodes = {}
    for name, process in system.processes.items():
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            link = os.readlink(descriptor)
            if link.startswith("socket:["):
                inodes[link[8:-1]] = name
    open_to_all = []
    for kind, states in (("tcp", {"0A"}), ("tcp6", {"0A"}), ("udp", {"07"}), ("udp6", {"07"})):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            host, port = local.split(":")
            if rest[5] in inodes and state in states and host not in {"0100007F", f"{'0' * 24}01000000"}:
                open_to_all.append((inodes[rest[5]], kind, int(port, 16)))
    # PJSIP's DNS client opens two, of a random port, and is never asked: names go to res_resolver_unbound
    ports = system.settings.rtp_ports
    assert ports
    first, last = map(int, ports.split("-"))
    assert all(name == "asterisk" and kind.startswith("udp") for name, kind, _ in open_to_all), open_to_all
    assert len(open_to_all) <= 2
    assert not any(first <= port <= last or port == system.settings.sip_port for _, _, port in open_to_all)


# ---------------------------------------------------------------------------------------------
# Secrets and numbers
# ---------------------------------------------------------------------------------------------


def of_nobody_else(path: Path) -> bool:
    return path.is_symlink() or not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def test_passwords_are_nowhere_but_in_files_of_ours_alone_and_numbers_in_no_log(system: System) -> None:
    home = system.stack.home
    from_number, agent = system.add_trunk("secrets"), system.add_agent("secrets", "playback://hello-world")
    dialled = [f"+12295550{s}" for s in ("101", "186", "180", "104")]
    for call in [system.call(agent, from_number, number) for number in dialled]:
        until(lambda call=call: system.status(call) in {"completed", "busy", "no-answer", "failed"})  # type: ignore[misc]
    system.trunkline("call", "+1229555", "--agent", "secrets", "--from", from_number, status=1)
    digits = [number[1:] for number in (*dialled, from_number)]

    # what others on this machine can see of our processes; they cannot read an environment, and it holds none either
    for name, process in system.processes.items():
        for what in ("cmdline", "environ"):
            text = Path(f"/proc/{process.pid}/{what}").read_bytes().decode(errors="replace")
            assert (name, what, leaked(system, text)) == (name, what, [])

    # files: nothing that is ours can be read by anybody else, however readable the home is
    theirs = {"carrier", "mine.conf", "armed"}  # the test's own
    assert [path.name for path in home.iterdir() if path.name not in theirs and not of_nobody_else(path)] == []
    made_since = [
        path for name in ("valkey", "asterisk/lib", "asterisk/run", "log") for path in (home / name).rglob("*")
    ]
    assert [path for path in made_since if path.is_file() and not of_nobody_else(path)] == []

    logs = [*(home / "log").iterdir(), *(system.parts[name].log for name in ("asterisk", "postgres", "valkey"))]
    for log in logs:
        text = log.read_text(errors="replace")
        assert (log.name, leaked(system, text)) == (log.name, [])
        assert (log.name, [number for number in digits if number in text]) == (log.name, [])

    # what is in Redis, in Flower and in the events: ids
    with redis.Redis.from_url(system.stack.runtime["redis_url"]) as client:
        values = " ".join(repr((key, client.dump(key))) for key in client.scan_iter("*"))
    address = urlsplit(system.stack.runtime["flower_url"])
    tasks = flower(system, "/api/tasks?limit=1000", login=f"{address.username}:{address.password}")[1]
    events = repr(system.rows("SELECT call_events::text FROM call_events"))
    for text in (values, tasks, events):
        assert leaked(system, text) == []
        assert [number for number in digits if number in text] == []


def test_psql_needs_no_password_among_its_words(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICEFILE", str(system.stack.home / "pg_service.conf"))
    with psycopg.connect("service=trunkline") as ledger:
        assert ledger.execute("SELECT count(*) >= 0 FROM campaign_status").fetchone() == (True,)


def test_a_password_is_never_said_to_postgres_itself(system: System) -> None:
    """Which may log its statements."""
    url, login = system.stack.runtime["database_owner_url"], "said_in_the_clear"
    ensure_login(url, login, "a secret of nobody", "trunkline_asterisk")
    with psycopg.connect(url, autocommit=True) as owner:
        said = owner.execute(
            "SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()",
            (f"%{login}%",),
        ).fetchone()
        kept = owner.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (login,)).fetchone()
        assert kept is not None
        assert kept[0].startswith("SCRAM-SHA-256$")
        assert said is not None
        assert "a secret of nobody" not in (said[0] or "")
        owner.execute(f"DROP ROLE {login}".encode())


@pytest.mark.parametrize("url", ["postgresql://u:pass@word:x@h:port/d", "mysql://u:pass@word/d"])
def test_an_address_that_is_refused_is_repeated_by_no_error_behind_the_error(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        sqlalchemy_url(url)
    assert "pass" not in "".join(traceback.format_exception(refused.value)).replace("password", "").replace(
        "PASSWORD", ""
    )
    with pytest.raises(Invalid) as refused:
        Node.parse(f"n={url.replace('postgresql', 'ami')}?x")
    assert "word@" not in "".join(traceback.format_exception(refused.value))


# ---------------------------------------------------------------------------------------------
# The second wall on calls at once
# ---------------------------------------------------------------------------------------------


def test_the_rtp_range_is_a_wall_behind_the_slots(tmp_path: Path) -> None:
    """Where the slots are lied about, the call after the last pair of ports sends nothing."""
    with System(tmp_path / "narrow", rtp_ports="23000-23009") as system:
        system.run("UPDATE nodes SET max_calls = 100")
        from_number, agent = (
            system.add_trunk("narrow", slots=100, userpass=False),
            system.add_agent("narrow", "playback://hello-world"),
        )
        to = numbers({"00": 12})
        for number in to:
            system.call(agent, from_number, number)
        until(lambda: not system.value("SELECT count(*) FROM calls WHERE ended_at IS NULL"), what="each call is over")
        assert system.value("SELECT max_calls FROM nodes") == 100, "the lie has stood"
        assert witness.peak_at_once(system.carrier_calls()) <= 5
        refused = system.rows("SELECT dialed_number FROM attempts WHERE disposition = 'not-placed'")
        assert len(refused) >= 12 - 5
        assert {call.number for call in seen_of(system, to)} == set(to) - {row.dialed_number for row in refused}
