"""The environment, read once and passed in.

A value comes from, in this order: an argument, `TRUNKLINE_*` in the environment, and
`TRUNKLINE_HOME/runtime.json`, which `trunkline up` writes (readable by its owner only) so that a
command typed in another shell finds the embedded parts.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from models.addresses import RtpPorts, SipBind, check_external_address, local_networks
from models.errors import Invalid, problem_of

DEFAULT_NODE_CALLS = 200
NAMES_PORT = 5053  #: on loopback, where `trunkline run names` is asked
LONGEST_CALL_LIMIT = 86_400  #: seconds
# a part of slots' keys, which are written down with spaces between them, and of what a session calls itself, which Postgres
# cuts at 63
_NODE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")


@dataclass(frozen=True, kw_only=True)
class Login:
    """One AMI user."""

    username: str
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One Asterisk server, as `NAME=ami://USER:SECRET@HOST:PORT`.

    Two things may follow: `?sender=USER:SECRET`, a second AMI user for Originate and Hangup, so that
    each role has the narrowest classes, and `max_calls=N`, half the node's RTP port range.
    """

    name: str
    host: str
    port: int
    listener: Login
    sender: Login
    max_calls: int = DEFAULT_NODE_CALLS

    @classmethod
    def parse(cls, text: str) -> Node:
        name, _, url = text.strip().partition("=")
        try:
            parts = urlsplit(url)
            query = parse_qs(parts.query, strict_parsing=bool(parts.query))
            if (
                not _NODE_NAME.fullmatch(name)
                or parts.scheme != "ami"
                or not parts.hostname
                or not parts.username
                or not parts.password
            ):
                raise ValueError
            listener = Login(username=unquote(parts.username), secret=unquote(parts.password))
            user, _, secret = query.get("sender", [""])[0].partition(":")
            return cls(
                name=name,
                host=parts.hostname,
                port=parts.port or 5038,
                listener=listener,
                sender=Login(username=user, secret=secret) if user else listener,
                max_calls=int(query.get("max_calls", [str(DEFAULT_NODE_CALLS)])[0]),
            )
        except ValueError:  # what it says may quote a part of a secret
            raise Invalid(
                "TRUNKLINE_ASTERISK_NODES",
                "must be NAME=ami://USER:SECRET@HOST:PORT, several with commas between;"
                " NAME of letters, digits, _ . and -, at most 40",
            ) from None

    def __str__(self) -> str:
        """What `parse` reads; it holds the secrets."""
        users = [quote(part, safe="") for part in (self.listener.username, self.listener.secret)]
        sender = quote(f"{self.sender.username}:{self.sender.secret}", safe="")
        return f"{self.name}=ami://{':'.join(users)}@{self.host}:{self.port}?sender={sender}&max_calls={self.max_calls}"


