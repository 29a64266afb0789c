"""A minute without a neighbour while people buy, pay and write: nothing is lost, the same process goes on.

Seen failing: with reports answered before they are committed, without reconciliation (PostgreSQL killed), and
without publishing again what a broker forgot.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import pytest

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.crash.audit import retained_is_the_database
from tests.faults.signs import says
from tests.support import usage
from tests.support.houses import House, build_house, move_in
from tests.support.mosquitto import Mosquitto
from tests.support.proxy import Mode
from tests.support.world import World, grant, until, world_around
from tests.walk.gateways import report_until_answered

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

AWAY = 60.0  # seconds
HEALS_WITHIN = 90.0
PATIENCE = aiohttp.ClientTimeout(total=10)
SIGNS = {
    "btcpay": ("degraded", "btcpay"),
    "mosquitto": ("degraded", "broker"),
    "postgres": ("unready", "database"),
}

ONCE = """
SELECT count(*) FILTER (WHERE purchases = 1) FROM (
    SELECT count(s.id) AS purchases FROM unnest($1::uuid[]) AS u (user_id)
    LEFT JOIN subscriptions AS s ON s.user_id = u.user_id AND s.status = 'active' GROUP BY u.user_id) AS each
"""
WAITING = """
SELECT (SELECT count(*) FROM lookups WHERE hinted_at IS NOT NULL)
    + (SELECT count(*) FROM outbox)
"""


@dataclass
class Place:
    """One daemon in a house, its PostgreSQL, and what people did."""

    world: World
    postgres: EmbeddedPostgres
    house: House
    writer: UUID
    bought: list[UUID] = field(default_factory=list)
    messages: int = 0
    sent: int = 0

    async def buy(self) -> None:
        """Somebody new orders, asking until there is an answer, and pays."""
        user_id = uuid4()
        url, headers = f"{self.house.daemon.url}{API}/invoices", {"X-User-ID": str(user_id)}
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.world.http.post(
                    url, json={"plan_type": "wanderer"}, headers=headers, timeout=PATIENCE
                ) as response:
                    if response.status in {200, 201}:
                        await self.world.pay(str((await response.json())["invoice_id"]))
                        self.bought.append(user_id)
                        return
            await asyncio.sleep(0.5)

    async def write(self) -> None:
        """A gateway reports fifty messages, as often as it takes."""
        report_id = str(uuid4())
        now = datetime.now(UTC)
        events = [usage.event(self.writer, f"{report_id} {number}", now) for number in range(50)]
        self.messages += len(events)
        reports = {report_id: usage.payload(events, report_id)}
        sent = await report_until_answered(self.world.broker, f"gateway-{report_id}", reports)
        self.sent += sent

    async def live(self, over: asyncio.Event) -> None:
        """Two buy and five reports come each second until it is over; returns when everybody was answered."""
        async with asyncio.TaskGroup() as people:
            while not over.is_set():
                for work in (self.buy, self.write, self.write, self.buy, self.write, self.write, self.write):
                    people.create_task(work())
                    await asyncio.sleep(1 / 7)

    async def pay_slowly(self, ordered: dict[str, UUID]) -> None:
        """Pay what was ordered before the outage all through it: whoever is away hears of none."""
        for invoice_id, user_id in ordered.items():
            await asyncio.sleep(AWAY / len(ordered))
            await self.world.pay(invoice_id)
            self.bought.append(user_id)


@pytest.fixture
async def place(tmp_path: Path, service_directory: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(service_directory / "postgres", durable=False)
        await stack.enter_async_context(postgres)
        broker = await stack.enter_async_context(Mosquitto(max_queued_messages=0))
        world = await stack.enter_async_context(world_around(tmp_path, postgres.url, broker))
        house = await build_house(world, stack, "daemon", INVOICE_RATE="1000")
        await move_in(world, house, 20.0)
        await world.until_ready(house.daemon)
        await grant(world, [writer := uuid4()])
        yield Place(world, postgres, house, writer)


def way_out(
    place: Place, part: str, how: str
) -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
    """How this part goes away, and how it comes back."""
    if how == "silent":
        return lambda: place.house.part(part, Mode.SWALLOW), place.house.heal
    if part == "btcpay":
        return place.world.simulator.go_away, place.world.simulator.come_back
    server: Mosquitto | EmbeddedPostgres = place.world.broker if part == "mosquitto" else place.postgres

    async def kill() -> None:
        server.kill()

    return kill, server.start


@pytest.mark.parametrize("how", ["killed", "silent"])
@pytest.mark.parametrize("part", ["btcpay", "mosquitto", "postgres"])
async def test_a_minute_without(place: Place, part: str, how: str) -> None:
    world, daemon = place.world, place.house.daemon
    pid = daemon.pid
    goes, comes_back = way_out(place, part, how)
    over = asyncio.Event()
    living = asyncio.create_task(place.live(over))
    await until(lambda: len(place.bought) >= 20, "the first purchases")
    ordered = {await world.order(daemon, user_id := uuid4()): user_id for _ in range(20)}
    await goes()
    async with asyncio.TaskGroup() as minute:
        minute.create_task(place.pay_slowly(ordered))
        await says(world, daemon, *SIGNS[part])
    during = len(place.bought)
    await comes_back()
    came_back = time.monotonic()
    over.set()
    await world.until_ready(daemon, HEALS_WITHIN)
    ready = time.monotonic() - came_back
    await living

    async def all_there() -> bool:
        async with world.sql() as connection:
            if await connection.fetchval(ONCE, place.bought) != len(place.bought):
                return False
            if await connection.fetchval(WAITING):
                return False
            users = [row["user_id"] for row in await connection.fetch("SELECT user_id FROM entitlements")]
            return await retained_is_the_database(world, connection, users)

    await until(all_there, lambda: daemon.log, HEALS_WITHIN)
    healed = time.monotonic() - came_back
    counted = "SELECT messages_used FROM subscriptions WHERE user_id = $1"
    assert await world.value(counted, place.writer) == place.messages
    assert await world.value("SELECT count(*) FROM subscriptions") == len(place.bought) + 1
    assert len(world.simulator.invoices) == len(place.bought)
    assert daemon.pid == pid
    print(f"\n{part} {how}: ready {ready:.1f} s and everything there {healed:.1f} s after its return")
    print(
        f"{len(place.bought)} bought, {during} before it; {place.messages} messages in {place.sent} reports"
    )
