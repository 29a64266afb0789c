"""A database that answers and is no use: the daemon says what to do, answers 503, and heals afterwards."""

import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from kosmo_billing_daemon.contract.paths import API
from tests.support.daemon import WEBHOOK_SECRET, DaemonProcess
from tests.support.mosquitto import Mosquitto
from tests.support.roles import gone, made
from tests.support.world import World, until, world_around


@pytest.fixture
async def bare_world(tmp_path: Path, empty_database_url: str, broker: Mosquitto) -> AsyncIterator[World]:
    """An installation whose database has no schema yet."""
    async with world_around(tmp_path, empty_database_url, broker) as world:
        yield world


async def until_told(world: World, daemon: DaemonProcess, words: str) -> None:
    told = ""

    async def fact() -> bool:
        nonlocal told
        status, body = await world.ready(daemon)
        told = body["checks"]["database"]["detail"]
        return status == 503 and words in told

    await until(fact, lambda: f"unready because of {words}: {told}\n{daemon.log}")


async def statuses(world: World, daemon: DaemonProcess) -> list[int]:
    """How a reading, a stream, an order and a webhook are answered."""
    body = b'{"deliveryId":"D1","type":"InvoiceSettled","invoiceId":"x"}'
    signature = hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
    user = {"X-User-ID": str(uuid4())}
    http, answered = world.http, []
    for request in (
        http.get(f"{daemon.url}{API}/subscription", headers=user),
        http.get(f"{daemon.url}{API}/subscription/events", headers=user),
        http.post(f"{daemon.url}{API}/invoices", headers=user, json={"plan_type": "wanderer"}),
        http.post(daemon.webhook_url, headers={"BTCPay-Sig": f"sha256={signature}"}, data=body),
    ):
        async with request as response:
            answered.append(response.status)
    return answered


async def test_missing_rights_are_waited_out_from_an_empty_database_to_a_purchase(bare_world: World) -> None:
    world = bare_world
    async with world.sql() as owner:
        poor = await made(world.database_url, owner)
        daemon = world.prepare(DATABASE_URL=poor.url)
        await daemon.start()
        pid = daemon.pid
        await until_told(world, daemon, "GRANT USAGE, CREATE ON SCHEMA public TO")
        for _ in range(3):
            assert await statuses(world, daemon) == [503, 503, 503, 503]
        async with world.http.get(f"{daemon.url}/metrics") as response:
            assert response.status == 200
            assert "kosmo_billing_database_up 0.0" in await response.text()
        assert daemon.log.count("request failed: a dependency is unreachable") == 1
        await poor.obtain(to_migrate=True)
        await world.until_ready(daemon)
        world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
        await owner.execute(f'REVOKE ALL ON SEQUENCE observations FROM "{poor.name}"')
        await until_told(world, daemon, "GRANT USAGE, SELECT, UPDATE ON SEQUENCE public.observations TO")
        user_id = await world.buy(daemon)
        await until(lambda: "permission denied for sequence observations" in daemon.log, lambda: daemon.log)
        await poor.obtain()
        await world.until_published(user_id)
        assert daemon.pid == pid
        assert "Traceback" not in daemon.log
        assert await daemon.stop() == 0
        await gone(poor)


async def test_a_database_of_another_encoding_is_named_until_there_is_one_that_keeps_every_name(
    bare_world: World,
) -> None:
    world = bare_world
    name = f"{world.database_url.rpartition('/')[2]}_latin"
    url = world.database_url.rpartition("/")[0] + f"/{name}"
    async with world.sql() as owner:
        try:
            await owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
            daemon = world.prepare(DATABASE_URL=url)
            await daemon.start()
            await until_told(world, daemon, "encoded in LATIN1")
            assert await statuses(world, daemon) == [503, 503, 503, 503]
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await owner.execute(f"CREATE DATABASE {name}")
            await world.until_ready(daemon)
            await daemon.stop()
        finally:
            await owner.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