class _RuntimeFile(PydanticBaseSettingsSource):
    """What the running `trunkline up` wrote down for commands in other shells."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # pragma: no cover
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        home = Path(self.current_state.get("home") or Settings.model_fields["home"].default)
        try:
            found = json.loads((home / "runtime.json").read_text())
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return {}
        return found if isinstance(found, dict) else {}


class Settings(BaseSettings):
    """Everything that can be set from outside; immutable once read."""

    model_config = SettingsConfigDict(env_prefix="TRUNKLINE_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".trunkline"), validate_default=True)
    database_url: SecretStr | None = Field(default=None, description="the services' login; embedded when unset")
    database_owner_url: SecretStr | None = Field(
        default=None, description="the tables' owner, for migrations; database_url when unset"
    )
    redis_url: SecretStr | None = Field(default=None, description="slots and broker; embedded when unset")
    asterisk_nodes: SecretStr | None = Field(
        default=None, description="NAME=ami://USER:SECRET@HOST:PORT,...; embedded when unset"
    )
    api_url: str | None = None
    flower_url: str | None = None

    sip_bind: str = Field(
        default="127.0.0.1:5060", description="HOST[:PORT] of the embedded Asterisk's SIP; loopback reaches no carrier"
    )
    external_address: str | None = Field(default=None, description="our public address, if we are behind NAT")
    local_networks: str = Field(
        default="", description="networks that see our own address, comma-separated; those of RFC 1918 when empty"
    )
    rtp_ports: str | None = Field(
        default=None,
        description="FROM-TO, two a call: the embedded Asterisk's ports for audio; a free range when unset",
    )
    sip_address: str | None = Field(default=None, description="ours, as carriers are told it; known while we are up")
    sip_port: int | None = Field(default=None, description="the port of the same")
    ca_file: Path | None = Field(
        default=None,
        description="the authorities trusted over TLS, instead of the machine's (embedded Asterisk), beside them (webhooks)",
    )
    nameserver: str | None = Field(
        default=None, description="ADDRESS[@PORT] that resolves gateways' names, instead of the machine's servers"
    )
    dialplan_file: Path | None = Field(
        default=None, description="a dialplan of yours, included by the embedded Asterisk"
    )
    dialplan_contexts: str = Field(default="", description="the contexts in it that an agent may name, comma-separated")

    ring_timeout_seconds: int = Field(default=30, ge=1, le=600)
    longest_call_seconds: int = Field(default=3600, ge=1, le=LONGEST_CALL_LIMIT)
    lost_call_hold_seconds: int = Field(default=120, ge=1)
    sip_timer_t1_ms: int = Field(default=100, ge=100, description="below 100 Asterisk resets it")
    api_bind: str = Field(default="127.0.0.1:8080", description="HOST:PORT of the HTTP API")
    api_proxies: str = Field(
        default="",
        description="addresses or networks of reverse proxies in front of the API, comma-separated, whose X-Forwarded-For is believed",
    )
    api_requests_per_minute: int = Field(default=6000, ge=1, description="of one key, to one API process")
    api_strangers_requests_per_minute: int = Field(
        default=60, ge=1, description="of one client address without a key that is known, to one API process"
    )
    api_requests_at_once: int = Field(default=200, ge=1, description="to one API process; more are sent away")
    api_longest_upload_megabytes: int = Field(default=512, ge=1, description="of a CSV sent to POST /batches")
    webhooks_to_private_addresses: bool = Field(
        default=False, description="webhooks may go to this machine and its networks, not only to the Internet"
    )
    workers: int = Field(default=1, ge=1, le=64)
    worker_threads: int = Field(default=8, ge=1, le=256)
    log_level: str = "INFO"

    @field_validator("nameserver")
    @classmethod
    def _address_and_port(cls, nameserver: str | None) -> str | None:
        if nameserver is not None:
            address, at, port = nameserver.partition("@")
            try:
                ipaddress.ip_address(address)
                if at and not (port.isdecimal() and 1 <= int(port) <= 65535):
                    raise ValueError
            except ValueError as error:
                raise ValueError("must be ADDRESS or ADDRESS@PORT, such as 192.0.2.53@53") from error
        return nameserver

    @field_validator("api_bind")
    @classmethod
    def _host_and_port(cls, bind: str) -> str:
        host, _, port = bind.partition(":")
        try:
            ipaddress.IPv4Address(host)
            if not (port.isdecimal() and 1 <= int(port) <= 65535):
                raise ValueError
        except ValueError as error:
            raise ValueError("must be ADDRESS:PORT, such as 127.0.0.1:8080") from error
        return bind

    @field_validator("api_proxies")
    @classmethod
    def _proxies(cls, text: str) -> str:
        for part in filter(None, map(str.strip, text.split(","))):
            try:
                ipaddress.ip_network(part)
            except ValueError as error:
                raise ValueError("must be addresses or networks with commas between, such as 127.0.0.1") from error
        return text

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.absolute()

    @field_validator("sip_bind", mode="after")
    @classmethod
    def _a_bind(cls, text: str) -> str:
        SipBind.parse(text)
        return text

    @field_validator("external_address", mode="after")
    @classmethod
    def _an_address(cls, text: str | None) -> str | None:
        return check_external_address(text) if text else None

    @field_validator("local_networks", mode="after")
    @classmethod
    def _networks(cls, text: str) -> str:
        local_networks(text)
        return text

    @field_validator("rtp_ports", mode="after")
    @classmethod
    def _a_range(cls, text: str | None) -> str | None:
        return str(RtpPorts.parse(text)) if text else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _RuntimeFile(settings_cls)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The Asterisk servers we may dial on; empty when none is configured or running."""
        text = self.asterisk_nodes.get_secret_value() if self.asterisk_nodes else ""
        return tuple(Node.parse(part) for part in text.split(",") if part.strip())

    @property
    def ring_timeout(self) -> timedelta:
        return timedelta(seconds=self.ring_timeout_seconds)

    @property
    def longest_call(self) -> timedelta:
        return timedelta(seconds=self.longest_call_seconds)

    @property
    def lost_call_hold(self) -> timedelta:
        return timedelta(seconds=self.lost_call_hold_seconds)

    @property
    def timer_b(self) -> timedelta:
        """Of Asterisk's INVITE transactions: 64 x T1, below which Asterisk resets it to 32 s (RFC 3261, 17.1.1.2)."""
        return 64 * timedelta(milliseconds=self.sip_timer_t1_ms)

    @property
    def allowed_contexts(self) -> frozenset[str]:
        return frozenset(name.strip() for name in self.dialplan_contexts.split(",") if name.strip())


class GivenSettings(Settings):
    """What the user set, without what an earlier `trunkline up` wrote down and, if it was killed, left behind."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


def read_settings(kind: type[Settings] = Settings, **overrides: Any) -> Settings:
    """The settings of this process.

    Raises `Invalid`, naming the environment variable, for a value that cannot be used.
    """
    try:
        return kind(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = "TRUNKLINE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise Invalid(name, f"{problem_of(first)} (got {os.environ.get(name, first.get('input'))!r})") from error
