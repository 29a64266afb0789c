"""BTCPay, the broker or PostgreSQL away: nothing is lost, and the same process says so and recovers."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.daemon.test_two_daemons import role
from tests.support.daemon import WEBHOOK_SECRET, DaemonProcess
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS
from tests.support.world import World, until, world_around


@pytest.fixture
async def own_postgres(service_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server this test alone may kill and freeze; its database is migrated by the daemon."""
    async with EmbeddedPostgres(service_directory / "postgres", durable=False) as server:
        yield server


@pytest.fixture
async def own_world(
    tmp_path: Path, own_postgres: EmbeddedPostgres, broker: Mosquitto
) -> AsyncIterator[World]:
    async with world_around(tmp_path, own_postgres.url, broker) as world:
        yield world


async def says(world: World, daemon: DaemonProcess, status: str, part: str) -> None:
    """Wait until readiness has this word and blames this part."""
    seen: dict[str, object] = {}

    async def fact() -> bool:
        _, body = await world.ready(daemon)
        seen.update(body)
        return body["status"] == status and not body["checks"].get(part, {"ok": True})["ok"]

    await until(fact, lambda: f"{status} because of {part}: {seen}")


async def test_btcpay_away_or_silent_delays_payments_and_loses_none(world: World) -> None:
    """It is away when the daemon starts, again later, then silent, and at last forgets its webhooks."""
    await world.simulator.go_away()
    daemon = await started(world, BTCPAY_TIMEOUT="1")
    pid = daemon.pid
    async with world.http.get(f"{daemon.url}{API}/plans") as response:
        assert response.status == 200
    assert await order_status(world, daemon) == 503
    await world.simulator.come_back()
    await world.until_published(await world.buy(daemon))

    away, silent, forgotten = uuid4(), uuid4(), uuid4()
    invoice_id = await world.order(daemon, away)
    await world.simulator.go_away()
    await world.pay(invoice_id)
    await says(world, daemon, "degraded", "btcpay")
    assert await order_status(world, daemon) == 503
    await world.simulator.come_back()
    await world.until_published(away)
    await world.until_ready(daemon)

    invoice_id = await world.order(daemon, silent)
    world.simulator.set_faults(slow_ms=60_000)
    await world.pay(invoice_id)
    await says(world, daemon, "degraded", "btcpay")
    world.simulator.set_faults(slow_ms=0)
    await world.until_published(silent)
    await world.until_ready(daemon)
    assert daemon.pid == pid

    invoice_id = await world.order(daemon, forgotten)
    daemon.kill()
    await world.pay(invoice_id)
    await world.simulator.restart()  # its retries live in its memory
    await daemon.start()
    await world.until_published(forgotten)


async def order_status(world: World, daemon: DaemonProcess) -> int:
    """How an order of somebody new is answered."""
    order, buyer = {"plan_type": "wanderer"}, {"X-User-ID": str(uuid4())}
    async with world.http.post(f"{daemon.url}{API}/invoices", json=order, headers=buyer) as response:
        return response.status


async def started(world: World, **settings: str) -> DaemonProcess:
    """A daemon that listens, and is not waited for any longer."""
    daemon = world.prepare(**settings)
    await daemon.start()
    world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
    return daemon


async def test_the_broker_away_or_frozen_delays_documents_and_stops_no_payment(world: World) -> None:
    """It is away when the daemon starts, is killed later, and frozen after that."""
    broker = world.broker
    broker.kill()
    daemon = await started(world, MQTT_KEEPALIVE="2")
    pid = daemon.pid
    users = [await bought_without_the_broker(world, daemon)]
    await broker.start()
    await world.until_published(users[0])
    await world.until_ready(daemon)

    broker.kill()
    users.append(await bought_without_the_broker(world, daemon))
    await broker.start()
    assert await world.until_published(users[1]) < 5.0
    await world.until_ready(daemon)

    broker.freeze()
    users.append(await bought_without_the_broker(world, daemon))
    broker.thaw()
    assert await world.until_published(users[2]) < 5.0
    await world.until_ready(daemon)

    async def complete() -> bool:
        found = await world.retained(TOPICS.entitlements_filter)
        return {*users} <= {TOPICS.entitlement_user(topic) for topic in found}

    await until(complete, "everybody's document")
    # Events are not retained: an observer that came back after the daemon may have missed them.
    await until(lambda: world.value("SELECT NOT EXISTS (SELECT FROM outbox)"), "the acks")
    assert daemon.pid == pid


