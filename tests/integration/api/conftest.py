"""Who asks, of whom: in most tests a key of scope `call`, at an API where nothing dials."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.conftest import SmallApi
from tests.integration.ledger_rows import Rows


@pytest.fixture
def asks(small_api: SmallApi) -> Iterator[httpx.Client]:
    with small_api.client("call") as made:
        yield made


@pytest.fixture
def rows(small_api: SmallApi) -> Rows:
    return Rows(engine=small_api.database.engine)
