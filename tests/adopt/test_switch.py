"""The day of the move: money that comes in meanwhile, the old gateway that counts on, and the way back."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from kosmo_billing_daemon.admin.checks import database
from kosmo_billing_daemon.link import Broker, connect
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.adopt.conftest import INVOICES, SUBSCRIPTIONS, Old
from tests.support.daemon import KEY, STORE, run_process, settings_for
from tests.support.mosquitto import Mosquitto
from tests.support.usage import event, payload
from tests.support.world import World, world_around


async def test_invoice_paid_during_the_switch_activates_once_and_renewal_adds_to_the_adopted_plan(
    old: Old, tmp_path: Path
) -> None:
    during, after, owner, gateway = uuid4(), uuid4(), uuid4(), f"gw_{uuid4().hex[:8]}"
    end = utc_now() + timedelta(days=10, microseconds=7)
    await old.execute(SUBSCRIPTIONS + ";" + INVOICES)
    await _subscribe(old, owner, end)
    async with Mosquitto() as broker, world_around(tmp_path, old.url, broker) as world:
        invoices = {user: await _opened(world, old, user) for user in (during, after)}
        await world.pay(invoices[during])  # v0.1 is stopped: nobody hears of it
        settings = settings_for(database_url=old.url, broker=broker, btcpay_url=world.simulator.url)
        printed = await run_command(settings, "adopt", "run", "--json")
        assert printed["counts"]["open invoices"] == 2

        daemon = await world.daemon()
        await world.until_published(during, plan_type="guardian")
        await world.pay(invoices[after])
        await world.until_published(after, plan_type="guardian")
        await world.simulator.drained()
        for user in (during, after):
            assert await old.value("SELECT count(*) FROM subscriptions WHERE user_id = $1", user) == 1
            entries = await old.fetch("SELECT kind, amount FROM ledger WHERE user_id = $1 ORDER BY id", user)
            assert [(kind, amount) for kind, amount in entries] == [("received", 11), ("sold", -11)]
        assert await old.fetch("SELECT * FROM attention_cases") == []
        assert await old.fetch("SELECT * FROM inquiries") == []

        await world.buy(daemon, owner, "guardian")
        await world.until_published(owner, messages_limit=500 + 400)
        row = (await old.fetch("SELECT * FROM subscriptions WHERE user_id = $1 AND ended_at IS NULL", owner))[
            0
        ]
        assert row["carried_rule"] == "added"
        assert row["valid_until"] - end == timedelta(days=30)

        await _count_twice(old, world, broker, owner, gateway)
    printed = await run_command(settings, "adopt", "undo", code=1)
    assert "cannot be undone" in printed["error"]
    assert "subscription of user" in printed["error"] or "money of user" in printed["error"]


async def _subscribe(old: Old, user: UUID, end: datetime, plan: str = "guardian") -> None:
    await old.execute(
        "INSERT INTO subscriptions (user_id, plan_type, status, valid_from, valid_until, messages_used,"
        " message_limit) VALUES ($1, $2, 'active', $3::timestamptz - interval '30 days', $3, 100, 500)",
        user,
        plan,
        end,
    )


async def _opened(world: World, old: Old, user: UUID) -> str:
    """Have v0.1 open an invoice, with an order id of its own that looks like ours, and a price of its own."""
    url = f"{world.simulator.url}/api/v1/stores/{STORE}/invoices"
    body = {"amount": "11.00", "currency": "USD", "metadata": {"orderId": str(uuid4())}}
    headers = {"Authorization": f"token {KEY}"}
    async with world.http.post(url, json=body, headers=headers) as response:
        made = await response.json()
        assert response.status == 200, made
    await old.execute(
        "INSERT INTO btcpay_invoices VALUES ($1, $2, 'guardian', 11.00, 'USD', 'New', $3, now())",
        made["id"],
        user,
        made["checkoutLink"],
    )
    return str(made["id"])


async def _count_twice(old: Old, world: World, broker: Mosquitto, user: UUID, gateway: str) -> None:
    """An old gateway counts by SQL; when it also reports over MQTT, `check` names both."""
    for statement in (
        f"CREATE ROLE {gateway} LOGIN PASSWORD 'x'",
        f"GRANT USAGE ON SCHEMA kosmo_compat TO {gateway}",
        f"GRANT SELECT, UPDATE ON kosmo_compat.subscriptions TO {gateway}",
        f"ALTER ROLE {gateway} SET search_path = kosmo_compat, public",
    ):
        await old.execute(statement)
    theirs = await asyncpg.connect(old.url, user=gateway, password="x")
    try:
        changed = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"
        await theirs.execute(changed, user)
        await world.until_published(user, 2.0, messages_used=1)
        assert await _complaints(old) == []
        async with connect(Broker(host=broker.host, port=broker.port, client_id="old-gateway")) as link:
            sent = payload([event(user, "m1", utc_now())])
            await link.publish("kosmo/billing/v1/usage/mesh-gateway", sent)
        await world.until_published(user, messages_used=2)
        (complaint,) = await _complaints(old)
        assert f"role {gateway} counts by SQL what mesh-gateway reports over MQTT too" in complaint
    finally:
        await theirs.close()
        await old.execute(f"DROP OWNED BY {gateway}; DROP ROLE {gateway}")


async def _complaints(old: Old) -> list[str]:
    async with Pool(Database(url=old.url)) as pool:
        return [finding.fact async for finding in database.inspect(pool, utc_now) if finding.ok is False]


async def run_command(settings: dict[str, str], *words: str, code: int = 0) -> dict[str, Any]:
    """Run a command of ours; what it says on standard error is under ``error``."""
    ended, out, error = await run_process(*words, settings=settings)
    assert ended == code, (out, error)
    assert "Traceback" not in error, error
    return {"error": error, **(json.loads(out) if out.startswith("{") else {"out": out})}
