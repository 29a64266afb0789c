from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.systemd.served import Manager

NOWHERE = "9"  # the discard service's port, where nobody listens


def settings(database_url: str) -> dict[str, str]:
    """A database; BTCPay and broker are away, which must neither stop nor slow anything here."""
    return {
        "BTCPAY_URL": f"http://127.0.0.1:{NOWHERE}",
        "BTCPAY_API_KEY": "a1" * 20,
        "BTCPAY_STORE_ID": "StoreOne",
        "DATABASE_URL": database_url,
        "MQTT_HOST": "127.0.0.1",
        "MQTT_PORT": NOWHERE,
        "LOG_FORMAT": "text",
    }


@pytest.fixture(params=["uvloop", "asyncio"])
async def manager(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str
) -> AsyncIterator[Manager]:
    """As systemd's, with the event loop of hosts that have uvloop and of those that have not."""
    async with Manager(tmp_path, settings(database_url), uvloop=request.param == "uvloop") as manager:
        yield manager


@pytest.fixture
async def lost(tmp_path: Path) -> AsyncIterator[Manager]:
    """With everything away, the database too, and a watchdog that expects a sign every 0.6 s."""
    nowhere = settings(f"postgresql://nobody@127.0.0.1:{NOWHERE}/nothing") | {"WATCHDOG_USEC": "600000"}
    async with Manager(tmp_path, nowhere, uvloop=True) as manager:
        yield manager
