"""Whether anything costs more as the shop grows: `python -m tests.bench.growth`.

Two daemons side by side, one with 1,000 invoices of 200 users and one with 1,000,000 of 200,000, and the
same work for both in turns: webhooks, usage events, pages of a user's invoices, and starts.
"""

import time
from collections.abc import Sequence

import asyncpg

from kosmo_billing_daemon.contract.paths import API
from tests.bench import usage
from tests.bench.figures import Figure, at_most, percentile
from tests.bench.filling import filled, some_users, tidied
from tests.bench.footprint import until_idle
from tests.bench.invoices import paid_orders
from tests.bench.load_generator import Connection, Subscriber, get
from tests.bench.rig import Rig, Services, alone, daemon, services
from tests.bench.settlement import TURNS, Course

SMALL = (1_000, 200)  # invoices, users
LARGE = (1_000_000, 200_000)
FLAT = at_most(1.15, ratio=True)
REPORTERS_USERS = 200


async def webhooks(ours: Rig, number: int) -> float:
    """Seconds per webhook, 32 in flight, of new users."""
    host, port = ours.broker_address
    async with Subscriber(ours.topics, host=host, port=port) as told:
        orders = await paid_orders(ours.database_url, ours.btcpay, number)
        return await Course(ours.api, ours.webhook_path, told).in_flight(orders) / number


async def pages(ours: Rig, number: int) -> float:
    """Median seconds of a page of a user's invoices, one after another."""
    took = []
    users = await some_users(ours.database_url, min(number, SMALL[1]))
    async with Connection(ours.api) as connection:
        for place in range(number):
            request = get(f"{API}/invoices?limit=3", X_User_ID=str(users[place % len(users)]))
            began = time.perf_counter()
            await connection.expect(request, 200)
            took.append(time.perf_counter() - began)
    return percentile(took, 50)


async def events(ours: Rig, reports: int, turn: int) -> float:
    """Seconds per usage event, from the first report to the last usage-ack."""
    users = await some_users(ours.database_url, REPORTERS_USERS)
    rate, _ = await usage.through(ours, users, reports, turn, ours.topics)
    return 1 / rate


def _figure(what: str, seconds: Sequence[float], factor: float, unit: str) -> Figure:
    small, large = seconds
    return Figure(
        what=f"{what} at 1,000,000 invoices",
        value=large * factor,
        unit=unit,
        beside=small * factor,
        beside_what="at 1,000",
        goal=FLAT,
    )


async def _turns(small: Rig, large: Rig, turn: int, *, quick: bool) -> list[Figure]:
    """One round: every work in turns, so that what else the machine does meets both."""
    sums: dict[str, list[float]] = {"webhook": [0.0, 0.0], "usage event": [0.0, 0.0], "list page": [0.0, 0.0]}
    for step in range(TURNS):
        both = [(0, small), (1, large)]
        for place, ours in both if step % 2 == 0 else both[::-1]:  # neither is always the second
            sums["webhook"][place] += await webhooks(ours, 50 if quick else 250) / TURNS
            sums["list page"][place] += await pages(ours, 50 if quick else 200) / TURNS
            number = 10 if quick else 40
            sums["usage event"][place] += await events(ours, number, turn * TURNS + step) / TURNS
    return [_figure(f"per {name}", sums[name], 1e6, "µs") for name in sums]


async def _grown(where: Services, name: str, size: tuple[int, int]) -> str:
    """A filled database whose users the broker knows too."""
    url = await filled(where, name, invoices=size[0], users=size[1])
    async with daemon(where, name=name, database_url=url) as first:
        await until_idle(first.pid)
    connection = await asyncpg.connect(url)
    await tidied(connection)
    await connection.close()
    return url


async def _start(where: Services, name: str, url: str) -> float:
    """Seconds until a daemon is ready, nothing else being started."""
    async with daemon(where, name=name, database_url=url) as ours:
        return ours.started


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    found: list[Figure] = []
    async with services() as where:
        small_url = await _grown(where, "small", SMALL)
        large_url = await _grown(where, "large", (50_000, 10_000) if quick else LARGE)
        for turn in range(rounds):
            starts = [await _start(where, "small", small_url), await _start(where, "large", large_url)]
            found.append(_figure("per start", starts, 1e3, "ms"))
            async with (
                daemon(where, name="small", database_url=small_url) as small,
                daemon(where, name="large", database_url=large_url) as large,
            ):
                await until_idle(large.pid)
                if turn == 0:
                    await _turns(small, large, rounds, quick=True)  # warm
                found += await _turns(small, large, turn, quick=quick)
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
