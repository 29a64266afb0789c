"""How fast a settled invoice becomes a retained document: `python -m tests.bench.settlement`.

With 32 webhooks in flight, each until the subscriber has the document, beside a plain service that believes
its webhooks; and at 200 per second, beside what one commit, one list call and one publication cost alone. The
least service that asks BTCPay, and a call with httpx that has the machine to itself, show how near the goals
anything of these parts can come.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from uuid import UUID, uuid4

import asyncpg

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, connect
from tests.bench import least_service, plain_service
from tests.bench.fake_btcpay import KEY, STORE
from tests.bench.figures import Figure, at_least, at_most, percentile
from tests.bench.invoices import Order, paid_orders
from tests.bench.load_generator import SECRET, Connection, Subscriber, at_rate, get, in_flight, webhook
from tests.bench.rig import Rig, Services, alone, daemon, program, services

IN_FLIGHT = 32
PER_SECOND = 200
TURNS = 4  # of each service in one round, so that what else the machine does meets both
ALONE = 200  # commits, list calls and publications measured by themselves


@asynccontextmanager
async def other(where: Services, service: ModuleType) -> AsyncIterator[tuple[str, str]]:
    """A service to compare with; gives its URL and its database's."""
    database_url = await where.postgres.create_database(service.__name__.rpartition(".")[2])
    connection = await asyncpg.connect(database_url)
    await connection.execute(plain_service.SCHEMA)
    await connection.close()
    host, port = where.broker_address
    async with program(
        where.directory,
        service.__name__,
        DATABASE_URL=database_url,
        MQTT_HOST=host,
        MQTT_PORT=str(port),
        BTCPAY_URL=where.btcpay,
        WEBHOOK_SECRET=SECRET,
    ) as process:
        yield f"http://127.0.0.1:{int(await process.said(chr(10)))}", database_url


class Course:
    """Webhooks sent to one service, and how long each took to the subscriber's receipt."""

    def __init__(self, url: str, path: str, subscriber: Subscriber) -> None:
        self._url, self._path, self._subscriber = url, path, subscriber
        self.took: list[float] = []

    async def in_flight(self, orders: list[Order]) -> float:
        """Return the seconds until all were settled."""
        return await self.in_flight_jobs(self._prepared(orders))

    async def in_flight_jobs(self, jobs: list[tuple[UUID, bytes]]) -> float:
        return await in_flight(self._url, IN_FLIGHT, jobs, self._settle)

    async def at_rate(self, orders: list[Order], per_second: float) -> None:
        await self.at_rate_jobs(self._prepared(orders), per_second)

    async def at_rate_jobs(self, jobs: list[tuple[UUID, bytes]], per_second: float) -> None:
        await at_rate(self._url, per_second, jobs, self._settle)

    def _prepared(self, orders: list[Order]) -> list[tuple[UUID, bytes]]:
        return [(user_id, webhook(self._path, order_id)) for order_id, user_id in orders]

    async def _settle(self, connection: Connection, job: tuple[UUID, bytes]) -> None:
        user_id, request = job
        began = time.perf_counter()
        await connection.expect(request, 200)
        self.took.append(await self._subscriber.receipt(user_id) - began)


async def one_commit(where: Rig) -> float:
    """Median seconds of one row inserted and committed."""
    connection = await asyncpg.connect(where.postgres.url)
    took = []
    await connection.execute("CREATE TABLE IF NOT EXISTS commits (id uuid PRIMARY KEY, body text)")
    for _ in range(ALONE):
        began = time.perf_counter()
        await connection.execute("INSERT INTO commits VALUES ($1, $2)", uuid4(), "x" * 100)
        took.append(time.perf_counter() - began)
    await connection.close()
    return statistics.median(took)


async def one_list_call(where: Rig, order_id: UUID) -> float:
    request = get(f"/api/v1/stores/{STORE}/invoices?orderId={order_id}&includeArchived=true")
    took = []
    async with Connection(where.btcpay) as connection:
        for _ in range(ALONE):
            began = time.perf_counter()
            await connection.expect(request, 200)
            took.append(time.perf_counter() - began)
    return statistics.median(took)


async def one_call_of_ours(where: Rig, order_id: UUID) -> float:
    """Median seconds of a list call with the daemon's client, as often as webhooks come and alone."""
    took = []
    async with BtcpayClient(url=where.btcpay, api_key=KEY, store_id=STORE) as client:
        for _ in range(ALONE):
            await asyncio.sleep(1 / PER_SECOND)
            began = time.perf_counter()
            await client.find_invoices([order_id])
            took.append(time.perf_counter() - began)
    return statistics.median(took)


