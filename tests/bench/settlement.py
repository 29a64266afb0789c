"""How fast a settled invoice becomes a retained document: `python -m tests.bench.settlement`.

With 32 webhooks in flight, each until the subscriber has the document, in turns with its peers: two plain
services that believe their webhooks, one that asks BTCPay for each, as BTCPay advises, and the least that
asks. And at 200 per second, beside the least.
"""

import importlib.util
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from kosmo_billing_daemon.contract.topics import Topics
from tests.bench import plain_service
from tests.bench.fake_btcpay import STORE
from tests.bench.figures import Figure, at_least, at_most, percentile
from tests.bench.invoices import Order, paid_orders
from tests.bench.load_generator import SECRET, Connection, Subscriber, at_rate, get, in_flight, webhook
from tests.bench.rig import Services, alone, daemon, program, services
from tests.support.postgres import create_database

IN_FLIGHT = 32
PER_SECOND = 200
TURNS = 4  # of each service in one round, so that what else the machine does meets both
PLAIN, LEAST = "plain service", "least service"


@dataclass(frozen=True)
class Peer:
    """A service to compare with, the module that it ``needs``, and how many times its rate is the goal."""

    name: str
    service: str
    goal: float | None
    needs: str = "aiohttp"


PEERS = (
    Peer(PLAIN, "tests.bench.plain_service", 1.3),
    Peer("plain service on FastAPI", "tests.bench.fastapi_service", None, "fastapi"),
    Peer("plain service that confirms", "tests.bench.confirming_service", 5),
    Peer(LEAST, "tests.bench.least_service", 0.6),
)


@asynccontextmanager
async def other(where: Services, service: str) -> AsyncIterator[tuple[str, str]]:
    """A service to compare with; gives its URL and its database's."""
    database_url = await create_database(where.postgres, service.rpartition(".")[2])
    connection = await asyncpg.connect(database_url)
    await connection.execute(plain_service.SCHEMA)
    await connection.close()
    host, port = where.broker_address
    async with program(
        where.directory,
        service,
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


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    number = 400 if quick else 2000
    found: list[Figure] = []
    orders: list[Order] = []
    peers = [peer for peer in PEERS if importlib.util.find_spec(peer.needs)]
    async with AsyncExitStack() as stack:
        where = await stack.enter_async_context(services())
        ours = await stack.enter_async_context(daemon(where))
        running = [await stack.enter_async_context(other(where, peer.service)) for peer in peers]
        host, port = where.broker_address
        told = await stack.enter_async_context(Subscriber(ours.topics, host=host, port=port))
        told_plainly = await stack.enter_async_context(Subscriber(Topics("plain"), host=host, port=port))
        course = Course(ours.api, ours.webhook_path, told)
        courses = {
            peer.name: Course(url, "/webhook", told_plainly)
            for peer, (url, _) in zip(peers, running, strict=True)
        }
        databases = {each: url for each, (_, url) in zip(courses.values(), running, strict=True)} | {
            course: ours.database_url
        }

        async def orders_for(service: Course, number: int) -> list[Order]:
            return await paid_orders(databases[service], where.btcpay, number, plain=service is not course)

        for service in databases:
            await service.in_flight(await orders_for(service, 200))  # warm
        for _ in range(rounds):
            seconds = dict.fromkeys(databases, 0.0)
            for service in databases:
                service.took.clear()
            for _ in range(TURNS):
                for service in databases:
                    seconds[service] += await service.in_flight(await orders_for(service, number // TURNS))
            for peer in peers:
                other_course = courses[peer.name]
                rates = number / seconds[course], number / seconds[other_course]
                found += _in_flight(peer, rates, course.took, other_course.took)
            for service in (courses[LEAST], course):
                service.took.clear()
                orders = await orders_for(service, PER_SECOND * (1 if quick else 5))
                await service.at_rate(orders, PER_SECOND)
            found += _at_rate(course.took, courses[LEAST].took)
        found.append(await _fake_rate(where, orders, number))
    return found


def _in_flight(
    peer: Peer, rates: tuple[float, float], took: list[float], its_took: list[float]
) -> list[Figure]:
    """Compare with one peer: what is settled in a second, and how long each took."""
    return [
        Figure(
            what=f"webhooks settled, {IN_FLIGHT} in flight, beside the {peer.name}",
            value=rates[0],
            unit="/s",
            beside=rates[1],
            beside_what=peer.name,
            goal=None if peer.goal is None else at_least(peer.goal, ratio=True),
        ),
        *(
            Figure(
                what=f"  p{percent} to the subscriber, beside the {peer.name}",
                value=percentile(took, percent) * 1e3,
                unit="ms",
                beside=percentile(its_took, percent) * 1e3,
                beside_what=peer.name,
                goal=at_most(1, ratio=True) if percent == 99 and peer.name == PLAIN else None,
            )
            for percent in (50, 99)
        ),
    ]


def _at_rate(took: list[float], least_took: list[float]) -> list[Figure]:
    return [
        Figure(
            what=f"webhook to subscriber at {PER_SECOND}/s, p50",
            value=percentile(took, 50) * 1e3,
            unit="ms",
            beside=percentile(least_took, 50) * 1e3,
            beside_what=LEAST,
            goal=at_most(1.15, ratio=True),
        ),
        Figure(
            what=f"webhook to subscriber at {PER_SECOND}/s, p99",
            value=percentile(took, 99) * 1e3,
            unit="ms",
            beside=percentile(least_took, 99) * 1e3,
            beside_what=LEAST,
            goal=at_most(25),
        ),
    ]


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
