"""`trunkline config`: where everything is, for other programs and for psql."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import SecretStr

from models.settings import read_settings
from scheduler.cli import terminal


def config(json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show the addresses in use, with their passwords: keep them to yourself."""
    settings = read_settings()

    def plain(secret: SecretStr | None) -> str | None:
        return secret.get_secret_value() if secret else None

    addresses = {
        "home": str(settings.home),
        "database_url": plain(settings.database_url),
        "redis_url": plain(settings.redis_url),
        "api_url": settings.api_url,
        "flower_url": settings.flower_url,
        "metrics_url": f"{settings.api_url}/metrics" if settings.api_url else None,
    }
    sip_address = f"{settings.sip_address}:{settings.sip_port or 5060}" if settings.sip_address else None
    addresses |= {"sip_address": sip_address, "rtp_ports": settings.rtp_ports}
    nodes = [
        {"name": node.name, "host": node.host, "port": node.port, "max_calls": node.max_calls}
        for node in settings.nodes
    ]
    if json:
        terminal.one_json({**addresses, "asterisk_nodes": nodes})
        return
    terminal.fields({
        **{name: address or "not running" for name, address in addresses.items()},
        "asterisk_nodes": [f"{node['name']} at {node['host']}:{node['port']}" for node in nodes] or "not running",
    })  # fmt: skip
