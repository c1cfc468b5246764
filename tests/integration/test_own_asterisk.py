"""An Asterisk set up by hand from what `trunkline asterisk export` writes, and what `doctor` says when a part of it is wrong."""

from __future__ import annotations

import json
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from deploy.carrier import witness
from deploy.carrier.carrier import Carrier
from deploy.debian import provide
from deploy.doctor.ledger import examine_postgres
from deploy.doctor.nodes import examine_node
from deploy.embedded.valkey import Valkey
from deploy.export import Wishes, export
from deploy.part import free_port
from models.errors import Conflict, Invalid
from models.findings import Finding, Verdict
from models.settings import Node, Settings
from tests.integration.conftest import Database, PostgresServer
from tests.integration.hostile import status_of
from tests.integration.own_asterisk import OwnAsterisk
from tests.integration.system import until
from tests.integration.test_up import up


@dataclass(frozen=True, kw_only=True)
class Given:
    """Your Postgres, your Redis, your Asterisk; no `trunkline up`, and nothing embedded."""

    asterisk: OwnAsterisk
    settings: Settings
    node: Node
    owner_url: str
    sip_port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TRUNKLINE_DATABASE_URL": self.owner_url,
            "TRUNKLINE_REDIS_URL": self.settings.redis_url.get_secret_value() if self.settings.redis_url else "",
            "TRUNKLINE_ASTERISK_NODES": str(self.node),
        }

    def examined(self) -> list[Finding]:
        _, ledger = examine_postgres(self.settings)
        return examine_node(self.settings, self.node, ledger)


@pytest.fixture(scope="module")
def given(
    postgres: PostgresServer,
    template_database: str,
    valkey_server: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Given]:
    home = tmp_path_factory.mktemp("own")
    name = f"own_{secrets.token_hex(6)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    postgres.execute(f"ALTER DATABASE {name} SET timezone = 'America/New_York'")  # CEL's times have no zone
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute(
            "WITH made AS (INSERT INTO trunks (name, auth_type) VALUES ('there', 'ip-based') RETURNING id)"
            " INSERT INTO trunk_gateways (trunk_id, gateway_address) SELECT id, '127.0.0.1' FROM made"
        )
    settings = Settings(
        home=home / "home", database_url=SecretStr(postgres.url(name)), redis_url=SecretStr(valkey_server.url)
    )
    ami_port, sip_port = free_port(), free_port(span=2)
    wishes = Wishes(node="mine", ami=f"127.0.0.1:{ami_port}", sip_bind=f"127.0.0.1:{sip_port}")
    node = export(settings, home / "exported", wishes)
    asterisk = OwnAsterisk(tree=provide(), home=home / "asterisk", exported=home / "exported", ami_port=ami_port)
    asterisk.set_up()
    pointed = settings.model_copy(update={"asterisk_nodes": SecretStr(str(node))})
    yield Given(asterisk=asterisk, settings=pointed, node=node, owner_url=postgres.url(name), sip_port=sip_port)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _a_gateway(given: Given) -> str:
    with psycopg.connect(given.owner_url) as connection:
        (gateway,) = connection.execute("SELECT id::text FROM ps_endpoints LIMIT 1").fetchone() or ("",)
    return str(gateway)


def amiss(findings: list[Finding], *, but: str = "no listener runs") -> list[Finding]:
    return [f for f in findings if f.verdict in (Verdict.WRONG, Verdict.UNKNOWN) and but not in f.sentence]


def test_set_up_by_hand_from_the_exported_files_alone_it_is_healthy_and_carries_calls(
    given: Given, tmp_path: Path
) -> None:
    carrier = Carrier(
        tree=given.asterisk.tree.root, directory=tmp_path / "carrier", username="me", password="pw", challenge=True
    )
    carrier.start()
    try:
        with given.asterisk.running(), up(tmp_path, **given.environment) as home:
            assert "asterisk.conf" not in " ".join(home.processes().values()), "none is embedded"
            home.trunkline(
                *("trunk", "create", "acme", "--gateway", carrier.address, "--auth-type", "userpass"),
                *("--username", "me", "--password", "pw"),
            )
            home.trunkline("number", "add", "+12025550100", "--trunk", "acme")
            home.trunkline("agent", "create", "bot", "--connect", "playback://hello-world")

            def heard() -> bool:
                with psycopg.connect(given.owner_url) as connection:
                    row = connection.execute("SELECT version FROM nodes WHERE heard_at IS NOT NULL").fetchone()
                    return bool(row and str(row[0]).startswith("22"))

            until(heard, what="the node is heard, and its version written down")
            found = json.loads(home.trunkline("doctor", "--json"))
            assert [f for f in found if f["verdict"] in ("wrong", "unknown")] == []
            for sentence in (
                "finds the trunks",
                "reads our views",
                "its CEL reaches",
                "gives up a silent gateway",
                "hears it",
            ):
                assert [f for f in found if sentence in f["sentence"] and f["part"] == "asterisk mine"], sentence
            # as Asterisk comes, it takes a From that names an endpoint for that endpoint
            gateway = _a_gateway(given)
            for method in ("OPTIONS", "INVITE"):
                assert status_of(given.sip_port, method, "100", source="127.8.8.8", from_user=gateway) == 401
            said = home.trunkline("call", "+12125550101", "--agent", "bot", "--from", "+12025550100", "--wait")
            assert "in-progress" in said
            assert "completed" in said
        assert [call.number for call in witness.read(carrier.log)] == ["+12125550101"]
    finally:
        carrier.stop()