async def one_publication(where: Rig) -> float:
    """Median seconds of one retained QoS 1 publication to its acknowledgement."""
    host, port = where.broker_address
    took = []
    async with connect(Broker(host=host, port=port, client_id="alone", clean=True)) as link:
        for number in range(ALONE):
            began = time.perf_counter()
            await link.publish(f"alone/{number}", b"x" * 400, retain=True)
            took.append(time.perf_counter() - began)
    return statistics.median(took)


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    number = 400 if quick else 2000
    found: list[Figure] = []
    orders: list[Order] = []
    async with (
        services() as where,
        daemon(where) as ours,
        other(where, plain_service) as (plain_url, plain_database),
        other(where, least_service) as (least_url, least_database),
    ):
        host, port = where.broker_address
        async with (
            Subscriber(ours.topics, host=host, port=port) as told,
            Subscriber(Topics("plain"), host=host, port=port) as told_plainly,
        ):
            course = Course(ours.api, ours.webhook_path, told)
            plain = Course(plain_url, "/webhook", told_plainly)
            least = Course(least_url, "/webhook", told_plainly)

            databases = {plain: plain_database, least: least_database, course: ours.database_url}

            async def orders_for(service: Course, number: int) -> list[Order]:
                return await paid_orders(
                    databases[service], where.btcpay, number, plain=service is not course
                )

            for service in databases:
                await service.in_flight(await orders_for(service, 200))  # warm
            for _ in range(rounds):
                seconds = dict.fromkeys(databases, 0.0)
                for service in databases:
                    service.took.clear()
                for _ in range(TURNS):
                    for service in databases:
                        seconds[service] += await service.in_flight(
                            await orders_for(service, number // TURNS)
                        )
                rate, least_rate, plain_rate = (number / seconds[each] for each in (course, least, plain))
                found += _in_flight(rate, least_rate, plain_rate, course.took, plain.took)
                for service in (least, course):
                    service.took.clear()
                    orders = await orders_for(service, PER_SECOND * (1 if quick else 5))
                    await service.at_rate(orders, PER_SECOND)
                alone = await one_commit(ours) + await one_list_call(ours, orders[0][0])
                alone += await one_publication(ours)
                found += _at_rate(course.took, least.took, alone)
                found.append(_of_client(await one_call_of_ours(ours, orders[0][0]), alone))
            found.append(await _fake_rate(where, orders, number))
    return found


def _in_flight(
    rate: float, least_rate: float, plain_rate: float, took: list[float], plain_took: list[float]
) -> list[Figure]:
    found = [
        Figure(
            what=f"webhooks settled, {IN_FLIGHT} in flight",
            value=rate,
            unit="/s",
            beside=plain_rate,
            beside_what="plain service",
            goal=at_least(1.5, ratio=True),
        ),
        Figure(
            what="  (the least service)",
            value=least_rate,
            unit="/s",
            beside=plain_rate,
            beside_what="plain service",
        ),
    ]
    for percent, goal in ((50, None), (99, at_most(1, ratio=True))):
        found.append(
            Figure(
                what=f"  p{percent} to the subscriber",
                value=percentile(took, percent) * 1e3,
                unit="ms",
                beside=percentile(plain_took, percent) * 1e3,
                beside_what="plain service",
                goal=goal,
            )
        )
    return found


def _at_rate(took: list[float], least_took: list[float], alone: float) -> list[Figure]:
    return [
        Figure(
            what=f"webhook to subscriber at {PER_SECOND}/s, p50",
            value=percentile(took, 50) * 1e3,
            unit="ms",
            beside=alone * 1e3,
            beside_what="commit + list call + publish alone",
            goal=at_most(2, ratio=True),
        ),
        Figure(
            what="  (the least service, p50)",
            value=percentile(least_took, 50) * 1e3,
            unit="ms",
            beside=alone * 1e3,
            beside_what="commit + list call + publish alone",
        ),
        Figure(
            what=f"webhook to subscriber at {PER_SECOND}/s, p99",
            value=percentile(took, 99) * 1e3,
            unit="ms",
            goal=at_most(25),
        ),
    ]


def _of_client(call: float, alone: float) -> Figure:
    return Figure(
        what=f"  (a list call with httpx by itself, {PER_SECOND}/s)",
        value=call * 1e3,
        unit="ms",
        beside=alone * 1e3,
        beside_what="commit + list call + publish alone",
    )


async def _fake_rate(where: Services, orders: list[Order], number: int) -> Figure:
    """How much the BTCPay of this rig could bear, so that it is seen not to be what is measured."""
    query = "&".join(f"orderId={order_id}" for order_id, _ in orders[:IN_FLIGHT])
    request = get(f"/api/v1/stores/{STORE}/invoices?{query}")
    jobs = [request] * number
    seconds = await in_flight(where.btcpay, 4, jobs, lambda connection, job: connection.expect(job, 200))
    return Figure(
        what=f"(the fake BTCPay: list calls of {IN_FLIGHT} orders)", value=number / seconds, unit="/s"
    )


if __name__ == "__main__":
    alone(measure, __doc__)
