"""`/sip-trunks/trunks`: SIP provider accounts with their numbers. Every change works at once, with no reload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from models.errors import Invalid
from models.findings import Verdict
from scheduler import numbers, trunk_check, trunk_health, trunks
from scheduler.api.limits import CHECKS
from scheduler.api.parts import Using
from scheduler.api.problems import answers, as_sent
from scheduler.numbers import RegisteredNumber
from scheduler.trunk_fields import NumberCreate, TrunkCreate, TrunkUpdate
from scheduler.trunk_health import Pause
from scheduler.trunks import Trunk

router = APIRouter(prefix="/sip-trunks/trunks", tags=["trunks"])


class NumberShown(BaseModel):
    """A number that may be called from."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    phone_number: str = Field(examples=["+12025550100"])
    name: str | None = Field(examples=["Support"])
    byot_trunk_id: UUID = Field(description="The trunk that it is on.")
    telephony_provider: Literal["sip-trunk"] = "sip-trunk"
    created_at: datetime


class AddressShown(BaseModel):
    """An address or a network of the provider's."""

    model_config = ConfigDict(extra="forbid")

    ip_address: str = Field(examples=["192.0.2.0/24"])


class GatewayShown(BaseModel):
    """A gateway, and what keeps failing at it."""

    model_config = ConfigDict(extra="forbid")

    gateway_address: str = Field(examples=["sip.example.com"])
    port: int | None
    priority: int
    trouble: str | None = Field(description="Null where nothing is known against it.")


class TrunkShown(BaseModel):
    """A trunk, without its credentials."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    name: str
    provider: str | None
    description: str | None
    auth_type: Literal["userpass", "ip-based"]
    gateways: list[GatewayShown] = Field(description="In the order they are tried.")
    phone_numbers: list[NumberShown]
    ip_identifiers: list[AddressShown]
    allow: str
    disallow: str
    transport: str
    direct_media: bool
    rtp_symmetric: bool
    force_rport: bool
    media_encryption: str
    media_encryption_optimistic: bool
    qualify_frequency: int
    ice_support: Literal[False] = False
    inbound_enabled: bool
    outbound_leading_plus_enabled: bool
    is_active: bool
    pause: str | None = Field(description="Why it has paused by itself, and when it is tried again.")
    max_concurrent_calls: int
    max_calls_per_second: float
    allowed_prefixes: list[str] | None = Field(description="Null: the country codes of its own numbers.")
    from_user: str | None
    from_domain: str | None
    contact_user: str | None
    send_pai: bool
    created_at: datetime
    updated_at: datetime


class TrunkDeleted(BaseModel):
    """It is gone, and its numbers with it."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(examples=["The trunk is deleted, and 3 phone numbers with it."])
    phone_numbers_removed: int


