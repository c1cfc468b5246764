"""Who is let in."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from scheduler import keys
from tests.integration.conftest import SmallApi
from tests.integration.http import client, make_key


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer wrong", b"Basic dXNlcjpwYXNz", b"bearer \xff"])
def test_nobody_comes_in_without_a_key_that_is_known(small_api: SmallApi, header: bytes | None) -> None:
    headers = {} if header is None else {b"Authorization": header}
    answer = httpx.get(f"{small_api.url}/agents/{uuid4()}", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["title"] == "Unauthorized"


def test_a_key_that_is_revoked_is_refused_from_its_next_request_on(small_api: SmallApi) -> None:
    key = make_key(small_api.database.engine, "read", "mine")
    with client(small_api.url, key) as asks:
        assert asks.get(f"/agents/{uuid4()}").status_code == 404
        with small_api.database.engine.begin() as connection:
            keys.revoke(connection, "mine")
        assert asks.get(f"/agents/{uuid4()}").status_code == 401


def test_a_key_without_the_scope_is_told_which_one_is_needed(small_api: SmallApi) -> None:
    with small_api.client("call") as asks:
        refused = asks.delete(f"/agents/{uuid4()}")
    assert refused.status_code == 403
    assert "scope admin" in refused.json()["detail"]
