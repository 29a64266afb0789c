"""An installation of which every part can be taken away: two daemons, and a proxy before each neighbour."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.support.daemon import WEBHOOK_SECRET, DaemonProcess
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import SETTINGS
from tests.support.proxy import Proxy, proxied
from tests.support.world import World, world_around

DAEMONS = 2
STARTS_WITHIN = 60.0  # seconds; walks share their machine with one another


@dataclass(frozen=True)
class House:
    """A daemon and its ways to its neighbours."""

    daemon: DaemonProcess
    ways: dict[str, Proxy]


@dataclass(frozen=True)
class Town:
    """Everything; what belongs to a walk is its own, so several walks run beside each other."""

    world: World
    postgres: EmbeddedPostgres
    houses: list[House]

    async def heal(self) -> None:
        """Bring back whatever is away, at once."""
        self.world.simulator.set_faults(
            down=False,
            slow_ms=0,
            error_rate=0,
            create_times_out=False,
            garbage=False,
            webhooks={"drop": 0, "duplicate": False, "reorder": False, "delay_ms": 0, "hold": False},
        )
        await self.world.simulator.come_back()
        self.postgres.thaw()
        await self.postgres.start()
        for house in self.houses:
            for way in house.ways.values():
                await way.heal()

    async def stop_daemons(self) -> None:
        for house in self.houses:
            await house.daemon.stop()

    async def start_daemons(self) -> None:
        for house in self.houses:
            await house.daemon.start(STARTS_WITHIN)

    async def until_ready(self) -> None:
        await asyncio.gather(*(self.world.until_ready(house.daemon, 60) for house in self.houses))


@contextlib.asynccontextmanager
async def town_around(directory: Path) -> AsyncIterator[Town]:
    """A town whose daemons are ready."""
    async with contextlib.AsyncExitStack() as stack:
        place = stack.enter_context(temporary_directory("kosmo-walk-"))
        postgres = EmbeddedPostgres(place / "postgres", settings=SETTINGS, durable=False)
        await stack.enter_async_context(postgres)
        url = await postgres.create_database("walk")
        broker = await stack.enter_async_context(Mosquitto(max_queued_messages=0))
        world = await stack.enter_async_context(world_around(directory, url, broker))
        houses = []
        for number in range(DAEMONS):
            ways = {
                "postgres": await stack.enter_async_context(proxied("127.0.0.1", postgres.port)),
                "mosquitto": await stack.enter_async_context(proxied(broker.host, broker.port)),
                "btcpay": await stack.enter_async_context(
                    proxied("127.0.0.1", urlsplit(world.simulator.url).port or 0)
                ),
            }
            daemon = world.prepare(
                f"daemon-{number}",
                DATABASE_URL=url.replace(f":{postgres.port}/", f":{ways['postgres'].port}/"),
                MQTT_PORT=str(ways["mosquitto"].port),
                BTCPAY_URL=f"http://127.0.0.1:{ways['btcpay'].port}",
                BTCPAY_TIMEOUT="3",
                MQTT_KEEPALIVE="2",
                INVOICE_RATE="1000",
            )
            await daemon.start(STARTS_WITHIN)
            world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
            houses.append(House(daemon, ways))
        town = Town(world, postgres, houses)
        await town.until_ready()
        yield town
