"""A plain mosquitto for the tests of the link."""

from collections.abc import AsyncIterator

import pytest

from tests.support.mosquitto import Mosquitto


@pytest.fixture
async def mosquitto() -> AsyncIterator[Mosquitto]:
    async with Mosquitto() as broker:
        yield broker
