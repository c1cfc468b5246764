"""Receivers of webhooks are told each transition, whatever they or we go through, and nobody else is told or waits."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trustme
from standardwebhooks import WebhookVerificationError

from deploy.carrier.people import numbers
from deploy.part import free_port
from models import roles, webhooks
from models.settings import Settings
from models.webhooks import Failure
from scheduler import webhook_sweep
from scheduler.webhook_sweep import WebhookSweep
from tests.integration.conftest import Database, SmallApi
from tests.integration.ledger_rows import Rows, ended
from tests.integration.receivers import Receiver, receiver
from tests.integration.system import System, until
from tests.integration.test_campaign import seen_of, write_csv
from workers import receivers
from workers import webhooks as delivering
from workers.webhooks import Deliverer

UP = ["queued", "initiated", "ringing", "in-progress", "completed"]


# --- with everything real -------------------------------------------------------------------------


def told(system: System, agent: UUID | str, to: Receiver) -> None:
    """The agent's webhooks go to the receiver."""
    system.run(
        "UPDATE agents SET webhook_url = %(url)s WHERE id::text = %(a)s OR name = %(a)s", url=to.url, a=str(agent)
    )


def waiting(system: System, to: Receiver) -> int:
    """How many deliveries the outbox holds for the receiver."""
    return int(system.value("SELECT count(*) FROM webhook_deliveries WHERE url = %(url)s", url=to.url))


def make_due(system: System, to: Receiver) -> None:
    """The back-off is over, and so are leases."""
    system.run("UPDATE webhook_deliveries SET due_at = now(), leased_until = NULL WHERE url = %(url)s", url=to.url)


def test_each_transition_of_a_call_arrives_once_and_is_signed(system: System) -> None:
    agent, from_number = system.add_agent("told", "playback://hello-world"), system.add_trunk("told")
    with receiver() as there:
        told(system, agent, there)
        call = system.call(agent, from_number, "+12145550101")
        until(lambda: system.status(call) == "completed")
        until(lambda: waiting(system, there) == 0, what="all is delivered")
        secret = system.trunkline("webhook", "secret", there.url).strip()
        bodies = [got.verified(secret) for got in there.got]
        transitions = system.rows(
            "SELECT to_status FROM call_events WHERE call_id = %(id)s AND subject = 'call'", id=call
        )
    assert Counter(body["status"] for body in bodies) == Counter(row.to_status for row in transitions)
    assert {"queued", "initiated", "in-progress", "completed"} <= {body["status"] for body in bodies}
    assert len(there.ids) == len(there.got)
    assert {body["id"] for body in bodies} == {str(call)}
    assert {got.headers["content-type"] for got in there.got} == {"application/json"}
    assert all(got.headers["user-agent"].startswith("trunkline/") for got in there.got)
    [end] = [body for body in bodies if body["status"] == "completed"]
    assert end["telephony_data"]["to_number"] == "+12145550101"
    assert end["telephony_data"]["duration"] > 0
    [start] = [body for body in bodies if body["status"] == "queued"]
    assert start["telephony_data"]["duration"] is None


def test_a_receiver_that_was_down_is_told_all_of_it_with_what_was_true_then(system: System) -> None:
    agent, from_number = system.add_agent("not-there", "playback://hello-world"), system.add_trunk("not-there")
    with receiver(port=(port := free_port())) as there:
        told(system, agent, there)
    call = system.call(agent, from_number, "+12145550101")
    until(lambda: system.status(call) == "completed")
    until(
        lambda: system.value("SELECT bool_and(tries > 0) FROM webhook_deliveries WHERE call_id = %(id)s", id=call),
        what="each was tried",
    )
    assert "could not be connected to" in system.trunkline("webhook", "list")
    with receiver(port=port) as there:
        make_due(system, there)
        until(lambda: waiting(system, there) == 0, what="all is delivered")
    assert set(UP) - {"ringing"} <= {got.status for got in there.got}
    assert len(there.ids) == len(there.got)
    assert there.url not in system.trunkline("webhook", "list")