class NumberDeleted(BaseModel):
    """It is gone."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(examples=["The phone number is no longer registered."])


class CheckAsked(BaseModel):
    """A test call, which shows what nothing else can."""

    model_config = ConfigDict(extra="forbid")

    phone_number: str | None = Field(default=None, description="Whom to call.", examples=["+12125550123"])
    from_number: str | None = Field(default=None, description="One of the trunk's numbers; null: its first.")


class PointShown(BaseModel):
    """One thing that was checked."""

    model_config = ConfigDict(extra="forbid")

    about: str = Field(examples=["credentials"])
    gateway: str | None = Field(description="Of what is about one.")
    verdict: Verdict
    sentence: str = Field(examples=["The carrier lets us call: proven by the call of 2026-03-01 09:30:00 UTC."])


class TrunkChecked(BaseModel):
    """What is known of a trunk."""

    model_config = ConfigDict(extra="forbid")

    trunk: str
    is_wrong: bool = Field(description="Whether any point is wrong.")
    points: list[PointShown]


@router.post("", status_code=201, responses=answers(409, 422))
def create(new: TrunkCreate, using: Using) -> TrunkShown:
    """Makes a trunk with its numbers; more of them are added at `/sip-trunks/trunks/{trunk_id}/numbers`."""
    with using.transaction() as connection:
        [made] = _shown(connection, [trunks.create(connection, new)])
    using.wake()
    return made


@router.get("", responses=answers(422))
def list_all(using: Using, is_active: bool | None = None) -> list[TrunkShown]:
    """Lists the trunks by name, all or those that are on, or off."""
    with using.transaction() as connection:
        return _shown(connection, trunks.list_all(connection, is_active=is_active))


@router.get("/{trunk_id}", responses=answers(404, 422))
def show(trunk_id: UUID, using: Using) -> TrunkShown:
    """Shows a trunk, and which of its gateways keep failing."""
    with using.transaction() as connection:
        [shown] = _shown(connection, [trunks.get(connection, trunk_id)])
    return shown


@router.patch("/{trunk_id}", responses=answers(404, 409, 422))
def update(
    trunk_id: UUID,
    change: Annotated[TrunkUpdate, Body(openapi_examples={"off": {"value": {"is_active": False}}})],
    using: Using,
) -> TrunkShown:
    """Changes what is given and nothing else; a list that is given replaces the whole list."""
    with using.transaction() as connection:
        [changed] = _shown(connection, [trunks.update(connection, trunk_id, change)])
    using.wake()
    return changed


@router.delete("/{trunk_id}", responses=answers(404, 409, 422))
def delete(trunk_id: UUID, using: Using) -> TrunkDeleted:
    """Deletes a trunk that has no open calls, with its numbers and credentials."""
    with using.transaction() as connection:
        had = trunks.delete(connection, trunk_id)
    using.wake()
    message = f"The trunk is deleted, and {had} phone {'number' if had == 1 else 'numbers'} with it."
    return TrunkDeleted(message=message, phone_numbers_removed=had)


@router.post("/{trunk_id}/numbers", status_code=201, responses=answers(404, 409, 422))
def add_number(trunk_id: UUID, new: NumberCreate, using: Using) -> NumberShown:
    """Registers a number on a trunk; it can be called from at once."""
    with using.transaction() as connection:
        added = _number(numbers.add(connection, new.phone_number, trunk_id, name=new.name))
    using.wake()
    return added


@router.get("/{trunk_id}/numbers", responses=answers(404, 422))
def list_numbers(trunk_id: UUID, using: Using) -> list[NumberShown]:
    """Lists the numbers of a trunk."""
    with using.transaction() as connection:
        trunks.get(connection, trunk_id)
        return [_number(number) for number in numbers.list_all(connection, [trunk_id])]


@router.get("/{trunk_id}/numbers/{number_id}", responses=answers(404, 422))
def show_number(trunk_id: UUID, number_id: UUID, using: Using) -> NumberShown:
    """Shows a number of a trunk."""
    with using.transaction() as connection:
        return _number(numbers.get(connection, trunk_id, number_id))


@router.delete("/{trunk_id}/numbers/{number_id}", responses=answers(404, 409, 422))
def remove_number(trunk_id: UUID, number_id: UUID, using: Using) -> NumberDeleted:
    """Takes a number off its trunk, which nobody is still to be called from."""
    with using.transaction() as connection:
        numbers.remove(connection, numbers.get(connection, trunk_id, number_id).phone_number)
    using.wake()
    return NumberDeleted(message="The phone number is no longer registered.")


@router.post("/{trunk_id}/check", responses=answers(404, 409, 422))
def check(trunk_id: UUID, using: Using, asked: CheckAsked | None = None) -> TrunkChecked:
    """Checks a trunk: its gateways now, and what its calls have shown; with a `phone_number`, by a call to it first."""
    asked = asked or CheckAsked()
    with CHECKS.one():
        if asked.phone_number is None:
            if asked.from_number is not None:
                raise Invalid("from_number", "goes with phone_number")
            done = trunk_check.check(using.engine, using.settings, trunk_id)
        else:
            with using.bell() as slots, as_sent({"from": "from_number"}):
                done = trunk_check.check_by_call(
                    using.engine,
                    using.settings,
                    slots,
                    trunk_id,
                    to=asked.phone_number,
                    from_number=asked.from_number,
                )
    points = [PointShown(about=p.about, gateway=p.gateway, verdict=p.verdict, sentence=p.sentence) for p in done.points]
    return TrunkChecked(trunk=done.trunk, is_wrong=done.is_wrong, points=points)


def _shown(connection: Connection, found: Sequence[Trunk]) -> list[TrunkShown]:
    ids = [trunk.id for trunk in found]
    health = trunk_health.of_gateways(connection, ids)
    pauses = {pause.trunk_id: pause for pause in trunk_health.pauses(health)}
    theirs: dict[UUID, list[RegisteredNumber]] = {trunk_id: [] for trunk_id in ids}
    for number in numbers.list_all(connection, ids):
        theirs[number.trunk_id].append(number)
    troubles = {(gateway.trunk_id, gateway.address): gateway.trouble for gateway in health if gateway.rests}
    return [_one_shown(trunk, theirs[trunk.id], troubles, pauses.get(trunk.id)) for trunk in found]


def _one_shown(
    trunk: Trunk,
    registered: Iterable[RegisteredNumber],
    troubles: Mapping[tuple[UUID, str], str],
    pause: Pause | None,
) -> TrunkShown:
    fields = vars(trunk) | {
        "gateways": [
            GatewayShown(**gateway.model_dump(), trouble=troubles.get((trunk.id, str(gateway))))
            for gateway in trunk.gateways
        ],
        "phone_numbers": [_number(number) for number in registered],
        "ip_identifiers": [AddressShown(ip_address=address) for address in trunk.ip_identifiers],
        "pause": f"{pause.sentence} {pause.advice}." if pause else None,
    }
    return TrunkShown(**fields)


def _number(number: RegisteredNumber) -> NumberShown:
    return NumberShown(
        id=number.id,
        phone_number=number.phone_number,
        name=number.name,
        byot_trunk_id=number.trunk_id,
        created_at=number.created_at,
    )
