"""The service one would write first, to compare with: `python -m tests.bench.plain_service`.

One aiohttp handler per webhook: check the signature, five statements in one transaction, one awaited aiomqtt
publication, 200. It believes the webhook. And one that creates an invoice with httpx as it comes, then a row.
Pool, event loop, server and broker as the daemon has them. Prints the port it listens on.
"""

import asyncio
import hmac
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiomqtt
import asyncpg
import httpx
import uvloop
from aiohttp import web

from tests.bench.fake_btcpay import STORE

SCHEMA = """
CREATE TABLE invoices (
    id uuid PRIMARY KEY, user_id uuid NOT NULL, plan_type text NOT NULL, amount numeric NOT NULL,
    currency text NOT NULL, status text NOT NULL, btcpay_invoice_id text UNIQUE, checkout_url text,
    created_at timestamptz NOT NULL, settled_at timestamptz);
CREATE INDEX invoices_by_user ON invoices (user_id, created_at DESC);
CREATE TABLE deliveries (
    delivery_id text PRIMARY KEY, received_at timestamptz NOT NULL, type text NOT NULL, invoice_id uuid);
CREATE TABLE subscriptions (
    id uuid PRIMARY KEY, user_id uuid NOT NULL, invoice_id uuid NOT NULL UNIQUE REFERENCES invoices (id),
    plan_type text NOT NULL, status text NOT NULL, valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL, ended_at timestamptz, messages_limit bigint,
    messages_used bigint NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX subscriptions_current ON subscriptions (user_id) WHERE status = 'active';
"""

PLAN, AMOUNT, LIMIT, PERIOD = "wanderer", 5, 50, timedelta(days=30)
CONNECTIONS = 10  # as the daemon's pool
SECRET = os.environ.get("WEBHOOK_SECRET", "").encode()

POOL = web.AppKey("pool", asyncpg.Pool)
MQTT = web.AppKey("mqtt", aiomqtt.Client)
HTTP = web.AppKey("http", httpx.AsyncClient)


def publication(user_id: UUID, subscription_id: UUID, now: datetime) -> tuple[str, bytes]:
    """Return the topic and the document of who has the plan from now on."""
    document = {
        "version": int(now.timestamp() * 1e6),
        "user_id": str(user_id),
        "plan_type": PLAN,
        "status": "active",
        "scope": "any_node",
        "allowed_nodes": [],
        "features": [],
        "messages_limit": LIMIT,
        "messages_used": 0,
        "quota_state": "ok",
        "subscription_id": str(subscription_id),
        "valid_from": now.isoformat(),
        "valid_until": (now + PERIOD).isoformat(),
        "grace_until": None,
        "issued_at": now.isoformat(),
    }
    topic = f"plain/entitlements/{user_id.hex[:2]}/{user_id}"
    return topic, json.dumps(document, separators=(",", ":")).encode()


def asked(invoice_id: UUID) -> dict[str, Any]:
    """Return the body that opens an invoice at BTCPay."""
    return {"amount": str(AMOUNT), "currency": "USD", "metadata": {"orderId": str(invoice_id)}}


def opened(created: Mapping[str, Any]) -> web.Response:
    """Return the answer with the invoice that BTCPay created."""
    shown = {"invoice_id": created["id"], "checkout_url": created["checkoutLink"], "amount": AMOUNT}
    return web.json_response(shown | {"currency": "USD", "plan_type": PLAN, "status": "new"}, status=201)


def is_signed(body: bytes, signature: str) -> bool:
    return hmac.compare_digest(signature, "sha256=" + hmac.digest(SECRET, body, "sha256").hex())


async def settle(request: web.Request) -> web.Response:
    body = await request.read()
    if not is_signed(body, request.headers.get("BTCPay-Sig", "")):
        return web.Response(status=403)
    await grant(request.app[POOL], request.app[MQTT], json.loads(body))
    return web.json_response({"recorded": True})


async def grant(pool: "asyncpg.Pool[Any]", mqtt: aiomqtt.Client, told: Mapping[str, Any]) -> None:
    """Do what the webhook says, unless it was done before."""
    invoice_id, now, subscription_id = UUID(told["metadata"]["orderId"]), datetime.now(UTC), uuid4()
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO deliveries VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            told["deliveryId"], now, told["type"], invoice_id,
        )  # fmt: skip
        invoice = await connection.fetchrow("SELECT * FROM invoices WHERE id = $1 FOR UPDATE", invoice_id)
        if invoice is None or invoice["status"] == "settled":
            return
        user_id = invoice["user_id"]
        await connection.execute(
            "UPDATE subscriptions SET status = 'replaced', ended_at = $2"
            " WHERE user_id = $1 AND status = 'active'",
            user_id, now,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO subscriptions VALUES ($1, $2, $3, $4, 'active', $5, $6, NULL, $7)",
            subscription_id, user_id, invoice_id, invoice["plan_type"], now, now + PERIOD, LIMIT,
        )  # fmt: skip
        await connection.execute(
            "UPDATE invoices SET status = 'settled', settled_at = $2 WHERE id = $1", invoice_id, now
        )
    topic, payload = publication(user_id, subscription_id, now)
    await mqtt.publish(topic, payload, qos=1, retain=True)


async def create(request: web.Request) -> web.Response:
    user_id, invoice_id, now = UUID(request.headers["X-User-ID"]), uuid4(), datetime.now(UTC)
    answer = await request.app[HTTP].post(f"/api/v1/stores/{STORE}/invoices", json=asked(invoice_id))
    answer.raise_for_status()
    created = answer.json()
    await request.app[POOL].execute(
        "INSERT INTO invoices VALUES ($1, $2, $3, $4, 'USD', 'new', $5, $6, $7)",
        invoice_id, user_id, PLAN, AMOUNT, created["id"], created["checkoutLink"], now,
    )  # fmt: skip
    return opened(created)


async def neighbours(app: web.Application) -> AsyncIterator[None]:
    quiet = logging.getLogger("plain.mqtt")
    quiet.setLevel(logging.ERROR)  # aiomqtt warns of every call while ten others wait
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS) as pool,
        aiomqtt.Client(
            os.environ["MQTT_HOST"],
            int(os.environ["MQTT_PORT"]),
            identifier=f"plain-{os.getpid()}",
            logger=quiet,
        ) as mqtt,
        httpx.AsyncClient(base_url=os.environ["BTCPAY_URL"]) as http,
    ):
        app[POOL], app[MQTT], app[HTTP] = pool, mqtt, http
        yield


async def serve(
    neighbours: Callable[[web.Application], AsyncIterator[None]],
    settle: Callable[[web.Request], Awaitable[web.Response]],
    create: Callable[[web.Request], Awaitable[web.Response]],
) -> None:
    """Serve these two routes for ever; prints the port."""
    app = web.Application()
    app.cleanup_ctx.append(neighbours)
    app.add_routes([web.post("/webhook", settle), web.post("/invoices", create)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    sys.stdout.close()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as main:
        main.run(serve(neighbours, settle, create))