def test_a_receiver_that_does_not_answer_slows_neither_calls_nor_other_receivers(
    system: System, tmp_path: Path
) -> None:
    to = numbers({"01": 30}, skip=270)
    other = system.add_agent("good", "playback://hello-world")
    from_number = system.add_trunk("good")
    with receiver() as slow, receiver() as good:
        slow.open.clear()
        told(system, other, good)
        told(system, system.add_agent("slow", "playback://hello-world"), slow)
        words = ["--name", "slow", "--agent", "slow", "--from", system.add_trunk("slow"), "--start"]
        system.trunkline("campaign", "upload", write_csv(tmp_path / "slow.csv", to), *words)
        until(lambda: len(slow.got) >= 1, what="the slow one hears of it")
        call = system.call(other, from_number, "+12145550101")
        until(lambda: waiting(system, good) == 0 and "completed" in {got.status for got in good.got})
        until(lambda: system.campaign("slow")["completed"] == len(to), what="everybody was called")
        assert len(seen_of(system, to)) == len(to)
        assert system.status(call) == "completed"
        assert waiting(system, slow) >= 4 * len(to), "it has answered nothing, and nothing is lost"
        slow.open.set()
        make_due(system, slow)
        until(lambda: waiting(system, slow) == 0, within=60, what="it is told all of it")
    assert len({got.id for got in slow.got if got.status == "completed"}) == len(to)


def test_what_a_worker_had_in_hand_when_it_was_killed_arrives_under_the_same_id(system: System) -> None:
    agent, from_number = system.add_agent("in-hand", "playback://hello-world"), system.add_trunk("in-hand")
    with receiver() as there:
        there.open.clear()
        told(system, agent, there)
        call = system.call(agent, from_number, "+12145550101")
        until(lambda: there.got, what="a delivery is in the worker's hand")
        system.kill("webhooks")
        try:
            first = there.got[0].id
            there.open.set()
            until(lambda: system.status(call) == "completed", what="no call needs that worker")
        finally:
            system.start("webhooks")
        make_due(system, there)
        until(lambda: waiting(system, there) == 0, what="all is delivered")
        transitions = system.value(
            "SELECT count(*) FROM call_events WHERE call_id = %(id)s AND subject = 'call'", id=call
        )
    assert [got.id for got in there.got].count(first) == 2
    assert len(there.ids) == transitions


def test_a_worker_that_is_asked_to_stop_ends_what_it_has_in_hand(system: System) -> None:
    agent, from_number = system.add_agent("orderly", "playback://hello-world"), system.add_trunk("orderly")
    with receiver() as there:
        there.open.clear()
        told(system, agent, there)
        system.call(agent, from_number, "+12145550101")
        until(lambda: there.got, what="a delivery is in the worker's hand")
        system.processes["webhooks"].terminate()
        there.open.set()
        assert system.processes["webhooks"].wait(20) == 0
        system.start("webhooks")
        until(lambda: waiting(system, there) == 0 and "completed" in {got.status for got in there.got})
    assert len(there.ids) == len(there.got), "what was in hand was not sent again"


# --- sweep and deliverer in this process ----------------------------------------------------------


@dataclass(kw_only=True)
class Outbox:
    """The ledger's rows, and the sweep whose tasks a thread pool takes instead of Celery."""

    database: Database
    settings: Settings
    rows: Rows
    published: list[Sequence[UUID]] = field(default_factory=list)

    @contextmanager
    def running(self, *, threads: int = 8) -> Iterator[None]:
        stop, deliverer = threading.Event(), Deliverer(self.settings, self.database.engine)
        tasks: list[Future[None]] = []
        with ThreadPoolExecutor(threads) as pool:

            def publish(ids: Sequence[UUID]) -> None:
                self.published.append(ids)
                tasks.append(pool.submit(deliverer.deliver, ids))

            sweep = threading.Thread(target=WebhookSweep(self.settings, publish).run, args=(stop,))
            sweep.start()
            try:
                yield
            finally:
                stop.set()
                sweep.join(20)
                assert not sweep.is_alive()
                for task in tasks:
                    task.result(20)

    def deliver(self, *ids: UUID) -> None:
        Deliverer(self.settings, self.database.engine).deliver(ids)

    def add(self, url: str, *, times: int = 1, at: str = "now()", due: str = "now()", tries: int = 0) -> list[UUID]:
        """Deliveries of one call that was queued, straight into the outbox."""
        campaign = self.rows.campaign(1)
        return [
            row.id
            for row in self.rows.all(
                "INSERT INTO webhook_deliveries (call_id, status, url, at, due_at, tries)"
                f" SELECT id, 'queued', %(url)s, {at}, {due}, %(tries)s FROM calls, generate_series(1, %(times)s)"
                " WHERE campaign_id = %(campaign)s RETURNING webhook_deliveries.id",
                url=url,
                times=times,
                tries=tries,
                campaign=campaign,
            )
        ]

    def delivery(self, id: UUID) -> Any:
        """Its row; None once it is delivered."""
        found = self.rows.all("SELECT * FROM webhook_deliveries WHERE id = %(id)s", id=id)
        return found[0] if found else None

    def waiting(self, url: str = "%") -> int:
        return int(
            self.rows.value(
                "SELECT count(*) FROM webhook_deliveries WHERE url LIKE %(u)s AND given_up_at IS NULL", u=url
            )
        )

    def secrets(self, url: str) -> list[str]:
        with self.database.engine.begin() as connection:
            return webhooks.secrets_of(connection, url)


