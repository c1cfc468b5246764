"""The fields of a trunk as people give them, with their defaults; the words are the reference service's.

What a field must be alone is said here; what fields must be together is checked in `scheduler.trunks`,
against the row that an update leaves behind.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    WithJsonSchema,
)
from pydantic.config import JsonDict

from models.agents import check_host, host_and_port
from scheduler.fields import by, plain_text, thing_name, without_defaults
from scheduler.phone_numbers import e164

_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")
_CODECS = re.compile(r"[a-z0-9]+(,[a-z0-9]+)*")
_SIP_USER = re.compile(r"[A-Za-z0-9._+-]{1,100}")
_DOMAIN = re.compile(r"[A-Za-z0-9.-]{1,253}")
_MOST = 100_000  # a limit above this is a slip of the finger, and has to fit an integer
_SLOWEST = 0.001  # calls a second: one in seventeen minutes; below it is a slip of the finger, too, and a time that Redis cannot hold

_EXAMPLE: JsonDict = {
    "name": "acme",
    "provider": "custom",
    "auth_type": "userpass",
    "auth_username": "U",
    "auth_password": "P",
    "gateways": [{"gateway_address": "sip.example.com", "port": 5060, "priority": 1}],
    "max_concurrent_calls": 20,
}


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ValueError("must be + and the first digits of the numbers allowed, such as +49 or +4930")
    return text


def _codecs(text: str) -> str:
    if not _CODECS.fullmatch(text):
        raise ValueError("must be codecs in small letters with commas between, such as ulaw,alaw")
    return text


def _sip_user(text: str) -> str:
    if not _SIP_USER.fullmatch(text):
        raise ValueError("must be 1 to 100 letters, digits, . _ + or -")
    return text


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError("must be a domain, such as sip.example.com")
    return text


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError("must be an IP address or network, such as 192.0.2.10 or 192.0.2.0/24") from error
    return text


def _bare(address: object) -> object:
    """The reference service has each in an object."""
    if isinstance(address, dict) and address.keys() == {"ip_address"}:
        return address["ip_address"]
    return address


def _some(given: tuple[object, ...]) -> tuple[object, ...]:
    if not given:
        raise ValueError("must be at least 1")
    return given


def _not_yet(wanted: bool) -> bool:
    if wanted:
        raise ValueError("inbound calls are not supported yet: must be false")
    return wanted


def _no_ice(wanted: bool) -> bool:
    if wanted:
        raise ValueError("ICE is not supported: must be false")
    return wanted


def _always_on(wanted: bool) -> bool:
    if not wanted:
        raise ValueError("must be true: a number that is not to be called from is removed, or its trunk switched off")
    return wanted


def _numbered(number: object) -> object:
    """One that is given alone, as those of `from_phone_numbers` are."""
    return {"phone_number": number} if isinstance(number, str) else number


def _credential(text: SecretStr) -> SecretStr:
    plain = text.get_secret_value()
    by(plain_text, field="")(plain)
    if not 1 <= len(plain) <= 255:
        raise ValueError("must be 1 to 255 characters long")
    return text


Name = Annotated[str, AfterValidator(by(thing_name, field="name"))]
SipUser = Annotated[str, AfterValidator(_sip_user)]
Codecs = Annotated[str, AfterValidator(_codecs)]
Secret = Annotated[SecretStr, AfterValidator(_credential)]
Network = Annotated[
    str,
    AfterValidator(_network),
    BeforeValidator(_bare),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"ip_address": {"type": "string"}},
                    "required": ["ip_address"],
                    "additionalProperties": False,
                },
            ],
            "examples": ["192.0.2.0/24"],
        }
    ),
]
Description = Annotated[str, AfterValidator(by(plain_text, field="description")), Field(max_length=1000)]
# not min_length, which says of one that is wrong that there is none as well
_SOME = (AfterValidator(_some), Field(json_schema_extra={"minItems": 1}))
AuthType = Literal["userpass", "ip-based"]


class Gateway(BaseModel):
    """One address of the provider. Without a port: by SRV, else the transport's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway_address: Annotated[str, AfterValidator(by(check_host, field="gateway_address"))]
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = 5060
    priority: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1  #: lower is tried first

    @classmethod
    def parse(cls, text: str, *, priority: int) -> Gateway:
        """From `HOST[:PORT]`. Raises `Invalid`."""
        host, port = host_and_port(text, field="gateway")
        return cls(gateway_address=host, port=port, priority=priority)

    def __str__(self) -> str:
        return self.gateway_address + (f":{self.port}" if self.port else "")


class NumberCreate(BaseModel):
    """A number that the provider has given us."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phone_number: Annotated[
        str,
        AfterValidator(by(e164, field="phone_number")),
        Field(description="In international form (E.164).", examples=["+12025550100"]),
    ]
    name: Annotated[Name | None, Field(description="For people to know it by.", examples=["Support"])] = None
    e164_check_enabled: Annotated[StrictBool, Field(description="It is checked either way.")] = True
    is_active: Annotated[StrictBool, AfterValidator(_always_on)] = True


class _TrunkFields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Name | None = None
    description: Description | None = None
    auth_username: Secret | None = None
    auth_password: Secret | None = None
    ip_identifiers: Annotated[tuple[Network, ...], Field(max_length=1000)] = ()
    allow: Codecs = "ulaw,alaw"
    disallow: Codecs = "all"
    transport: Literal["transport-udp", "transport-tcp", "transport-tls"] = "transport-udp"
    direct_media: StrictBool = False
    rtp_symmetric: StrictBool = True
    force_rport: StrictBool = True
    media_encryption: Literal["no", "sdes"] = "no"
    media_encryption_optimistic: StrictBool = False
    qualify_frequency: Annotated[int, Field(strict=True, ge=0, le=86_400)] = 60
    ice_support: Annotated[StrictBool, AfterValidator(_no_ice)] = False
    inbound_enabled: Annotated[StrictBool, AfterValidator(_not_yet)] = False
    outbound_leading_plus_enabled: StrictBool = True
    is_active: StrictBool = True
    max_concurrent_calls: Annotated[int, Field(strict=True, gt=0, le=_MOST)] = 10
    max_calls_per_second: Annotated[float, Field(strict=True, ge=_SLOWEST, le=_MOST, allow_inf_nan=False)] = 10.0
    #: None: the country codes of its own numbers
    allowed_prefixes: Annotated[tuple[Annotated[str, AfterValidator(_prefix)], ...], *_SOME] | None = None
    from_user: SipUser | None = None
    from_domain: Annotated[str, AfterValidator(_domain)] | None = None
    contact_user: SipUser | None = None
    send_pai: StrictBool = False


_Number = Annotated[
    NumberCreate,
    BeforeValidator(_numbered, json_schema_input_type=str | NumberCreate),
]


class TrunkCreate(_TrunkFields):
    """A trunk to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    auth_type: AuthType
    gateways: Annotated[tuple[Gateway, ...], Field(max_length=20), *_SOME]
    phone_numbers: Annotated[tuple[_Number, ...], Field(max_length=1000)] = ()


class TrunkUpdate(_TrunkFields):
    """What is to be changed. Only fields that were given count; the defaults here are never written."""

    model_config = ConfigDict(json_schema_extra=without_defaults)

    name: Name = ""
    auth_type: AuthType = "ip-based"
    gateways: Annotated[tuple[Gateway, ...], Field(max_length=20), *_SOME] = ()