async def bought_without_the_broker(world: World, daemon: DaemonProcess) -> UUID:
    """Buy while it is away: the subscription is there, and its document waits."""
    user_id = await world.buy(daemon)
    await says(world, daemon, "degraded", "broker")
    held = "SELECT EXISTS (SELECT FROM subscriptions WHERE user_id = $1 AND status = 'active')"
    await until(lambda: world.value(held, user_id), "the subscription")
    waits = "SELECT EXISTS (SELECT FROM outbox WHERE kind = 'rights' AND $1 = ANY (users))"
    assert await world.value(waits, user_id)
    return user_id


async def test_postgresql_away_or_frozen_delays_payments_and_loses_none(
    own_world: World, own_postgres: EmbeddedPostgres
) -> None:
    """It is away when the daemon starts, is killed later, then frozen, and frozen when the daemon ends."""
    world = own_world
    await own_postgres.stop()
    daemon = await started(world)
    pid = daemon.pid
    status, body = await world.ready(daemon)
    assert (status, body["checks"]["database"]["ok"]) == (503, False)
    assert await order_status(world, daemon) == 503
    await own_postgres.start()
    await world.until_ready(daemon)
    await world.until_published(await world.buy(daemon))

    invoice_id = await world.order(daemon, killed := uuid4())
    own_postgres.kill()
    await world.pay(invoice_id)
    await unready_and_alive(world, daemon)
    await own_postgres.start()
    await world.until_published(killed)
    await world.until_ready(daemon)

    invoice_id = await world.order(daemon, frozen := uuid4())
    own_postgres.freeze()
    await world.pay(invoice_id)
    await unready_and_alive(world, daemon)
    own_postgres.thaw()
    await world.until_published(frozen)
    await world.until_ready(daemon)
    assert daemon.pid == pid
    assert await world.value("SELECT count(*) FROM subscriptions") == 3

    own_postgres.freeze()
    assert await daemon.stop(seconds=25) == 0
    own_postgres.thaw()


async def unready_and_alive(world: World, daemon: DaemonProcess) -> None:
    """Wait until readiness blames the database; the process itself is well."""
    await says(world, daemon, "unready", "database")
    assert (await world.ready(daemon))[0] == 503
    async with world.http.get(f"{daemon.url}/health/live") as response:
        assert response.status == 200


async def test_a_read_only_database_is_reported_until_it_takes_writes(world: World) -> None:
    """Seen: leadership won and lost seven times a second, and creations refused long after it was well."""
    daemon = await world.daemon()
    name = urlsplit(world.database_url).path.lstrip("/")
    buyer = {"X-User-ID": str(uuid4())}

    async def answers() -> tuple[int, int]:
        async with world.http.get(f"{daemon.url}{API}/subscription", headers=buyer) as shown:
            pass
        invoices, wanted = f"{daemon.url}{API}/invoices", {"plan_type": "wanderer"}
        async with world.http.post(invoices, json=wanted, headers=buyer) as made:
            return shown.status, made.status

    async def only_reads() -> bool:
        return await answers() == (200, 503)

    async with world.sql() as admin:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'kosmo-billing%' AND datname = current_database()"
        )
        await until(only_reads, lambda: daemon.log)
        await says(world, daemon, "unready", "database")
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert await answers() == (200, 201)
    await until(lambda: role(world, daemon, "leads"), lambda: daemon.log)
    assert daemon.log.count("became leader") == 2
