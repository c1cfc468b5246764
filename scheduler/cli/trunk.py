"""`trunkline trunk`: SIP provider accounts. Every change works at once, with no reload."""

from __future__ import annotations

import getpass
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from models.settings import read_settings
from scheduler import trunk_health, trunks
from scheduler.cli import terminal
from scheduler.cli.group import new_group
from scheduler.cli.session import ledger, transaction
from scheduler.fields import validated
from scheduler.presence import bell, wake
from scheduler.trunk_health import GatewayHealth
from scheduler.trunks import Gateway, Trunk, TrunkCreate, TrunkUpdate

group = new_group("SIP provider accounts. Every change works at once.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Gateways = typer.Option("--gateway", metavar="HOST[:PORT]", help="Its address; several are tried in this order.")
AuthType = typer.Option(metavar="userpass|ip-based", help="By username and password, or by our address.")
Provider = Annotated[str | None, typer.Option(metavar="TEXT", help="Whose trunk it is, for you to remember.")]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for, for you to remember.")]
Username = Annotated[str | None, typer.Option("--username", metavar="U", help="For userpass.")]
Password = Annotated[str | None, typer.Option("--password", metavar="P", help="For userpass; - asks for it.")]
MaxCalls = Annotated[int | None, typer.Option("--max-concurrent-calls", metavar="N", help="Slots. New: 10.")]
MaxRate = Annotated[float | None, typer.Option("--max-calls-per-second", metavar="R", help="New: 10.")]
Plus = Annotated[bool | None, typer.Option("--leading-plus/--no-leading-plus", help="+ in dialled numbers. New: yes.")]
Allow = Annotated[str | None, typer.Option(metavar="CODECS", help="New: ulaw,alaw.")]
Disallow = Annotated[str | None, typer.Option(metavar="CODECS", help="New: all.")]
Prefixes = Annotated[
    list[str] | None,
    typer.Option("--allowed-prefix", metavar="+49", help="What may be called. Unset: the countries of its numbers."),
]
Transport = Annotated[str | None, typer.Option(metavar="transport-udp|-tcp|-tls", help="New: transport-udp.")]
Encryption = Annotated[str | None, typer.Option("--media-encryption", metavar="no|sdes", help="sdes needs TLS.")]
Optimistic = Annotated[bool | None, typer.Option("--media-encryption-optimistic/--no-media-encryption-optimistic")]
DirectMedia = Annotated[bool | None, typer.Option("--direct-media/--no-direct-media")]
Symmetric = Annotated[bool | None, typer.Option("--rtp-symmetric/--no-rtp-symmetric")]
Rport = Annotated[bool | None, typer.Option("--force-rport/--no-force-rport")]
Qualify = Annotated[int | None, typer.Option("--qualify-frequency", metavar="SECONDS", help="New: 60; 0: never.")]
Inbound = Annotated[bool | None, typer.Option("--inbound-enabled/--no-inbound-enabled", help="Not supported yet.")]
Identifiers = Annotated[
    list[str] | None, typer.Option("--ip-identifier", metavar="IP", help="The provider's addresses.")
]
FromUser = Annotated[str | None, typer.Option("--from-user", metavar="USER", help="In From instead of the number.")]
FromDomain = Annotated[
    str | None, typer.Option("--from-domain", metavar="DOMAIN", help="In From instead of our address.")
]
ContactUser = Annotated[str | None, typer.Option("--contact-user", metavar="USER")]
SendPai = Annotated[bool | None, typer.Option("--send-pai/--no-send-pai", help="Send P-Asserted-Identity.")]


@group.command()
def create(
    name: Name,
    gateway: Annotated[list[str], Gateways],
    auth_type: Annotated[str, AuthType],
    auth_username: Username = None,
    auth_password: Password = None,
    max_concurrent_calls: MaxCalls = None,
    max_calls_per_second: MaxRate = None,
    outbound_leading_plus_enabled: Plus = None,
    allow: Allow = None,
    disallow: Disallow = None,
    allowed_prefixes: Prefixes = None,
    provider: Provider = None,
    description: Description = None,
    transport: Transport = None,
    media_encryption: Encryption = None,
    media_encryption_optimistic: Optimistic = None,
    direct_media: DirectMedia = None,
    rtp_symmetric: Symmetric = None,
    force_rport: Rport = None,
    qualify_frequency: Qualify = None,
    inbound_enabled: Inbound = None,
    ip_identifiers: Identifiers = None,
    from_user: FromUser = None,
    from_domain: FromDomain = None,
    contact_user: ContactUser = None,
    send_pai: SendPai = None,
) -> None:
    """Make a trunk; numbers to call from are added with `trunkline number add`."""
    new = validated(TrunkCreate, _given(locals()))
    settings = read_settings()
    with transaction(settings) as connection:
        trunks.create(connection, new)
    wake(settings)
    terminal.say(f"trunk {name} is made; next: trunkline number add +E164 --trunk {shlex.quote(name)}")


@group.command("list")
def list_all() -> None:
    """List the trunks, and say why any has paused by itself."""
    with transaction(read_settings()) as connection:
        rows = trunks.list_all(connection)
        pauses = {pause.trunk_id: pause for pause in trunk_health.pauses(trunk_health.of_gateways(connection))}
    terminal.table(
        ("NAME", "ON", "GATEWAYS", "NUMBERS", "CALLS", "CALLS/S", "PROVIDER"),
        [
            (
                row.name,
                "paused" if row.id in pauses else row.is_active,
                list(map(str, row.gateways)),
                len(row.phone_numbers),
                row.max_concurrent_calls,
                row.max_calls_per_second,
                row.provider,
            )
            for row in rows
        ],
    )
    for pause in pauses.values():
        terminal.note(f"{pause.sentence} {pause.advice}.")


@group.command()
def show(name: Name) -> None:
    """Show a trunk, and which of its gateways keep failing; its credentials are never shown."""
    with transaction(read_settings()) as connection:
        trunk = trunks.get(connection, name)
        health = trunk_health.of_gateways(connection, [trunk.id])
    terminal.fields(_lines(trunk, health))


@group.command()
def update(
    name: Name,
    rename: Annotated[str | None, typer.Option("--rename", metavar="NEW", help="Its new name.")] = None,
    gateway: Annotated[list[str] | None, Gateways] = None,
    auth_type: Annotated[str | None, AuthType] = None,
    auth_username: Username = None,
    auth_password: Password = None,
    max_concurrent_calls: MaxCalls = None,
    max_calls_per_second: MaxRate = None,
    outbound_leading_plus_enabled: Plus = None,
    allow: Allow = None,
    disallow: Disallow = None,
    allowed_prefixes: Prefixes = None,
    provider: Provider = None,
    description: Description = None,
    transport: Transport = None,
    media_encryption: Encryption = None,
    media_encryption_optimistic: Optimistic = None,
    direct_media: DirectMedia = None,
    rtp_symmetric: Symmetric = None,
    force_rport: Rport = None,
    qualify_frequency: Qualify = None,
    inbound_enabled: Inbound = None,
    ip_identifiers: Identifiers = None,
    from_user: FromUser = None,
    from_domain: FromDomain = None,
    contact_user: ContactUser = None,
    send_pai: SendPai = None,
) -> None:
    """Change what is given and nothing else; an empty text ("") unsets a field that may be unset."""
    given = _given({**locals(), "name": rename})
    if not given:
        raise typer.BadParameter("nothing to change: give at least one option")
    change = validated(TrunkUpdate, given)
    settings = read_settings()
    with transaction(settings) as connection:
        trunk = trunks.update(connection, name, change)
    wake(settings)
    terminal.say(f"trunk {trunk.name} is changed")


@group.command()
def enable(name: Name) -> None:
    """Switch a trunk on."""
    _switch(name, active=True)


@group.command()
def disable(name: Name) -> None:
    """Switch a trunk off: not one more call is sent through it; those that are up go on."""
    _switch(name, active=False)


@group.command()
def check(
    name: Name,
    call: Annotated[
        str | None,
        typer.Option("--call", metavar="+E164", help="Call this number through it, to prove what only a call can."),
    ] = None,
    from_number: Annotated[
        str | None, typer.Option("--from", metavar="+E164", help="One of its numbers, for --call. Unset: the first.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check a trunk: its gateways now, and what its calls have shown. Status 1 if something is wrong."""
    from scheduler import trunk_check  # DNS, TLS and AMI, which no other command of the group needs

    if from_number is not None and call is None:
        raise typer.BadParameter("goes with --call", param_hint="--from")
    settings = read_settings()
    with ledger(settings) as engine:
        if call is None:
            done = trunk_check.check(engine, settings, name)
        else:
            with bell(settings) as slots:
                done = trunk_check.check_by_call(
                    engine,
                    settings,
                    slots,
                    name,
                    to=call,
                    from_number=from_number,
                    on_change=lambda state: terminal.note(f"test call: {state.status.value}"),
                )
    if json:
        points = [asdict(point) for point in done.points]
        terminal.one_json({"trunk": done.trunk, "wrong": done.is_wrong, "points": points})
    else:
        for point in done.points:
            where = f"{point.about} of {point.gateway}" if point.gateway else point.about
            terminal.say(f"{point.verdict.value:<8} {where}: {point.sentence}")
    if done.is_wrong:
        raise typer.Exit(1)


@group.command()
def delete(name: Name) -> None:
    """Delete a trunk that has no open calls, with its numbers and credentials."""
    with transaction(read_settings()) as connection:
        numbers = trunks.delete(connection, name)
    terminal.say(f"trunk {name} is deleted, and with it {numbers} {'number' if numbers == 1 else 'numbers'}")


def _switch(name: str, *, active: bool) -> None:
    settings = read_settings()
    with transaction(settings) as connection:
        trunks.set_active(connection, name, active)
    wake(settings)
    terminal.say(f"trunk {name} is {'on' if active else 'off'}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the options that were given. Raises `Invalid` for a gateway that is none."""
    fields = {
        field: option for field, option in options.items() if option is not None and field not in {"gateway", "rename"}
    }
    if options["gateway"]:
        fields["gateways"] = [
            Gateway.parse(text, priority=priority) for priority, text in enumerate(options["gateway"], start=1)
        ]
    for field in ("provider", "description", "from_user", "from_domain", "contact_user"):
        if fields.get(field) == "":
            fields[field] = None
    if fields.get("allowed_prefixes") == [""]:
        fields["allowed_prefixes"] = None
    if fields.get("ip_identifiers") == [""]:
        fields["ip_identifiers"] = []
    if fields.get("auth_password") == "-":
        asks = sys.stdin.isatty()
        fields["auth_password"] = getpass.getpass("Password: ") if asks else sys.stdin.readline().rstrip("\n")
    return fields


def _lines(trunk: Trunk, health: Sequence[GatewayHealth]) -> dict[str, object]:
    lines = asdict(trunk)
    failing = {gateway.address: f" ({gateway.trouble})" for gateway in health if gateway.rests}
    lines["gateways"] = [address + failing.get(address, "") for address in map(str, trunk.gateways)]
    for pause in trunk_health.pauses(health):
        lines["paused"] = f"{pause.sentence} {pause.advice}."
    lines["phone_numbers"] = list(trunk.phone_numbers) or (
        f"none: add one with `trunkline number add +E164 --trunk {shlex.quote(trunk.name)}`"
    )
    if trunk.allowed_prefixes is None:
        lines["allowed_prefixes"] = "the country codes of its numbers"
    return lines
