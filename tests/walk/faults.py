"""What befalls a town for a while. Everything is healed by ``Town.heal`` and the fault's own end."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random

from tests.support.houses import House
from tests.support.proxy import Mode
from tests.walk.town import STARTS_WITHIN, Town

Fault = Callable[[Town, Random, float], Coroutine[None, None, None]]


def _house(town: Town, chance: Random) -> House:
    return chance.choice(town.houses)


async def daemon_killed(town: Town, chance: Random, seconds: float) -> None:
    daemon = _house(town, chance).daemon
    daemon.kill()
    await asyncio.sleep(chance.choice([0, seconds]))
    await daemon.start(STARTS_WITHIN)


async def daemon_stopped(town: Town, chance: Random, seconds: float) -> None:
    daemon = _house(town, chance).daemon
    daemon.leaves_in_order = False  # it may be cut off from a neighbour when it leaves
    await daemon.stop(seconds=60)
    await asyncio.sleep(seconds)
    await daemon.start(STARTS_WITHIN)


async def daemon_frozen(town: Town, chance: Random, seconds: float) -> None:
    daemon = _house(town, chance).daemon
    daemon.freeze()
    try:
        await asyncio.sleep(3 * seconds)
    finally:
        daemon.thaw()


async def postgres_killed(town: Town, chance: Random, seconds: float) -> None:
    town.postgres.kill()
    await asyncio.sleep(chance.choice([0, seconds]))
    await town.postgres.start()


async def postgres_frozen(town: Town, _chance: Random, seconds: float) -> None:
    town.postgres.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        town.postgres.thaw()


async def mosquitto_killed(town: Town, chance: Random, seconds: float) -> None:
    """It keeps nothing: sessions, queues and retained documents are gone."""
    town.world.broker.kill()
    await asyncio.sleep(chance.choice([0, seconds]))
    await town.world.broker.start()


async def mosquitto_frozen(town: Town, _chance: Random, seconds: float) -> None:
    town.world.broker.freeze()
    try:
        await asyncio.sleep(2 * seconds)
    finally:
        town.world.broker.thaw()


async def btcpay_away(town: Town, _chance: Random, seconds: float) -> None:
    await town.world.simulator.go_away()
    await asyncio.sleep(seconds)
    await town.world.simulator.come_back()


async def btcpay_ill(town: Town, chance: Random, seconds: float) -> None:
    ways: list[dict[str, float | bool]] = [
        {"error_rate": 0.5},
        {"garbage": True},
        {"create_times_out": True},
        {"slow_ms": 700},
    ]
    ill = chance.choice(ways)
    town.world.simulator.set_faults(**ill)
    await asyncio.sleep(seconds)
    town.world.simulator.set_faults(error_rate=0, garbage=False, create_times_out=False, slow_ms=0)


async def webhooks_lost(town: Town, chance: Random, _seconds: float) -> None:
    town.world.simulator.set_faults(webhooks={"drop": chance.choice([0.5, 1])})


async def webhooks_doubled_and_reordered(town: Town, chance: Random, _seconds: float) -> None:
    town.world.simulator.set_faults(webhooks={"duplicate": True, "reorder": chance.choice([True, False])})


async def webhooks_held(town: Town, _chance: Random, seconds: float) -> None:
    town.world.simulator.set_faults(webhooks={"hold": True})
    await asyncio.sleep(2 * seconds)
    town.world.simulator.set_faults(webhooks={"hold": False})


async def partition(town: Town, chance: Random, seconds: float) -> None:
    house = _house(town, chance)
    neighbour = chance.choice(list(house.ways))
    await house.part(neighbour, chance.choice([Mode.REFUSE, Mode.SWALLOW, Mode.SWALLOW_ANSWERS]))
    await asyncio.sleep(2 * seconds)
    await house.ways[neighbour].heal()


async def cuts(town: Town, chance: Random, seconds: float) -> None:
    way = chance.choice(list(_house(town, chance).ways.values()))
    for _ in range(5):
        way.cut_after(chance.randrange(1, 5000))
        await asyncio.sleep(seconds / 5)


async def slow_way(town: Town, chance: Random, seconds: float) -> None:
    way = chance.choice(list(_house(town, chance).ways.values()))
    way.delay = chance.choice([0.02, 0.1])
    await asyncio.sleep(2 * seconds)
    way.delay = 0.0


# Two faults of one part would end each other, so a round has at most one of each row.
FAULTS: tuple[tuple[Fault, ...], ...] = (
    (daemon_killed, daemon_stopped, daemon_frozen),
    (postgres_killed, postgres_frozen),
    (mosquitto_killed, mosquitto_frozen),
    (btcpay_away, btcpay_ill),
    (webhooks_lost, webhooks_doubled_and_reordered, webhooks_held),
    (partition, cuts, slow_way),
)
