"""An installation whose PostgreSQL, broker and BTCPay belong to the test alone."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
async def own_postgres(service_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server whose connections and speed this test alone decides on."""
    async with EmbeddedPostgres(service_directory / "postgres", settings=SETTINGS) as server:
        yield server


@pytest.fixture
async def own_world(
    tmp_path: Path, own_postgres: EmbeddedPostgres, broker: Mosquitto
) -> AsyncIterator[World]:
    async with world_around(tmp_path, own_postgres.url, broker) as world:
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
