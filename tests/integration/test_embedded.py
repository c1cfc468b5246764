"""Postgres, Valkey and Asterisk come up from nothing, work together, and keep what they stored.

Asterisk is tried against views made here, so that this file says what it needs of them and nothing
else; SIPp from the same tree of packages is the carrier.
"""

from __future__ import annotations

import socket
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest
import redis

from asterisk.configuration import Database
from deploy import debian
from deploy.embedded.asterisk import Asterisk
from deploy.embedded.passwords import password
from deploy.embedded.postgres import DATABASE, OWNER, Postgres
from deploy.embedded.valkey import Valkey
from deploy.part import Part, free_port, running
from models.errors import Invalid, Unavailable
from models.settings import Login, read_settings

VIEWS = """
CREATE TABLE may_dial (id text PRIMARY KEY, contact text NOT NULL);
CREATE VIEW ps_aors AS SELECT id, contact FROM may_dial;
CREATE VIEW ps_auths AS SELECT 'gateway'::text AS id, 'userpass'::text AS auth_type, 'user'::text AS username, 'pw'::text AS password;
CREATE VIEW ps_endpoints AS
SELECT 'gateway'::text AS id, 'transport-udp'::text AS transport, ''::text AS aors, 'trunkline-endpoint'::text AS context,
       'all'::text AS disallow, 'ulaw,alaw'::text AS allow, 'user'::text AS redirect_method, ''::text AS mailboxes;
CREATE VIEW ps_endpoint_id_ips AS SELECT ''::text AS id, ''::text AS endpoint, ''::text AS match WHERE false;
CREATE VIEW asterisk_call_context AS
SELECT id AS attempt_id, '+15550100'::text AS phone_number FROM may_dial;
CREATE VIEW asterisk_call_person AS
SELECT id AS attempt_id, 'Doe, "Jo" ^3B'::text AS name, '{"city": "a,b"}'::text AS variables FROM may_dial;
CREATE TABLE cel (eventtype text, eventtime timestamptz, uniqueid text, linkedid text, channame text, extra text);
CREATE FUNCTION say_cel() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('cel', NEW.eventtype || ' ' || NEW.uniqueid); RETURN NULL; END $$;
CREATE TRIGGER say_cel AFTER INSERT ON cel FOR EACH ROW EXECUTE FUNCTION say_cel();
"""

