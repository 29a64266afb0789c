"""Everything around daemons in one place: database, broker, BTCPay, a watching subscriber, and customers."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.support.daemon import KEY, STORE, WEBHOOK_SECRET, DaemonProcess, settings_for
from tests.support.mosquitto import Mosquitto
from tests.support.observer import Observer, observing, retained
from tests.support.quotes import WANDERER, quoting

DEADLINE = 20.0


async def until(
    fact: Callable[[], bool | Awaitable[bool]], what: str | Callable[[], object], seconds: float = DEADLINE
) -> float:
    """Wait until ``fact`` holds and return how long it took; fail with ``what`` after ``seconds``.

    The longer it has taken, the less often it is asked: many facts cost a connection or a request.
    """
    began = time.monotonic()
    while True:
        holds = fact()
        if isinstance(holds, Awaitable):
            holds = await holds
        took = time.monotonic() - began
        if holds:
            return took
        if took >= seconds:
            raise AssertionError(f"not within {seconds} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(min(0.1, 0.01 + took / 20))


@dataclass
class World:
    """One installation. Daemons and their files live in ``directory``."""

    directory: Path
    database_url: str
    broker: Mosquitto
    simulator: Simulator
    observer: Observer
    http: aiohttp.ClientSession
    more: dict[str, str] = field(default_factory=dict)
    daemons: list[DaemonProcess] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)

    def prepare(self, name: str = "daemon", **settings: str) -> DaemonProcess:
        """A daemon that is not started yet."""
        told = settings_for(
            database_url=self.database_url,
            broker=self.broker,
            btcpay_url=self.simulator.url,
            **self.more,
        )
        self.daemons.append(DaemonProcess(self.directory, told | settings, name))
        return self.daemons[-1]

    async def daemon(self, name: str = "daemon", **settings: str) -> DaemonProcess:
        """Start a daemon, register its webhook at BTCPay, and wait until it is ready and speaks."""
        daemon = self.prepare(name, **settings)
        await daemon.start()
        self.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
        await self.until_ready(daemon)
        return daemon

    async def ready(self, daemon: DaemonProcess) -> tuple[int, dict[str, Any]]:
        async with self.http.get(f"{daemon.url}/health/ready") as response:
            return response.status, await response.json()

    async def until_ready(self, daemon: DaemonProcess, seconds: float = DEADLINE) -> float:
        """Wait for "ready"; a daemon that leads must be connected to the broker for it."""
        seen: dict[str, Any] = {}

        async def fact() -> bool:
            _, body = await self.ready(daemon)
            seen.update(body)
            role = body["checks"]["leadership"]["detail"]
            return body["status"] == "ready" and (role == "leads" or len(self.daemons) > 1)

        return await until(fact, lambda: f"{daemon.name} ready: {seen}\n{daemon.log}", seconds)

    async def order(
        self, daemon: DaemonProcess, user_id: UUID, plan_type: str = "wanderer", *, pack: str | None = None
    ) -> str:
        """Have an invoice made and return BTCPay's id of it."""
        wanted = {"plan_type": plan_type} if pack is None else {"pack": pack}
        async with self.http.post(
            f"{daemon.url}{API}/invoices", json=wanted, headers={"X-User-ID": str(user_id)}
        ) as response:
            body = await response.json()
            assert response.status in {200, 201}, body
            return str(body["invoice_id"])

    async def pay(self, invoice_id: str) -> None:
        await self.simulator.act(invoice_id, "pay", method="BTC-LN")

    async def buy(self, daemon: DaemonProcess, user_id: UUID | None = None, plan: str = "wanderer") -> UUID:
        """Order and pay, and wait for nothing."""
        user_id = user_id or uuid4()
        await self.pay(await self.order(daemon, user_id, plan))
        return user_id

    async def until_published(self, user_id: UUID, seconds: float = DEADLINE, **facts: Any) -> float:
        """Wait until the observer saw a document of the user with these fields."""

        def fact() -> bool:
            document = self.observer.documents.get(user_id, {})
            wanted = facts or {"status": "active"}
            return all(document.get(name) == value for name, value in wanted.items())

        return await until(
            fact,
            lambda: f"{facts or 'active'}, is {self.observer.documents.get(user_id)}\n{self.logs}",
            seconds,
        )

    @property
    def logs(self) -> str:
        return "\n".join(daemon.log for daemon in self.daemons)

    async def retained(self, topic_filter: str) -> dict[str, dict[str, Any]]:
        return await retained(self.broker, topic_filter, **self.identity)

    @contextlib.asynccontextmanager
    async def sql(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def until_covered(self) -> None:
        """Wait until the watermark covers all that the database has."""

        async def fact() -> bool:
            sequence = await self.value("SELECT last_value FROM entitlement_versions")
            documents = await self.value("SELECT count(*) FROM entitlements")
            said = self.observer.watermark
            return (said["sequence"], said["entitlements"]) == (sequence, documents)

        await until(fact, lambda: f"watermark, is {self.observer.watermark}")

    async def execute(self, statement: str, *values: object) -> str:
        async with self.sql() as connection:
            return await connection.execute(statement, *values)

    async def value(self, query: str, *values: object) -> Any:
        async with self.sql() as connection:
            return await connection.fetchval(query, *values)


@contextlib.asynccontextmanager
async def world_around(
    directory: Path, database_url: str, broker: Mosquitto, identity: dict[str, str] | None = None
) -> AsyncIterator[World]:
    """A world whose daemons end with it."""
    identity = identity or {}
    async with (
        Simulator(store_id=STORE, api_key=KEY, retry_waits=(0.05,) * 8) as simulator,
        observing(broker, **identity) as observer,
        # A kept connection may bring one more request, for which a daemon that stops waits a second.
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(force_close=True)
        ) as http,
    ):
        world = World(directory, database_url, broker, simulator, observer, http, identity=identity)
        try:
            yield world
        finally:
            for daemon in world.daemons:
                daemon.remove()
        observer.assert_never_back()
        for daemon in world.daemons:
            assert "Traceback" not in daemon.log, daemon.log
            assert "ResourceWarning" not in daemon.log or not daemon.leaves_in_order, daemon.log


GRANT = quoting(
    WANDERER,
    """
INSERT INTO subscriptions (id, user_id, quote_id, source, status, valid_from, valid_until, messages_limit,
    carried_rule, carried_time, carried_messages)
SELECT gen_random_uuid(), user_id, :quote, 'grant', 'active',
    clock_timestamp() - interval '1 day', $2, 50, 'fresh', '0', 0
FROM unnest($1::uuid[]) AS u (user_id)
""",
)


async def grant(world: World, users: list[UUID], until_time: datetime | None = None) -> None:
    """Give users a wanderer plan by SQL alone, as somebody else's program might."""
    await world.execute(GRANT, users, until_time or datetime.now(UTC) + timedelta(days=30))
