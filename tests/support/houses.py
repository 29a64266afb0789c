"""A daemon behind a proxy before each of its neighbours, so that it alone can be cut off from any of them."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.daemon import WEBHOOK_SECRET, DaemonProcess
from tests.support.proxy import Mode, Proxy, proxied
from tests.support.world import World


@dataclass(frozen=True)
class House:
    """A daemon and its ways to its neighbours: ``postgres``, ``mosquitto``, ``btcpay``."""

    daemon: DaemonProcess
    ways: dict[str, Proxy]

    async def part(self, neighbour: str, mode: Mode) -> None:
        """Cut it off; where connections are refused, open ones are closed."""
        await self.ways[neighbour].become(mode)
        if mode is Mode.REFUSE:
            await self.ways[neighbour].drop()

    async def heal(self) -> None:
        for way in self.ways.values():
            await way.heal()


async def build_house(world: World, stack: AsyncExitStack, name: str, **settings: str) -> House:
    """A house whose daemon is not started yet; its proxies end with ``stack``."""
    postgres = urlsplit(world.database_url).port or 0
    btcpay = urlsplit(world.simulator.url).port or 0
    ways = {
        "postgres": await stack.enter_async_context(proxied("127.0.0.1", postgres)),
        "mosquitto": await stack.enter_async_context(proxied(world.broker.host, world.broker.port)),
        "btcpay": await stack.enter_async_context(proxied("127.0.0.1", btcpay)),
    }
    led_by_proxies = {
        "DATABASE_URL": world.database_url.replace(f":{postgres}/", f":{ways['postgres'].port}/"),
        "MQTT_PORT": str(ways["mosquitto"].port),
        "BTCPAY_URL": f"http://127.0.0.1:{ways['btcpay'].port}",
        "MQTT_KEEPALIVE": "2",
    }
    return House(world.prepare(name, **led_by_proxies, **settings), ways)


async def move_in(world: World, house: House, seconds: float) -> None:
    """Start the daemon of a house, and tell BTCPay of its webhook."""
    await house.daemon.start(seconds)
    world.simulator.add_webhook(house.daemon.webhook_url, WEBHOOK_SECRET)
