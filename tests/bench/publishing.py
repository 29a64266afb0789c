"""How fast everybody's document is published again, and what a purchase made meanwhile feels of it:
`python -m tests.bench.publishing`.

The broker is killed and comes back with nothing, so the daemon publishes every document. Beside it, the link
by itself: as many publications of the same size over one `Link`, from a process without a database. Some of
the documents are subscribed to and stand for all: to receive each would slow broker and daemon down.
"""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

from kosmo_billing_daemon.link import Broker, connect
from tests.bench.figures import Figure, at_least, at_most, percentile
from tests.bench.filling import filled, some_users
from tests.bench.invoices import Order, paid_orders
from tests.bench.load_generator import Connection, Subscriber, webhook
from tests.bench.rig import Rig, Services, alone, daemon, services

USERS = 100_000
SAMPLE = 500  # documents that stand for all
IDLE, MOST = 40, 800  # purchases while nothing else happens, and at most while all is published
EVERY = 0.05  # seconds from purchase to purchase
SIZE = 440  # bytes of a document
STORED = "store/mosquitto.db"
PATIENCE = 120.0


async def by_itself(where: Services, number: int) -> float:
    """Publications per second of one link with as many in flight as it allows."""
    host, port = where.broker_address
    topics = iter([f"alone/entitlements/{place % 256:02x}/{place:036x}" for place in range(number)])
    async with connect(Broker(host=host, port=port, client_id="alone", clean=True)) as link:

        async def worker() -> None:
            for topic in topics:
                await link.publish(topic, b"x" * SIZE, retain=True)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(link.max_in_flight):
                group.create_task(worker())
        return number / (time.perf_counter() - began)


async def lose_memory(where: Services) -> None:
    """Kill the broker and start it with nothing."""
    where.broker.kill()
    (where.broker.data_dir / STORED).unlink(missing_ok=True)
    await where.broker.start()


class Purchases:
    """Purchases one after another, each from its webhook to the subscriber's receipt."""

    def __init__(self, ours: Rig, orders: Sequence[Order]) -> None:
        self.users = [user_id for _, user_id in orders]
        self._ours = ours
        self._waiting = [(user_id, webhook(ours.webhook_path, order_id)) for order_id, user_id in orders]

    async def one(self, connection: Connection, told: Subscriber) -> float:
        """Make the next one; returns the seconds it took."""
        user_id, request = self._waiting.pop()
        began = time.perf_counter()
        await connection.expect(request, 200)
        took = await told.receipt(user_id) - began
        await asyncio.sleep(EVERY - took)
        return took

    def listener(self, more: Sequence[UUID] = ()) -> Subscriber:
        host, port = self._ours.broker_address
        return Subscriber(self._ours.topics, host=host, port=port, users=[*self.users, *more])


async def idle(ours: Rig, number: int) -> list[float]:
    """Seconds of each of so many purchases while nothing else happens."""
    purchases = Purchases(ours, await paid_orders(ours.database_url, ours.btcpay, number))
    async with purchases.listener() as told, Connection(ours.api) as connection:
        return [await purchases.one(connection, told) for _ in range(number)]


async def republished(ours: Rig, users: int) -> tuple[float, list[float]]:
    """Documents per second after the broker lost its memory, and the seconds of each purchase meanwhile."""
    purchases = Purchases(ours, await paid_orders(ours.database_url, ours.btcpay, MOST))
    sample = await some_users(ours.database_url, SAMPLE)
    took: list[float] = []
    await lose_memory(ours)
    async with purchases.listener(sample) as told, Connection(ours.api) as connection:
        waiting = set(sample)
        async with asyncio.timeout(PATIENCE):
            while waiting == set(sample):
                await asyncio.sleep(EVERY)
                waiting -= told.arrived.keys()
            while waiting and len(took) < MOST:
                took.append(await purchases.one(connection, told))
                waiting -= told.arrived.keys()
            for user_id in waiting:
                await told.receipt(user_id)
        arrived = [told.arrived[user_id] for user_id in sample]
    return users / (max(arrived) - min(arrived)), took


async def measure(rounds: int, *, quick: bool) -> list[Figure]:
    """The rates of each round, and how much later than idle the slowest purchase meanwhile was."""
    users = USERS // 10 if quick else USERS
    found: list[Figure] = []
    async with services() as where:
        url = await filled(where, "publishing", invoices=2 * users, users=users)
        async with daemon(where, database_url=url) as ours:
            await republished(ours, users)  # warm
            for _ in range(rounds):
                linked = await by_itself(where, users)
                quiet = await idle(ours, IDLE)
                rate, meanwhile = await republished(ours, users)
                found += _figures(users, rate, linked, quiet, meanwhile)
    return found


def _figures(
    users: int, rate: float, linked: float, quiet: Sequence[float], meanwhile: Sequence[float]
) -> list[Figure]:
    found = [
        Figure(
            what=f"{users} documents published again",
            value=rate,
            unit="/s",
            beside=linked,
            beside_what="the link by itself",
            goal=at_least(0.8, ratio=True),
        ),
        Figure(what="  purchases made meanwhile", value=len(meanwhile), unit=""),
    ]
    for name, of in (
        ("p50", lambda took: percentile(took, 50)),
        ("p99", lambda took: percentile(took, 99)),
        ("the worst", max),
    ):
        found.append(
            Figure(
                what=f"  {name} to the subscriber",
                value=of(meanwhile) * 1e3,
                unit="ms",
                beside=of(quiet) * 1e3,
                beside_what="idle",
            )
        )
    later = max(meanwhile) - percentile(quiet, 50)
    found.append(
        Figure(what="  the worst, later than the idle median", value=later * 1e3, unit="ms", goal=at_most(50))
    )
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