@pytest.fixture
def outbox(database: Database, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    monkeypatch.setattr(roles, "_TRY_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(webhook_sweep, "_ROUND_SECONDS", 0.05)
    monkeypatch.setattr(webhook_sweep, "_RETRY_AFTER", 0.05)
    monkeypatch.setattr(roles, "_AGAIN_AFTER_SECONDS", 0.05)
    settings = database.settings.model_copy(update={"webhooks_to_private_addresses": True})
    return Outbox(database=database, settings=settings, rows=Rows(engine=database.engine))


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """Every name has these addresses: the first time the first, and so on, the last for ever. Returns who was asked for."""
    asked: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        addresses = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_a_campaigns_address_counts_instead_of_its_agents(outbox: Outbox) -> None:
    with receiver() as agents, receiver() as campaigns:
        outbox.rows.run("UPDATE agents SET webhook_url = %(url)s", url=agents.url)
        plain, special = outbox.rows.campaign(1), outbox.rows.campaign(1)
        outbox.rows.run("UPDATE campaigns SET webhook_url = %(url)s WHERE id = %(id)s", url=campaigns.url, id=special)
        with outbox.running():
            for campaign in (plain, special):
                [attempt] = outbox.rows.grant(campaign)
                outbox.rows.claim([attempt])
                outbox.rows.record(ended(attempt, 17, 486))
            until(lambda: outbox.waiting() == 0)
    assert Counter(got.status for got in agents.got) == Counter(["queued", "initiated", "busy"])
    assert Counter(got.status for got in campaigns.got) == Counter(["queued", "initiated", "busy"])
    assert not agents.ids & campaigns.ids


def test_a_late_delivery_tells_the_transition_and_not_what_is_true_now(outbox: Outbox) -> None:
    with receiver() as there:
        outbox.rows.run("UPDATE agents SET webhook_url = %(url)s", url=there.url)
        [attempt] = outbox.rows.grant(outbox.rows.campaign(1))
        outbox.rows.claim([attempt])
        outbox.rows.record(ended(attempt, 17, 486))
        with outbox.running():
            until(lambda: outbox.waiting() == 0)
    [secret] = outbox.secrets(there.url)
    bodies = sorted((got.verified(secret) for got in there.got), key=lambda body: str(body["updated_at"]))
    assert [body["status"] for body in bodies] == ["queued", "initiated", "busy"]
    assert [body["disposition"] for body in bodies] == [None, None, "busy"]


def test_it_is_tried_again_until_it_is_taken_under_one_id(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_WAIT", timedelta(milliseconds=50))
    with receiver() as there, outbox.running():
        there.answer = 500
        [id] = outbox.add(there.url)
        until(lambda: len(there.got) >= 3)
        row = outbox.delivery(id)
        assert row.last_error == "answered 500"
        assert row.tries >= 2
        there.answer = 200
        until(lambda: outbox.delivery(id) is None)
    assert there.ids == {str(id)}


def test_a_second_message_finds_nothing_to_send(outbox: Outbox) -> None:
    with receiver() as there:
        there.open.clear()
        [id] = outbox.add(there.url)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(outbox.deliver, id)
            until(lambda: there.got)
            outbox.deliver(id)
            there.open.set()
            first.result(20)
        outbox.deliver(id)
    assert len(there.got) == 1
    assert outbox.delivery(id) is None


def test_before_anything_is_sent_it_is_written_when_the_next_try_is_due(outbox: Outbox) -> None:
    with receiver() as there:
        there.open.clear()
        [id] = outbox.add(there.url, tries=2)
        with ThreadPoolExecutor() as pool:
            pool.submit(outbox.deliver, id)
            until(lambda: there.got)
            row = outbox.delivery(id)
            there.open.set()
        assert row.tries == 3
        assert 4 * webhooks.FIRST_WAIT <= row.due_at - row.at <= 6 * webhooks.FIRST_WAIT + timedelta(seconds=20)


def test_no_more_than_a_few_are_in_flight_to_a_receiver_and_all_arrive(outbox: Outbox) -> None:
    with receiver() as there, outbox.running():
        there.open.clear()
        outbox.add(there.url, times=40)
        until(lambda: len(there.got) == webhooks.MOST_IN_FLIGHT)
        with receiver() as good:  # which hears what was written later
            outbox.add(good.url, times=3)
            until(lambda: outbox.waiting(good.url) == 0)
        assert len(there.got) == webhooks.MOST_IN_FLIGHT
        assert len(outbox.published) == 2, "a task a receiver, however much waits"
        there.open.set()
        until(lambda: outbox.waiting() == 0)
    assert len(there.ids) == len(there.got) == 40


def test_what_cannot_be_published_is_published_later(outbox: Outbox) -> None:
    refused = 0
    with receiver() as there:
        [id] = outbox.add(there.url)

        def publish(ids: Sequence[UUID]) -> None:
            nonlocal refused
            refused += 1
            if refused < 3:
                raise ConnectionError("no broker")
            outbox.deliver(*ids)

        stop = threading.Event()
        sweep = threading.Thread(target=WebhookSweep(outbox.settings, publish).run, args=(stop,))
        sweep.start()
        until(lambda: outbox.delivery(id) is None)
        stop.set()
        sweep.join(20)
    assert len(there.got) == 1


def test_a_lost_message_is_published_again_when_its_lease_is_over(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "LEASE", timedelta(milliseconds=200))
    [id] = outbox.add("http://127.0.0.1:1/")
    seen: list[Sequence[UUID]] = []
    stop = threading.Event()
    sweep = threading.Thread(target=WebhookSweep(outbox.settings, seen.append).run, args=(stop,))
    sweep.start()
    until(lambda: len(seen) >= 3)
    stop.set()
    sweep.join(20)
    assert {tuple(ids) for ids in seen} == {(id,)}


def test_a_receiver_that_is_gone_is_not_asked_again(outbox: Outbox) -> None:
    with receiver() as there:
        there.answer = 410
        [id] = outbox.add(there.url)
        outbox.deliver(id)
        outbox.rows.run("UPDATE webhook_deliveries SET due_at = now()")
        outbox.deliver(id)
    assert len(there.got) == 1
    assert outbox.delivery(id).last_error == "answered 410"
    assert outbox.delivery(id).given_up_at


def test_after_a_day_it_is_given_up_and_a_week_later_forgotten(outbox: Outbox) -> None:
    with receiver() as there:
        there.answer = 503
        [young] = outbox.add(there.url, at="now() - interval '23 hours'")
        [old] = outbox.add(there.url, at="now() - interval '25 hours'", tries=40)
        [behind] = outbox.add(there.url, at="now() - interval '26 hours'", due="now() + interval '1 hour'")
        [elsewhere] = outbox.add("http://127.0.0.1:1/", at="now() - interval '26 hours'")
        outbox.deliver(young, old)
        assert outbox.delivery(young).given_up_at is None
        assert outbox.delivery(old).given_up_at
        assert outbox.delivery(behind).given_up_at, "its receiver was down all day"
        assert outbox.delivery(behind).last_error
        assert outbox.delivery(elsewhere).given_up_at is None
        with outbox.database.engine.begin() as connection:
            listed = webhooks.list_undelivered(connection, 100)
        assert {row.id: row.due_at is None for row in listed} == {young: False, old: True, behind: True}
        outbox.rows.run(
            "UPDATE webhook_deliveries SET given_up_at = now() - interval '8 days' WHERE id = %(id)s", id=old
        )
        with outbox.running():
            until(lambda: outbox.delivery(old) is None)
        assert outbox.delivery(behind)


def test_a_redirect_is_not_followed(outbox: Outbox) -> None:
    with receiver() as there, receiver() as elsewhere:
        there.answer, there.headers = 302, {"Location": elsewhere.url}
        [id] = outbox.add(there.url)
        outbox.deliver(id)
    assert "redirected us (302)" in outbox.delivery(id).last_error
    assert len(there.got) == 1
    assert not elsewhere.got


def test_an_answer_that_never_ends_is_not_waited_for(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "TRY_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def endless() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while not done.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=endless)
        thread.start()
        [id] = outbox.add(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        outbox.deliver(id)
        done.set()
        thread.join(20)
    assert outbox.delivery(id).last_error == "did not answer within 1 s"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_addresses_of_this_machine_are_refused_unless_a_setting_allows_them(outbox: Outbox, host: str) -> None:
    deliverer = Deliverer(outbox.database.settings, outbox.database.engine)
    with receiver() as there:
        [id] = outbox.add(f"http://{host}:{there.port}/")
        deliverer.deliver([id])
        assert not there.got
    error = outbox.delivery(id).last_error
    assert "TRUNKLINE_WEBHOOKS_TO_PRIVATE_ADDRESSES" in error or "does not resolve" in error


def test_a_name_that_is_private_in_one_of_its_addresses_is_refused(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliverer = Deliverer(outbox.database.settings, outbox.database.engine)
    with receiver() as there:
        [id] = outbox.add(f"http://both.invalid:{there.port}/")
        resolving(monkeypatch, ["203.0.114.1", "127.0.0.1"])
        deliverer.deliver([id])
    assert not there.got
    assert outbox.delivery(id).last_error.startswith("both.invalid is at a private address: see TRUNKLINE_"), (
        "which one is nothing to tell: any name of the network could be asked for"
    )


def test_a_name_that_turns_to_this_machine_after_it_was_looked_at_is_not_followed_there(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "TRY_SECONDS", 1.0)
    monkeypatch.setattr(receivers, "is_public", lambda address: address != "127.0.0.1")
    deliverer = Deliverer(outbox.database.settings, outbox.database.engine)
    with receiver() as there:
        [id] = outbox.add(f"http://turns.invalid:{there.port}/")
        asked = resolving(monkeypatch, ["192.0.2.1"], ["127.0.0.1"])  # TEST-NET-1 (RFC 5737): nobody is there
        deliverer.deliver([id])
    assert asked == ["turns.invalid"], "asked once, and what it said then counts"
    assert not there.got
    assert outbox.delivery(id).last_error


def test_a_name_beyond_ascii_is_asked_for_as_it_was_written(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as there:
        [sharp, emoji, broken] = [
            id
            for name in ("xn--strae-oqa.invalid", "xn--ls8h.invalid", "xn--a.invalid")
            for id in outbox.add(f"http://{name}:{there.port}/")
        ]
        asked = resolving(monkeypatch, ["127.0.0.1"])
        for id in (sharp, emoji, broken):
            outbox.deliver(id)
    assert asked == ["xn--strae-oqa.invalid", "xn--ls8h.invalid", "xn--a.invalid"]
    assert len(there.got) == 3


def test_one_that_cannot_be_sent_for_a_fault_of_ours_holds_up_no_other(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = receivers.post

    async def post(url: str, *args: Any, **kwargs: Any) -> Failure | None:
        if url.endswith("/faulty"):
            raise LookupError
        return await sent(url, *args, **kwargs)

    monkeypatch.setattr(delivering, "post", post)
    with receiver() as there:
        [faulty], [sound] = outbox.add(f"{there.url}/faulty"), outbox.add(there.url)
        outbox.deliver(faulty, sound)
    assert outbox.delivery(sound) is None
    assert outbox.delivery(faulty).last_error == "could not be sent: trunkline's own log says why"


def test_tls_proves_the_name_though_the_connection_goes_to_the_address(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.example").configure_cert(context)
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings = outbox.settings.model_copy(update={"ca_file": tmp_path / "ca.pem"})
    deliverer = Deliverer(settings, outbox.database.engine)
    with receiver(context=context) as there:
        resolving(monkeypatch, ["127.0.0.1"])
        [right] = outbox.add(f"https://receiver.example:{there.port}/calls?a=b")
        [wrong] = outbox.add(f"https://other.example:{there.port}/")
        deliverer.deliver([right])
        deliverer.deliver([wrong])
        outbox.deliver(*outbox.add(f"https://receiver.example:{there.port}/unknown-authority"))
    assert outbox.delivery(right) is None
    assert names[:2] == ["receiver.example", "other.example"]
    [got] = there.got
    assert got.path == "/calls?a=b"
    assert got.headers["host"] == f"receiver.example:{there.port}"
    assert "certificate is not trusted" in outbox.delivery(wrong).last_error


def test_no_proxy_of_the_environment_is_asked(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with receiver() as there:
        [id] = outbox.add(there.url)
        outbox.deliver(id)
    assert outbox.delivery(id) is None


def test_a_call_that_is_deleted_has_nothing_to_tell(outbox: Outbox) -> None:
    with receiver() as there:
        [id] = outbox.add(there.url)
        outbox.rows.run("UPDATE webhook_deliveries SET call_id = gen_random_uuid()")
        outbox.deliver(id)
    assert outbox.delivery(id) is None
    assert not there.got


# --- secrets --------------------------------------------------------------------------------------


def test_for_a_day_after_it_is_replaced_the_old_secret_signs_beside_the_new(outbox: Outbox) -> None:
    with receiver() as there, receiver() as other:
        [old] = outbox.secrets(there.url)
        [others] = outbox.secrets(other.url)
        assert old != others
        assert old.startswith("whsec_")
        with outbox.database.engine.begin() as connection:
            new = webhooks.replace_secret(connection, there.url)
        assert outbox.secrets(there.url) == [new, old]
        assert outbox.secrets(other.url) == [others], "nobody else's is replaced"
        outbox.deliver(*outbox.add(there.url))
        outbox.rows.run("UPDATE webhook_keys SET created_at = created_at - interval '25 hours'")
        assert outbox.secrets(there.url) == [new]
        outbox.deliver(*outbox.add(there.url))
        during, after = there.got
    for secret in (old, new):
        assert during.verified(secret)["status"] == "queued"
    assert after.verified(new)
    with pytest.raises(WebhookVerificationError):
        after.verified(old)


def test_at_first_use_all_who_ask_at_once_get_the_same_secret(outbox: Outbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(outbox.secrets, ["https://example.com/"] * 4))
    assert len({tuple(one) for one in found}) == 1


# --- over HTTP ------------------------------------------------------------------------------------


def test_the_secret_is_shown_to_administrators_only(small_api: SmallApi) -> None:
    with small_api.client("call") as asks:
        assert asks.get("/webhooks/secret", params={"url": "https://example.com/"}).status_code == 403
    with small_api.client("admin") as asks:
        answer = asks.get("/webhooks/secret", params={"url": "https://example.com/"})
        with small_api.database.engine.begin() as connection:
            [secret] = webhooks.secrets_of(connection, "https://example.com/")
        assert answer.json() == {"url": "https://example.com/", "secret": secret}
        for wrong in ({}, {"url": "ftp://x"}, {"url": "http://a\x00"}, {"url": "http://a", "more": "1"}):
            assert asks.get("/webhooks/secret", params=wrong).status_code == 422


def test_the_secret_is_replaced_by_administrators_only(small_api: SmallApi) -> None:
    url = "https://example.com/"
    with small_api.client("call") as asks:
        assert asks.post("/webhooks/secret/rotate", json={"url": url}).status_code == 403
    with small_api.client("admin") as asks:
        old = asks.get("/webhooks/secret", params={"url": url}).json()["secret"]
        answer = asks.post("/webhooks/secret/rotate", json={"url": url})
        assert answer.status_code == 200, answer.text
        new = answer.json()["secret"]
        assert answer.json() == asks.get("/webhooks/secret", params={"url": url}).json()
        with small_api.database.engine.begin() as connection:
            assert webhooks.secrets_of(connection, url) == [new, old]
        for wrong in ({}, {"url": "ftp://example.com"}, {"url": url, "more": 1}):
            assert asks.post("/webhooks/secret/rotate", json=wrong).status_code == 422


def test_what_did_not_arrive_is_listed(small_api: SmallApi) -> None:
    with small_api.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO webhook_deliveries (call_id, status, url, tries, last_error)"
            " VALUES (gen_random_uuid(), 'busy', 'https://example.com/', 2, 'answered 503'),"
            " (gen_random_uuid(), 'busy', 'https://example.com/', 0, NULL)"
        )
    with small_api.client("read") as asks:
        [shown] = asks.get("/webhooks/deliveries").json()["deliveries"]
        assert (shown["status"], shown["tries"], shown["last_error"]) == ("busy", 2, "answered 503")
        assert shown["due_at"]
        assert asks.get("/webhooks/deliveries", params={"limit": 0}).status_code == 422
