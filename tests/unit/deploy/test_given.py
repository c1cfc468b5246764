"""What is yours and does not answer is named before anything is started."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy import given
from deploy.given import require_given
from deploy.part import free_port
from deploy.stack import Stack
from models.errors import Invalid, TrunklineError, Unavailable
from models.settings import Settings


@pytest.mark.parametrize(
    ("field", "address", "kind"),
    [
        ("database_url", "postgresql://me:pw@127.0.0.1:{port}/trunkline", Unavailable),
        ("database_owner_url", "postgresql://me:pw@127.0.0.1:{port}/trunkline", Unavailable),
        ("redis_url", "redis://127.0.0.1:{port}/0", Unavailable),
        ("redis_url", "garbage", Invalid),
        ("asterisk_nodes", "a=ami://me:pw@127.0.0.1:{port}", Unavailable),
    ],
)
def test_a_dead_address_is_named_and_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, address: str, kind: type[TrunklineError]
) -> None:
    monkeypatch.setattr(given, "_WAIT", timedelta(milliseconds=200))
    yours: dict[str, Any] = {field: SecretStr(address.format(port=free_port()))}
    settings = Settings(home=tmp_path, **yours)
    with pytest.raises(kind, match=f"^TRUNKLINE_{field.upper()}: [^\n]*$") as raised:
        next(Stack(settings=settings).parts())
    if kind is Unavailable:
        assert re.search("refused|Connect call failed", str(raised.value)), "it says why"
    require_given(Settings(home=tmp_path))
