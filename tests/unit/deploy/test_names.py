"""What is left of an answer: one record, and nothing that would lead to another."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns.rdtypes.IN.SRV import SRV
from hypothesis import given
from hypothesis import strategies as st

from deploy.names import one_record, question_in

ADDRESSES = st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=12, unique=True)
PORTS = st.integers(min_value=0, max_value=65535)
TARGETS = st.lists(st.tuples(PORTS, PORTS, PORTS), min_size=1, max_size=12, unique=True)


def rrset(owner: str, kind: str, *data: str, ttl: int = 300) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(owner, ttl, "IN", kind, data)


def found(
    name: str,
    kind: str,
    *answer: dns.rrset.RRset,
    authority: Sequence[dns.rrset.RRset] = (),
    additional: Sequence[dns.rrset.RRset] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
) -> dns.message.QueryMessage:
    """The reply to a question about `name`, when that was found."""
    query = dns.message.make_query(name, kind, use_edns=True)
    upstream = dns.message.make_response(query)
    assert isinstance(upstream, dns.message.QueryMessage)
    upstream.flags |= dns.flags.AD
    upstream.set_rcode(rcode)
    upstream.answer, upstream.authority, upstream.additional = list(answer), list(authority), list(additional)
    heard = dns.message.from_wire(upstream.to_wire())
    assert isinstance(heard, dns.message.QueryMessage)
    read = dns.message.from_wire(one_record(query, heard).to_wire())
    assert isinstance(read, dns.message.QueryMessage)
    assert query.is_response(read)
    assert read.flags & (dns.flags.RA | dns.flags.AD) == dns.flags.RA  # nothing was validated here
    assert read.additional == []
    return read


def data(reply: dns.message.QueryMessage) -> list[str]:
    return [str(record) for rrset in reply.answer for record in rrset]


@given(ADDRESSES)
def test_one_address_is_left_for_a_second(addresses: list[str]) -> None:
    more = rrset("gw.example.net.", "AAAA", "2001:db8::1", "2001:db8::2")
    reply = found("gw.example.net", "A", rrset("gw.example.net.", "A", *addresses), additional=[more])
    (left,) = data(reply)
    assert left in addresses
    assert reply.answer[0].ttl == 1


@given(TARGETS)
def test_one_target_of_the_first_priority_is_left(targets: list[tuple[int, int, int]]) -> None:
    records = [f"{priority} {weight} {port} gw{port}.example.net." for priority, weight, port in targets]
    addresses = [rrset(f"gw{port}.example.net.", "A", "192.0.2.1") for _, _, port in targets]
    service = "_sip._udp.example.net"
    reply = found(service, "SRV", rrset(f"{service}.", "SRV", *records), additional=addresses)
    (left,) = data(reply)
    assert left in records
    assert int(left.split()[0]) == min(priority for priority, _, _ in targets)


def test_equal_addresses_take_turns_and_targets_as_their_weights_say() -> None:
    random.seed(4)  # dnspython throws the dice
    answer = rrset("gw.example.net.", "A", "192.0.2.1", "192.0.2.2")
    turns = Counter(data(found("gw.example.net", "A", answer))[0] for _ in range(500))
    assert all(200 < turns[address] < 300 for address in ("192.0.2.1", "192.0.2.2"))
    answer = rrset("_sip._udp.a.net.", "SRV", "1 90 1 a.net.", "1 10 2 a.net.", "1 0 3 a.net.", "2 100 4 a.net.")
    ports: Counter[int] = Counter()
    for _ in range(500):
        (record,) = found("_sip._udp.a.net", "SRV", answer).answer[0]
        assert isinstance(record, SRV)
        ports[record.port] += 1
    assert 420 < ports[1] < 480
    assert 20 < ports[2] < 80
    assert ports[4] == 0


def test_of_naptr_records_the_first_of_each_service_is_left() -> None:
    records = [
        '20 10 "s" "SIP+D2U" "" later.example.net.',
        '10 20 "S" "sip+d2u" "" second.example.net.',
        '10 10 "s" "SIP+D2U" "" first.example.net.',
        '30 10 "s" "SIPS+D2T" "" secure.example.net.',
    ]
    reply = found("example.net", "NAPTR", rrset("example.net.", "NAPTR", *records))
    assert {text.split()[-1] for text in data(reply)} == {"first.example.net.", "secure.example.net."}


def test_the_chain_to_an_address_stays_whole() -> None:
    chain = [
        rrset("gw.example.net.", "CNAME", "pool.example.org."),
        rrset("pool.example.org.", "CNAME", "eu.example.org."),
        rrset("eu.example.org.", "A", "192.0.2.1", "192.0.2.2"),
    ]
    reply = found("gw.example.net", "A", *chain)
    assert data(reply)[:2] == ["pool.example.org.", "eu.example.org."]
    assert reply.resolve_chaining().answer is not None
    assert len(data(reply)) == 3


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_that_there_is_nothing_is_said_for_a_second(rcode: dns.rcode.Rcode) -> None:
    soa = rrset("example.net.", "SOA", "ns. admin. 1 7200 3600 1209600 3600", ttl=3600)
    servers = rrset("example.net.", "NS", "ns.example.net.")
    reply = found("gw.example.net", "A", authority=[soa, servers], rcode=rcode)
    assert (reply.rcode(), reply.answer) == (rcode, [])
    assert [(left.rdtype, left.ttl) for left in reply.authority] == [(dns.rdatatype.SOA, 1)]


def test_kinds_that_lead_to_no_address_stay_whole() -> None:
    reply = found("example.net", "TXT", rrset("example.net.", "TXT", '"a"', '"b"', '"c"'))
    assert sorted(data(reply)) == ['"a"', '"b"', '"c"']


@given(st.binary(max_size=600))
def test_what_is_no_question_is_not_read_as_one(wire: bytes) -> None:
    question_in(wire)


@given(st.data())
def test_a_question_that_was_tampered_with_does_no_harm(data: st.DataObject) -> None:
    wire = bytearray(dns.message.make_query("_sip._udp.example.net", "SRV", use_edns=True).to_wire())
    for _ in range(data.draw(st.integers(min_value=1, max_value=6))):
        wire[data.draw(st.integers(min_value=0, max_value=len(wire) - 1))] = data.draw(st.integers(0, 255))
    question_in(bytes(wire[: data.draw(st.integers(min_value=0, max_value=len(wire)))]))


def test_an_answer_is_not_answered() -> None:
    answer = dns.message.make_response(dns.message.make_query("example.net", "A"))
    assert question_in(answer.to_wire()) is None
