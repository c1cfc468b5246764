"""One system for all cases of a file; each case begins with everything whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.world import World


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("faults")) as world:
        yield world


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    _world.heal()
    _world.begin_test()
    yield _world
    _world.heal()