DIALPLAN = """
[mine]
exten => hello,1,UserEvent(AgentLeg,status: ${URIENCODE(${CALL_NAME}|${JSON_DECODE(CALL_VARIABLES,city)}|${HASH(CALL,phone_number)})})
 same => n,Hangup()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ----------------------------------------------------------------------------------------- Postgres


def new_postgres(home: Path) -> Postgres:
    return Postgres(directory=home / "postgres", port=free_port(), passwords=home / "passwords.json")


def test_postgres_comes_up_from_nothing_and_keeps_its_data(tmp_path: Path) -> None:
    postgres = new_postgres(tmp_path)
    postgres.prepare()
    with running(postgres.part()), psycopg.connect(postgres.owner_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'ö' AS word")
        row = connection.execute(
            "SELECT current_setting('server_encoding'), current_database(), current_user"
        ).fetchone()
        assert row == ("UTF8", DATABASE, OWNER)

    elsewhere = replace(postgres, port=free_port())
    elsewhere.prepare()
    with running(elsewhere.part()), psycopg.connect(elsewhere.owner_url) as connection:
        assert connection.execute("SELECT word FROM kept").fetchone() == ("ö",)


def test_postgres_wants_the_password_and_does_not_show_it(tmp_path: Path) -> None:
    postgres = new_postgres(tmp_path)
    postgres.prepare()
    part = postgres.part()
    secret = password(postgres.passwords, OWNER)
    assert secret not in " ".join(part.argv) + str(part.env)
    assert mode(postgres.passwords) == 0o600
    with running(part), pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url(OWNER, "wrong"), connect_timeout=5)


def test_an_interrupted_initdb_is_made_again(tmp_path: Path) -> None:
    postgres = new_postgres(tmp_path)
    half = postgres.directory / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    postgres.prepare()
    with running(postgres.part()):
        pass
    assert not half.exists()


def test_a_cluster_of_an_unknown_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    postgres = new_postgres(tmp_path)
    postgres.data.mkdir(parents=True)
    (postgres.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(Unavailable, match="made by PostgreSQL 9"):
        postgres.prepare()
    assert (postgres.data / "PG_VERSION").read_text() == "9\n"


def test_postgres_starts_although_a_stranger_has_the_number_of_its_dead_postmaster(tmp_path: Path) -> None:
    postgres = new_postgres(tmp_path)
    postgres.prepare()
    (postgres.data / "postmaster.pid").write_text(f"1\n{postgres.data}\n")
    postgres.prepare()
    with running(postgres.part()):
        pass


def test_a_directory_too_deep_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    postgres = new_postgres(tmp_path / ("deep" * 20))
    postgres.prepare()
    with running(postgres.part()), psycopg.connect(postgres.owner_url):
        pass


def test_a_part_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    part = Part(
        name="sh",
        argv=["sh", "-c", "echo no such luck; exit 3"],
        log=tmp_path / "log",
        cwd=tmp_path,
        ready=lambda: False,
    )
    with pytest.raises(Unavailable, match=r"ended with status 3(.|\n)*no such luck"), running(part):
        pass


# ------------------------------------------------------------------------------------------- Valkey


def test_valkey_comes_up_from_nothing_and_keeps_its_data(tmp_path: Path) -> None:
    valkey = Valkey(directory=tmp_path / "valkey", port=free_port(), passwords=tmp_path / "passwords.json")
    starts = None
    for _ in range(2):
        valkey.prepare()
        with running(valkey.part()), redis.Redis.from_url(valkey.url, decode_responses=True) as client:
            client.incr("starts")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            starts = client.get("starts")
    assert starts == "2"


def test_valkey_wants_the_password_and_does_not_show_it(tmp_path: Path) -> None:
    valkey = Valkey(directory=tmp_path / "valkey", port=free_port(), passwords=tmp_path / "passwords.json")
    valkey.prepare()
    part = valkey.part()
    assert password(valkey.passwords, "valkey") not in " ".join(part.argv)
    assert mode(valkey.directory / "valkey.conf") == 0o600
    with running(part), redis.Redis(port=valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


# ----------------------------------------------------------------------------------------- Asterisk


class Ami:
    """A bare AMI client, so that what is tested is the configuration."""

    def __init__(self, port: int, login: Login) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.file = self.socket.makefile("rw", encoding="utf-8", newline="")
        self.file.readline()
        self.send("Login", Username=login.username, Secret=login.secret)

    def send(self, action: str, *variables: str, **headers: str) -> None:
        lines = [
            f"Action: {action}",
            *(f"{k}: {v}" for k, v in headers.items()),
            *(f"Variable: {v}" for v in variables),
        ]
        self.file.write("\r\n".join(lines) + "\r\n\r\n")
        self.file.flush()

    def messages(self) -> Iterator[dict[str, str]]:
        while True:
            message: dict[str, str] = {}
            for line in iter(self.file.readline, "\r\n"):
                if not line:
                    raise EOFError
                name, _, value = line.rstrip("\r\n").partition(": ")
                message[name] = value
            yield message

    def until(self, **wanted: str) -> list[dict[str, str]]:
        """Every message up to and with the first that has these headers."""
        seen = []
        for message in self.messages():
            seen.append(message)
            if wanted.items() <= message.items():
                break
        return seen

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@dataclass(kw_only=True)
class Exchange:
    """An Asterisk that is up, its ledger, both AMI users and a carrier that answers."""

    asterisk: Asterisk
    ledger: psycopg.Connection[tuple[object, ...]]
    ears: Ami
    mouth: Ami
    carrier_port: int

    def dial(self, extension: str, *variables: str, contact: str | None = None) -> tuple[str, list[dict[str, str]]]:
        attempt = str(uuid.uuid4())
        to = contact or f"sip:+15550100@127.0.0.1:{self.carrier_port}"
        self.ledger.execute("INSERT INTO may_dial VALUES (%s, %s)", (attempt, to))
        self.originate(attempt, extension, *variables)
        return attempt, self.ears.until(Event="Hangup", Uniqueid=attempt)

    def originate(self, attempt: str, extension: str, *variables: str) -> None:
        self.mouth.send(
            "Originate",
            "TIMEOUT(absolute)=60",
            f"DB(att20260101/{attempt})=1",
            r"CHANNEL(hangup_handler_push)=trunkline-end\,s\,1",
            "TL_LONGEST=30",
            "TL_FALLBACK=vm-goodbye",
            *variables,
            ActionID=attempt,
            ChannelId=attempt,
            Channel=f"PJSIP/gateway/{attempt}",
            Context="trunkline-agent",
            Exten=extension,
            Priority="1",
            Timeout="30000",
            CallerID="+15550199",
            Async="true",
        )

    def marks(self) -> set[str]:
        self.ears.send("DBGetTree", Family="att20260101")
        return {m["Key"].rpartition("/")[2] for m in self.ears.until(Event="DBGetTreeComplete") if "Key" in m}


def user_events(messages: list[dict[str, str]], kind: str) -> list[dict[str, str]]:
    return [m for m in messages if m.get("UserEvent") == kind]


def taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def database(home: Path) -> Iterator[Postgres]:
    postgres = new_postgres(home)
    postgres.prepare()
    with running(postgres.part()):
        with psycopg.connect(postgres.owner_url, autocommit=True) as connection:
            connection.execute(VIEWS)
        yield postgres


@pytest.fixture(scope="module")
def described(home: Path, database: Postgres) -> Asterisk:
    (home / "mine.conf").write_text(DIALPLAN)
    return Asterisk(
        tree=debian.provide(),
        directory=home / "asterisk",
        database=Database(
            host="127.0.0.1",
            port=database.port,
            name=DATABASE,
            user=OWNER,
            password=password(database.passwords, OWNER),
        ),
        ami_port=free_port(),
        listener=Login(username="listener", secret="heard; not seen"),
        sender=Login(username="sender", secret="said"),
        sip_port=free_port(span=2),
        rtp_start=21_000,
        rtp_end=21_099,
        external_address="203.0.113.7",
        local_networks=("127.0.0.0/8", "10.0.0.0/8"),
        dialplan_file=home / "mine.conf",
    )


@pytest.fixture(scope="module")
def exchange(described: Asterisk, database: Postgres, home: Path) -> Iterator[Exchange]:
    port = free_port()
    words = [*debian.unprivileged(), *debian.tree_command(described.tree, "usr/bin/sipp")]
    carrier = Part(
        name="sipp",
        argv=[*words, "-sn", "uas", "-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", str(port), "-nostdin"],
        log=home / "sipp.log",
        cwd=home,
        ready=lambda: taken(port),
    )
    described.prepare()
    with (
        running(carrier),
        running(described.part()),
        psycopg.connect(database.owner_url, autocommit=True) as ledger,
    ):
        ears, mouth = Ami(described.ami_port, described.listener), Ami(described.ami_port, described.sender)
        try:
            ears.until(Event="FullyBooted")
            mouth.until(Event="FullyBooted")
            yield Exchange(asterisk=described, ledger=ledger, ears=ears, mouth=mouth, carrier_port=port)
        finally:
            ears.close()
            mouth.close()


def test_a_call_that_only_rows_describe_is_dialled_and_answered(exchange: Exchange) -> None:
    attempt, seen = exchange.dial("playback", "TL_AGENT=vm-goodbye")
    assert [m["Response"] for m in seen if m.get("Event") == "OriginateResponse"] == ["Success"]
    assert not user_events(seen, "AgentLeg")
    [said] = user_events(seen, "CallEnd")
    assert (said["Uniqueid"], said["leg"], said["ended"], said["codec"]) == (attempt, "ANSWER", "agent", "(ulaw)")
    assert said["callid"]
    assert "rxcount=" in said["rtcp"]
    assert 0 < float(said["left"]) <= 30
    assert seen[-1]["Cause"] == "16"
    assert attempt in exchange.marks()


def test_asterisks_own_ledger_has_the_call_in_utc(exchange: Exchange) -> None:
    exchange.ledger.execute("LISTEN cel")
    attempt, _ = exchange.dial("playback", "TL_AGENT=vm-goodbye")
    # The row of the end may come a little after AMI's Hangup.
    said = exchange.ledger.notifies(timeout=60)
    assert any(notice.payload == f"HANGUP {attempt}" for notice in said)
    said.close()
    exchange.ledger.execute("UNLISTEN cel")
    query = "SELECT eventtype, abs(extract(epoch FROM now() - eventtime)) < 600 FROM cel WHERE uniqueid = %s ORDER BY eventtime"
    rows = exchange.ledger.execute(query, (attempt,)).fetchall()
    assert rows == [("CHAN_START", True), ("ANSWER", True), ("HANGUP", True)]


def test_a_dead_agent_is_reported(exchange: Exchange) -> None:
    attempt, seen = exchange.dial("audiosocket", f"TL_AGENT=127.0.0.1:{free_port()}")
    assert [(m["Uniqueid"], m["status"]) for m in user_events(seen, "AgentLeg")] == [(attempt, "CHANUNAVAIL")]
    assert [m["leg"] for m in user_events(seen, "CallEnd")] == ["CHANUNAVAIL"]


def test_a_prompt_that_is_not_there_is_reported(exchange: Exchange) -> None:
    _, seen = exchange.dial("playback", "TL_AGENT=no-such-sound")
    assert [m["status"] for m in user_events(seen, "AgentLeg")] == ["NOSOUND"]


def test_an_extension_that_is_not_there_is_reported(exchange: Exchange) -> None:
    _, seen = exchange.dial("dialplan", "TL_CONTEXT=mine", "TL_EXTEN=nobody")
    assert [m["status"] for m in user_events(seen, "AgentLeg")] == ["NOEXTENSION"]


def test_a_dialplan_of_the_user_knows_who_is_on_the_line(exchange: Exchange) -> None:
    _, seen = exchange.dial("dialplan", "TL_CONTEXT=mine", "TL_EXTEN=hello")
    assert [unquote(m["status"]) for m in user_events(seen, "AgentLeg")] == ['Doe, "Jo" ;|a,b|+15550100']


def test_an_attempt_that_the_ledger_does_not_give_is_not_dialled(exchange: Exchange) -> None:
    attempt = str(uuid.uuid4())
    exchange.originate(attempt, "playback", "TL_AGENT=vm-goodbye")
    seen = exchange.ears.until(Event="OriginateResponse", Uniqueid=attempt)
    assert seen[-1]["Response"] == "Failure"
    assert not [m for m in seen if m.get("Event") == "Newchannel"]
    assert attempt not in exchange.marks()


def test_a_silent_gateway_ends_by_our_own_transaction_timer(exchange: Exchange) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        _, seen = exchange.dial("playback", contact=f"sip:+15550100@127.0.0.1:{silent.getsockname()[1]}")
    assert (seen[-1]["Cause"], seen[-1]["TechCause"]) == ("18", "408")
    assert [m["callid"] != "" for m in user_events(seen, "CallEnd")] == [True]


def test_the_listener_hears_nothing_that_it_did_not_ask_for(exchange: Exchange) -> None:
    _, seen = exchange.dial("playback", "TL_AGENT=vm-goodbye")
    assert {m["Event"] for m in seen if "Event" in m} <= {
        "Newchannel",
        "Newstate",
        "DialBegin",
        "DialState",
        "DialEnd",
        "OriginateResponse",
        "UserEvent",
        "HangupRequest",
        "Hangup",
    }


@pytest.mark.parametrize(("user", "action"), [("ears", "Originate"), ("mouth", "DBDel")])
def test_no_ami_user_may_do_more_than_its_part(exchange: Exchange, user: str, action: str) -> None:
    link: Ami = getattr(exchange, user)
    link.send(action, ActionID="not-mine")
    assert link.until(ActionID="not-mine")[-1]["Response"] == "Error"


@pytest.mark.parametrize("port_above", [0, 1], ids=["tcp", "tls"])
def test_sip_listens_on_every_transport(exchange: Exchange, port_above: int) -> None:
    with socket.create_connection(("127.0.0.1", exchange.asterisk.sip_port + port_above), timeout=10):
        pass


def test_old_marks_can_be_forgotten(exchange: Exchange) -> None:
    exchange.dial("playback", "TL_AGENT=vm-goodbye")
    assert exchange.marks()
    exchange.mouth.send(
        "Originate",
        ActionID="forget",
        Channel="Local/att20260101@trunkline-maintenance/n",
        Application="NoOp",
        Async="true",
    )
    exchange.ears.until(Event="OriginateResponse", ActionID="forget")
    assert not exchange.marks()


def test_the_log_has_no_error_of_ours_and_no_dialled_number(exchange: Exchange) -> None:
    log = exchange.asterisk.part().log.read_text()
    assert "Asterisk Ready." in log
    booting = log.split("Asterisk Ready.")[0]
    assert [line for line in booting.splitlines() if "ERROR" in line or "WARNING" in line] == []
    assert "15550100" not in log


def test_the_configuration_is_private_and_not_in_the_argv(exchange: Exchange) -> None:
    asterisk = exchange.asterisk
    files = list(asterisk.etc.iterdir())
    assert {mode(file) for file in files} == {0o600}
    words = " ".join(asterisk.part().argv)
    assert asterisk.sender.secret not in words
    assert asterisk.database.password not in words


def test_asterisk_keeps_its_marks_over_a_restart(described: Asterisk, tmp_path: Path) -> None:
    again = replace(
        described,
        directory=tmp_path / "a",
        ami_port=free_port(),
        sip_port=free_port(span=2),
        rtp_start=22_000,
        rtp_end=22_099,
    )
    keys: list[str] = []
    for start in range(2):
        again.prepare()
        with running(again.part()):
            ears, mouth = Ami(again.ami_port, again.listener), Ami(again.ami_port, again.sender)
            mouth.until(Event="FullyBooted")
            ears.until(Event="FullyBooted")
            if start == 0:
                mouth.send(
                    "Originate",
                    "DB(att20260102/kept)=1",
                    ActionID="mark",
                    Channel="Local/nothing@trunkline-agent/n",
                    Application="NoOp",
                    Async="true",
                )
                ears.until(Event="OriginateResponse", ActionID="mark")
            ears.send("DBGetTree", Family="att20260102")
            keys = [m["Key"] for m in ears.until(Event="DBGetTreeComplete") if "Key" in m]
            ears.close()
            mouth.close()
    assert keys == ["/att20260102/kept"]


@pytest.mark.parametrize("missing", ["server", "tables"])
def test_asterisk_does_not_start_before_its_ledger(
    described: Asterisk, database: Postgres, tmp_path: Path, missing: str
) -> None:
    without = (
        replace(described.database, port=free_port())
        if missing == "server"
        else replace(described.database, name="postgres")
    )
    early = replace(described, directory=tmp_path / "a", database=without)
    early.prepare()
    with pytest.raises(Unavailable, match="before its tables"), running(early.part()):
        pass
    assert not early.part().log.exists()


@pytest.mark.parametrize("text", ["[trunkline-endpoint]\nexten => _X.,1,Dial(PJSIP/evil)\n", None])
def test_a_dialplan_that_cannot_be_used_is_refused(described: Asterisk, tmp_path: Path, text: str | None) -> None:
    if text:
        (tmp_path / "bad.conf").write_text(text)
    with pytest.raises(Invalid, match="TRUNKLINE_DIALPLAN_FILE"):
        replace(described, directory=tmp_path / "a", dialplan_file=tmp_path / "bad.conf").prepare()


def test_authorities_that_cannot_be_read_are_not_replaced_by_others(described: Asterisk, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="TRUNKLINE_CA_FILE"):
        replace(described, directory=tmp_path / "a", authorities=tmp_path / "none.pem").prepare()


@pytest.mark.parametrize("nameserver", ["ns.example.net", "192.0.2.1:53", "192.0.2.1@", "192.0.2.1@99999"])
def test_a_name_server_that_could_not_be_asked_is_refused(nameserver: str) -> None:
    with pytest.raises(Invalid, match="TRUNKLINE_NAMESERVER"):
        read_settings(nameserver=nameserver)


def test_a_value_cannot_add_a_line_to_the_configuration(described: Asterisk, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        replace(described, directory=tmp_path / "a", external_address="1.2.3.4\n[evil]").prepare()


def test_a_timer_that_asterisk_would_not_keep_is_refused(described: Asterisk, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="TRUNKLINE_SIP_TIMER_T1_MS"):
        replace(described, directory=tmp_path / "a", timer_t1_ms=99).prepare()