BROKEN = {
    "wrong CEL database": ("cel_pgsql.conf", "dbname = own_", "dbname = nobody_", "CEL does not reach our Postgres"),
    "wrong timers": ("pjsip.conf", "timer_b = 6400", "timer_b = 32000", "PJSIP's timers"),
    "missing dialplan": ("extensions.conf", "[trunkline-", "[not-trunkline-", "does not have our dialplan"),
    "another dialplan": (
        "extensions.conf",
        "exten => dialplan,1",
        "exten => other,1",
        "lacks extensions of our dialplan",
    ),
    "wrong secret": ("manager.conf", "secret = ", "secret = x", "refuses the listener's AMI user"),
    "missing right to send": (
        "manager.conf",
        "write = call,originate",
        "write = call,reporting",
        "lacks class originate",
    ),
    "missing right to hear": (
        "manager.conf",
        "read = call,user,system",
        "read = call,system",
        "does not hear UserEvent",
    ),
    "deaf to calls": ("manager.conf", "read = call,user,system", "read = user,system", "does not hear Hangup"),
    "deaf to booting": (
        "manager.conf",
        "read = call,user,system",
        "read = call,user",
        "never hears that Asterisk has booted",
    ),
    "dangerous right": ("manager.conf", "write = reporting\n", "write = reporting,command\n", "class command"),
    "no realtime": ("extconfig.conf", "doctor =>", "nobody =>", "does not read our views"),
    "no trunks": ("sorcery.conf", "endpoint = realtime", "endpoint = memory", "does not find the trunks"),
    "another database": ("res_pgsql.conf", "dbuser = ", "dbuser = nobody_", "does not read our views"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_doctor_names_the_fault(given: Given, fault: str) -> None:
    name, right, wrong, sentence = BROKEN[fault]
    with given.asterisk.broken(name, right, wrong), given.asterisk.running():
        found = given.examined()
    said = [f for f in found if sentence in f.sentence]
    assert said, found
    assert said[0].advice
    assert said[0].verdict is (Verdict.WARNING if fault == "dangerous right" else Verdict.WRONG)


def test_doctor_names_an_encoding_that_is_not_utf_8(given: Given) -> None:
    with given.asterisk.running(PGCLIENTENCODING="LATIN9"):
        found = given.examined()
    assert len([f for f in found if f.verdict is Verdict.WRONG and "another encoding than UTF-8" in f.sentence]) == 2, (
        found
    )


def test_doctor_names_a_zone_that_is_not_utc(given: Given) -> None:
    with given.asterisk.running(PGTZ="America/New_York"):
        found = given.examined()
    assert [f for f in found if f.verdict is Verdict.WRONG and "a zone is missing" in f.sentence], found


def test_an_asterisk_that_is_not_there_is_said_and_holds_nothing_up(given: Given) -> None:
    found = given.examined()
    assert [f.verdict for f in found if "cannot log in" in f.sentence] == [Verdict.WRONG] * 2


def test_made_again_the_files_keep_their_secrets_and_only_their_owner_reads_them(given: Given) -> None:
    exported = given.asterisk.exported
    before = {file.name: file.read_text() for file in exported.iterdir()}
    wishes = Wishes(
        node="mine",
        ami=f"{given.node.host}:{given.node.port}",
        sip_bind=re.search(r"bind = (\S+)", before["pjsip.conf"])[1],  # type: ignore[index]
    )
    assert export(given.settings.model_copy(update={"asterisk_nodes": None}), exported, wishes) == given.node
    assert {file.name: file.read_text() for file in exported.iterdir()} == before
    assert {stat.S_IMODE(file.stat().st_mode) for file in exported.iterdir()} == {0o600}


def test_files_of_somebody_else_are_not_overwritten(database: Database, tmp_path: Path) -> None:
    (tmp_path / "cel.conf").write_text("[general]\nenable=no\n")
    with pytest.raises(Conflict, match=r"cel\.conf is not one of ours"):
        export(database.settings, tmp_path, Wishes())
    assert [file.name for file in tmp_path.iterdir()] == ["cel.conf"]


def test_one_on_another_machine_needs_to_be_told_from_where_it_is_reached(database: Database, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="--database"):
        export(database.settings, tmp_path / "a", Wishes(ami="192.0.2.7"))
    with pytest.raises(Invalid, match="--permit"):
        export(database.settings, tmp_path / "a", Wishes(ami="192.0.2.7", database="192.0.2.1"))
    wishes = Wishes(ami="192.0.2.7", database="192.0.2.1", permit=("192.0.2.0/24",))
    assert export(database.settings, tmp_path / "a", wishes).host == "192.0.2.7"
    manager = (tmp_path / "a/manager.conf").read_text()
    assert "bindaddr = 192.0.2.7" in manager
    assert "permit = 192.0.2.0/255.255.255.0" in manager
    assert "transport-udp" not in (tmp_path / "a/pjsip.conf").read_text(), "its own transports are used"
