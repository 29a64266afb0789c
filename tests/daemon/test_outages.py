"""BTCPay, the broker or PostgreSQL away: nothing is lost, the same process heals by itself, and says so."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

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


async def test_btcpay_away_delays_a_payment_and_loses_nothing(world: World) -> None:
    daemon = await world.daemon()
    pid, user_id = daemon.pid, uuid4()
    invoice_id = await world.order(daemon, user_id)
    await world.simulator.go_away()
    await world.pay(invoice_id)
    await says(world, daemon, "degraded", "btcpay")
    async with world.http.post(
        f"{daemon.url}{API}/invoices", json={"plan_type": "wanderer"}, headers={"X-User-ID": str(uuid4())}
    ) as response:
        assert response.status == 503
    await world.simulator.come_back()
    await world.until_published(user_id)
    await world.until_ready(daemon)
    assert daemon.pid == pid


async def test_btcpay_silent_delays_a_payment_and_loses_nothing(world: World) -> None:
    daemon = await world.daemon(BTCPAY_TIMEOUT="1")
    user_id = uuid4()
    invoice_id = await world.order(daemon, user_id)
    world.simulator.set_faults(slow_ms=60_000)
    await world.pay(invoice_id)
    await says(world, daemon, "degraded", "btcpay")
    world.simulator.set_faults(slow_ms=0)
    await world.until_published(user_id)
    await world.until_ready(daemon)


async def test_webhooks_lost_while_we_were_away_are_made_up_for(world: World) -> None:
    daemon = await world.daemon()
    user_id = uuid4()
    invoice_id = await world.order(daemon, user_id)
    daemon.kill()
    await world.pay(invoice_id)
    await world.simulator.restart()  # its retries live in its memory
    await daemon.start()
    await world.until_published(user_id)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_broker_away_delays_documents_and_stops_no_payment(world: World, how: str) -> None:
    daemon = await world.daemon(MQTT_KEEPALIVE="2")
    pid = daemon.pid
    before = await world.buy(daemon)
    await world.until_published(before)
    world.broker.kill() if how == "killed" else world.broker.freeze()
    during = await world.buy(daemon)
    await says(world, daemon, "degraded", "broker")
    held = "SELECT EXISTS (SELECT FROM subscriptions WHERE user_id = $1 AND status = 'active')"
    await until(lambda: world.value(held, during), "the subscription")
    waits = "SELECT EXISTS (SELECT FROM outbox WHERE kind = 'rights' AND $1 = ANY (users))"
    assert await world.value(waits, during)
    if how == "killed":
        await world.broker.start()
    else:
        world.broker.thaw()
    assert await world.until_published(during) < 5.0
    await world.until_ready(daemon)

    async def complete() -> bool:
        found = await world.retained(TOPICS.entitlements_filter)
        return {before, during} <= {TOPICS.entitlement_user(topic) for topic in found}

    await until(complete, "both documents")
    # Events are not retained: an observer that came back after the daemon may have missed them.
    await until(lambda: world.value("SELECT NOT EXISTS (SELECT FROM outbox)"), "the acks")
    assert daemon.pid == pid


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_postgresql_away_delays_a_payment_and_loses_nothing(
    own_world: World, own_postgres: EmbeddedPostgres, how: str
) -> None:
    world = own_world
    daemon = await world.daemon()
    pid, paid, user_id = daemon.pid, uuid4(), uuid4()
    before = await world.buy(daemon, paid)
    await world.until_published(before)
    invoice_id = await world.order(daemon, user_id)
    own_postgres.kill() if how == "killed" else own_postgres.freeze()
    await world.pay(invoice_id)
    await says(world, daemon, "unready", "database")
    assert (await world.ready(daemon))[0] == 503
    async with world.http.get(f"{daemon.url}/health/live") as response:
        assert response.status == 200
    if how == "killed":
        await own_postgres.start()
    else:
        own_postgres.thaw()
    await world.until_published(user_id)
    await world.until_ready(daemon)
    assert daemon.pid == pid
    assert await world.value("SELECT count(*) FROM subscriptions") == 2


async def test_sigterm_ends_a_daemon_whose_database_is_frozen(
    own_world: World, own_postgres: EmbeddedPostgres
) -> None:
    daemon = await own_world.daemon()
    own_postgres.freeze()
    await says(own_world, daemon, "unready", "database")
    assert await daemon.stop(seconds=25) == 0
    own_postgres.thaw()


async def test_it_starts_without_the_broker_and_finds_it_later(world: World) -> None:
    world.broker.kill()
    daemon = world.prepare()
    await daemon.start()
    world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
    await says(world, daemon, "degraded", "broker")
    user_id = await world.buy(daemon)
    await world.broker.start()
    await world.until_published(user_id)
    await world.until_ready(daemon)


async def test_it_starts_without_btcpay_and_finds_it_later(world: World) -> None:
    await world.simulator.go_away()
    daemon = world.prepare()
    await daemon.start()
    world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
    async with world.http.get(f"{daemon.url}{API}/plans") as response:
        assert response.status == 200
    await world.simulator.come_back()
    await world.until_published(await world.buy(daemon))


async def test_it_starts_without_postgresql_and_finds_it_later(
    own_world: World, own_postgres: EmbeddedPostgres
) -> None:
    world = own_world
    await own_postgres.stop()
    daemon = world.prepare()
    await daemon.start()
    world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
    status, body = await world.ready(daemon)
    assert (status, body["checks"]["database"]["ok"]) == (503, False)
    async with world.http.post(
        f"{daemon.url}{API}/invoices", json={"plan_type": "wanderer"}, headers={"X-User-ID": str(uuid4())}
    ) as response:
        assert response.status == 503
    await own_postgres.start()
    await world.until_ready(daemon)
    await world.until_published(await world.buy(daemon))


async def test_a_read_only_database_is_told_and_forgotten_as_soon_as_it_takes_writes(world: World) -> None:
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
