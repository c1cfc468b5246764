"""Gateways that keep failing, and the trunks that have paused by it: why, and when one call tries them again.

Decided where ends are written (`models.gateways`), and told here, for the command line and the HTTP API alike. A
trunk is paused while none of its gateways is well: each rests, or gets one call at a time.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

from sqlalchemy import Connection

from models.findings import in_utc
from models.statements import statement


@dataclass(frozen=True, kw_only=True)
class GatewayHealth:
    """What bad is known of a gateway of an active trunk."""

    trunk_id: UUID
    trunk: str
    address: str
    failures: int  #: in a row
    last_failure: str | None
    rests: int  #: in a row; 0: it is well
    rests_until: datetime | None
    rests_now: bool

    @property
    def why(self) -> str:
        return f"{self.failures} failures in a row, the last one: {self.last_failure}"

    @property
    def now(self) -> str:
        """What it gets of calls; empty if it is well."""
        if self.rests_now and self.rests_until:
            return f"rests until {in_utc(self.rests_until)}"
        return "gets one call at a time" if self.rests else ""

    @property
    def trouble(self) -> str:
        """The same, with the reason."""
        return f"{self.now} after {self.why}" if self.rests else ""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """An active trunk none of whose gateways is well; it ends by itself, with the first call that gets through."""

    trunk_id: UUID
    trunk: str
    gateways: Sequence[GatewayHealth]

    @property
    def until(self) -> datetime | None:
        """When one call tries it again; None while that may be any moment."""
        return min(g.rests_until for g in self.gateways if g.rests_until) if self._rests else None

    @property
    def sentence(self) -> str:
        if len(self.gateways) == 1:
            reason = f"its gateway {self.gateways[0].address} keeps failing ({self.gateways[0].why})"
        else:
            each = "; ".join(f"{gateway.address}: {gateway.why}" for gateway in self.gateways)
            reason = f"all of its {len(self.gateways)} gateways keep failing ({each})"
        again = f"tries it again at {in_utc(self.until)}" if self.until else "at a time tries it now"
        return f"Trunk {self.trunk} is paused, {reason}. By itself one call {again}; it goes on when one gets through."

    @property
    def advice(self) -> str:
        return f"`trunkline trunk check {shlex.quote(self.trunk)}` looks at it"

    @property
    def _rests(self) -> bool:
        return all(gateway.rests_now for gateway in self.gateways)


def of_gateways(connection: Connection, trunk_ids: Iterable[UUID] | None = None) -> list[GatewayHealth]:
    """Of the active ones of these trunks, or of all, each trunk's in the order they are tried."""
    ids = None if trunk_ids is None else list(trunk_ids)
    rows = connection.exec_driver_sql(statement("health_of_gateways"), {"trunks": ids})
    return [GatewayHealth(**row) for row in rows.mappings()]


def pauses(gateways: Iterable[GatewayHealth]) -> list[Pause]:
    """The trunks that have paused; `gateways` as `of_gateways` gives them."""
    trunks = [list(theirs) for _, theirs in groupby(gateways, key=lambda gateway: gateway.trunk_id)]
    return [
        Pause(trunk_id=theirs[0].trunk_id, trunk=theirs[0].trunk, gateways=theirs)
        for theirs in trunks
        if all(gateway.rests for gateway in theirs)
    ]
