"""A mosquitto with default limits, and where a gate keeps its state."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.mosquitto import Mosquitto


@pytest.fixture
async def mosquitto() -> AsyncIterator[Mosquitto]:
    async with Mosquitto() as broker:
        yield broker


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "gate.db"
