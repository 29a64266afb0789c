"""The least that asks BTCPay before it gives, to see what can be had: `python -m tests.bench.least_service`.

It records a webhook, asks with the client library of the daemon, activates and publishes, each in batches
that form themselves, and opens an invoice with a row before and after. It keeps no history, versions, events,
marks or locks of users, reads nothing again, and survives nothing. Prints the port it listens on.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uvloop
from aiohttp import ClientSession, web

from kosmo_billing_daemon.link import Broker, Link, connect
from kosmo_billing_daemon.runtime.batcher import TOGETHER, Batcher
from tests.bench.fake_btcpay import STORE
from tests.bench.plain_service import (
    AMOUNT,
    CONNECTIONS,
    LIMIT,
    PERIOD,
    PLAN,
    asked,
    is_signed,
    opened,
    publication,
    serve,
)

_RECORD = """
INSERT INTO deliveries
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::uuid[]) ON CONFLICT DO NOTHING
"""

_SETTLE = """
WITH settled AS (
    UPDATE invoices AS i SET status = 'settled', settled_at = $3
    FROM unnest($1::uuid[], $2::uuid[]) AS row (id, subscription_id)
    WHERE i.id = row.id AND i.status <> 'settled'
    RETURNING i.id, i.user_id, i.plan_type, row.subscription_id),
replaced AS (
    UPDATE subscriptions AS s SET status = 'replaced', ended_at = $3
    FROM settled WHERE s.user_id = settled.user_id AND s.status = 'active')
INSERT INTO subscriptions
SELECT subscription_id, user_id, id, plan_type, 'active', $3, $4, NULL, $5 FROM settled
RETURNING user_id, id
"""

_RESERVE = """
INSERT INTO invoices
SELECT id, user_id, $3, $4, 'USD', 'reserved', NULL, NULL, $5
FROM unnest($1::uuid[], $2::uuid[]) AS row (id, user_id)
"""

_OPEN = """
UPDATE invoices AS i SET status = 'new', btcpay_invoice_id = row.btcpay_id, checkout_url = row.url
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS row (id, btcpay_id, url) WHERE i.id = row.id
"""

Delivery = tuple[str, datetime, str, UUID]


class Shop:
    """What both routes do, in batches."""

    def __init__(self, pool: "asyncpg.Pool[Any]", btcpay: ClientSession, link: Link) -> None:
        self._pool, self._btcpay, self._link = pool, btcpay, link
        self._running: set[asyncio.Task[Any]] = set()
        self.records = Batcher(self._record, turns=TOGETHER)
        self.settlements = Batcher(self._settle, most=100)
        self.reservations = Batcher(self._reserve, turns=TOGETHER)
        self.openings = Batcher(self._open, turns=TOGETHER)

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def create(self, invoice_id: UUID) -> Any:
        """Open an invoice at BTCPay."""
        url = f"/api/v1/stores/{STORE}/invoices"
        async with self._btcpay.post(url, json=asked(invoice_id), raise_for_status=True) as answer:
            return await answer.json()

    async def _record(self, deliveries: Sequence[Delivery]) -> list[None]:
        await self._pool.execute(_RECORD, *zip(*deliveries, strict=True))
        return [None] * len(deliveries)

    async def _settle(self, order_ids: Sequence[UUID]) -> list[None]:
        query = "&".join(f"orderId={order_id}" for order_id in order_ids)
        async with self._btcpay.get(f"/api/v1/stores/{STORE}/invoices?{query}") as answer:
            invoices = await answer.json()
        paid = [UUID(one["metadata"]["orderId"]) for one in invoices if one["status"] == "Settled"]
        now = datetime.now(UTC)
        rows = await self._pool.fetch(_SETTLE, paid, [uuid4() for _ in paid], now, now + PERIOD, LIMIT)
        for row in rows:
            topic, payload = publication(row["user_id"], row["id"], now)
            self.later(self._link.publish(topic, payload, retain=True))
        return [None] * len(order_ids)

    async def _reserve(self, orders: Sequence[tuple[UUID, UUID]]) -> list[None]:
        await self._pool.execute(_RESERVE, *zip(*orders, strict=True), PLAN, AMOUNT, datetime.now(UTC))
        return [None] * len(orders)

    async def _open(self, created: Sequence[tuple[UUID, str, str]]) -> list[None]:
        await self._pool.execute(_OPEN, *zip(*created, strict=True))
        return [None] * len(created)


SHOP = web.AppKey("shop", Shop)


async def settle(request: web.Request) -> web.Response:
    body = await request.read()
    if not is_signed(body, request.headers.get("BTCPay-Sig", "")):
        return web.Response(status=403)
    told, shop = json.loads(body), request.app[SHOP]
    order_id = UUID(told["metadata"]["orderId"])
    await shop.records.submit((told["deliveryId"], datetime.now(UTC), told["type"], order_id))
    shop.later(shop.settlements.submit(order_id))
    return web.json_response({"recorded": True})


async def create(request: web.Request) -> web.Response:
    user_id, invoice_id, shop = UUID(request.headers["X-User-ID"]), uuid4(), request.app[SHOP]
    await shop.reservations.submit((invoice_id, user_id))
    created = await shop.create(invoice_id)
    await shop.openings.submit((invoice_id, created["id"], created["checkoutLink"]))
    return opened(created)


async def neighbours(app: web.Application) -> AsyncIterator[None]:
    broker = Broker(
        host=os.environ["MQTT_HOST"], port=int(os.environ["MQTT_PORT"]), client_id="least", clean=True
    )
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS) as pool,
        connect(broker) as link,
        ClientSession(os.environ["BTCPAY_URL"]) as btcpay,
    ):
        app[SHOP] = Shop(pool, btcpay, link)
        yield


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as main:
        main.run(serve(neighbours, settle, create))
