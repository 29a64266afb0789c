"""An installation per test, or one per module: database, broker and BTCPay of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.mosquitto import Mosquitto
from tests.support.world import World, world_around


@pytest.fixture
async def broker() -> AsyncIterator[Mosquitto]:
    """A broker that forgets everything when it ends."""
    async with Mosquitto(max_queued_messages=0) as mosquitto:  # bursts reach the observer whole
        yield mosquitto


@pytest.fixture
async def world(tmp_path: Path, database_url: str, broker: Mosquitto) -> AsyncIterator[World]:
    """An installation of the test's own; it starts daemons itself."""
    async with world_around(tmp_path, database_url, broker) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, module_database_url: str
) -> AsyncIterator[World]:
    """An installation whose one daemon serves all tests of a module that ask for it, each with its own users.

    A module may set `SHARED_SETTINGS` for that daemon. Tests that use it run on the module's event loop.
    """
    directory = tmp_path_factory.mktemp("shared")
    async with (
        Mosquitto(max_queued_messages=0) as broker,
        world_around(directory, module_database_url, broker) as world,
    ):
        await world.daemon(**getattr(request.module, "SHARED_SETTINGS", {}))
        yield world


on_shared_loop = pytest.mark.asyncio(loop_scope="module")
