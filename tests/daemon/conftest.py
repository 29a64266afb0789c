"""An installation per test: its own database, broker and BTCPay; daemons are started by the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.mosquitto import Mosquitto
from tests.support.world import World, world_around


@pytest.fixture
async def broker() -> AsyncIterator[Mosquitto]:
    """A broker that forgets everything when it ends."""
    async with Mosquitto(max_queued_messages=0) as mosquitto:  # bursts reach the observer whole
        yield mosquitto


@pytest.fixture
async def world(tmp_path: Path, database_url: str, broker: Mosquitto) -> AsyncIterator[World]:
    async with world_around(tmp_path, database_url, broker) as world:
        yield world
