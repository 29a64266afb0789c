"""An installation whose PostgreSQL, broker and BTCPay belong to the test, or to one module, alone."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.faults.disk import Disk, disk
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, world_around

SETTINGS = {
    "max_connections": "40",
    "shared_buffers": "16MB",
    "autovacuum": "off",  # it would make room, or take some, at its own time
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
}


@pytest.fixture
async def broker() -> AsyncIterator[Mosquitto]:
    async with Mosquitto(max_queued_messages=0) as mosquitto:
        yield mosquitto


@pytest.fixture
async def world(tmp_path: Path, database_url: str, broker: Mosquitto) -> AsyncIterator[World]:
    async with world_around(tmp_path, database_url, broker) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def own_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server whose connections and speed the tests of one module alone decide on."""
    with temporary_directory("kosmo-test-") as directory:
        async with EmbeddedPostgres(directory / "postgres", settings=SETTINGS) as server:
            yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def own_world(
    tmp_path_factory: pytest.TempPathFactory, own_postgres: EmbeddedPostgres
) -> AsyncIterator[World]:
    """An installation on that server, with a daemon that serves these tests."""
    directory = tmp_path_factory.mktemp("own")
    async with (
        Mosquitto(max_queued_messages=0) as broker,
        world_around(directory, own_postgres.url, broker) as world,
    ):
        await world.daemon()
        yield world


@pytest.fixture
def small_disk(service_directory: Path) -> Iterator[Disk]:
    """A file system that a test can fill."""
    with disk(service_directory / "small") as mounted:
        yield mounted


@pytest.fixture
async def world_on_small_disk(tmp_path: Path, small_disk: Disk, broker: Mosquitto) -> AsyncIterator[World]:
    async with EmbeddedPostgres(small_disk.path, settings=SETTINGS) as server:
        async with world_around(tmp_path, server.url, broker) as world:
            yield world
        small_disk.make_room()
