"""Behind NAT, on a public address, on loopback: what carriers are told, and whether audio comes back, on real networks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration.behind_nat import Site
from tests.integration.namespaces import INSIDE, PRIVATE, PUBLIC, ROUTER, RTP_PORTS, SIP_PORT, Network, NoNamespaces

BEHIND_NAT = {"TRUNKLINE_SIP_BIND": f"0.0.0.0:{SIP_PORT}", "TRUNKLINE_RTP_PORTS": str(RTP_PORTS)}
# Numbers that end in 02 are answered, and hung up by the carrier after two seconds.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    try:
        network = Network().__enter__()
    except NoNamespaces as error:
        pytest.skip(f"this machine lets us make no networks of our own: {error}")
    try:
        with Site(network, tmp_path_factory.mktemp("nat")) as site:
            yield site
    finally:
        network.__exit__()


def test_behind_nat_the_external_address_is_told_and_audio_flows_both_ways(site: Site) -> None:
    with site.up(TRUNKLINE_EXTERNAL_ADDRESS=ROUTER, **BEHIND_NAT):
        config = json.loads(site.trunkline("config", "--json"))
        assert (config["sip_address"], config["rtp_ports"]) == (f"{ROUTER}:{SIP_PORT}", str(RTP_PORTS))
        assert [node["max_calls"] for node in config["asterisk_nodes"]] == [RTP_PORTS.calls]

        call = site.call("+12125550102")
        [invite] = call.invites
        assert (invite.contact, invite.via) == (f"{ROUTER}:{SIP_PORT}", f"{ROUTER}:{SIP_PORT}")
        host, port = invite.audio
        assert host == ROUTER
        assert RTP_PORTS.first <= port <= RTP_PORTS.last
        assert (call.attempt["status"], call.attempt["disposition"]) == ("completed", "answered")
        assert call.packets, "the carrier hears us"
        assert call.heard_seconds, "and we hear it"
        assert min(call.attempt["rx_packets"], call.attempt["tx_packets"]) > 0
        assert call.refused == 0
        assert [carried.end for carried in call.carried] == ["bye-sent"]
        assert call.attempt["hangup_by"] == "callee", "its BYE comes in"

        # a carrier on this side of the NAT, here on the machine itself, is not sent round by the router
        with site.carrier(INSIDE, "127.0.0.1", 5080) as local:
            site.add_trunk("local", "127.0.0.1:5080", "+12025550101")
            call = site.call("+12125550202", from_number="+12025550101", carrier=local)
        [invite] = call.invites
        assert ROUTER not in {invite.audio[0], invite.contact.partition(":")[0]}
        assert call.attempt["hangup_by"] == "callee"
        assert call.heard_seconds


def test_behind_nat_without_the_external_address_nothing_is_heard_of_a_call_that_was_answered(site: Site) -> None:
    """The classic fault: the carrier's audio went to an address that is of no use to it."""
    with site.up(**BEHIND_NAT):
        call = site.call("+12125550302")
        [invite] = call.invites
        assert invite.contact == f"{PRIVATE}:{SIP_PORT}"
        assert invite.audio[0] == PRIVATE
        assert {packet.source[0] for packet in call.packets} == {ROUTER}, "the carrier hears us"
        assert {packet.sent_back_to[0] for packet in call.packets} == {PRIVATE}
        assert call.refused >= len(call.packets) > 0
        assert call.heard_seconds == 0.0
        assert (call.attempt["status"], call.attempt["disposition"]) == ("completed", "answered")
        assert call.attempt["rx_packets"] == 0
        assert call.attempt["tx_packets"] > 0
        assert "no audio was received" in call.attempt["explanation"]
        assert "TRUNKLINE_EXTERNAL_ADDRESS" in call.attempt["explanation"]


def test_on_a_public_address_of_the_machine_nothing_but_the_bind_is_needed(site: Site) -> None:
    with site.up(TRUNKLINE_SIP_BIND=f"{PUBLIC}:{SIP_PORT}"):
        call = site.call("+12125550402")
        [invite] = call.invites
        assert invite.contact == f"{PUBLIC}:{SIP_PORT}"
        assert invite.audio[0] == PUBLIC
        assert {packet.source for packet in call.packets} == {invite.audio}
        assert call.heard_seconds
        assert call.refused == 0
        assert call.attempt["hangup_by"] == "callee"


def test_on_loopback_no_invite_leaves_the_machine(site: Site) -> None:
    with site.up():
        config = json.loads(site.trunkline("config", "--json"))
        assert config["sip_address"] == "127.0.0.1:5060"
        call = site.call("+12125550502")
        assert call.invites == []
        assert (call.attempt["status"], call.attempt["disposition"]) == ("failed", "congestion")
        assert "TRUNKLINE_SIP_BIND" in call.attempt["explanation"]
