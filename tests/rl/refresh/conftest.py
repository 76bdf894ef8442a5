"""One small world for all tests of a refresh."""

from __future__ import annotations

import pytest

from refresh_world import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("errands"))
