"""Rows change by whoever's hand, the platform's own SQL included, and the documents follow."""

import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker
from tests.daemon.conftest import on_shared_loop
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until

COUNT = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"


def documents(world: World, user_id: UUID) -> int:
    return sum(message.topic == TOPICS.entitlement(user_id) for message in world.observer.messages)


async def granted(world: World) -> UUID:
    user_id = uuid4()
    await grant(world, [user_id])
    await world.until_published(user_id)
    return user_id


@on_shared_loop
async def test_messages_counted_in_sql_are_published_once_a_second(shared: World) -> None:
    world, user_id = shared, await granted(shared)
    await world.execute("UPDATE subscriptions SET messages_limit = 1000000 WHERE user_id = $1", user_id)
    await world.until_published(user_id, messages_limit=1_000_000)
    before, began, counted = documents(world, user_id), time.monotonic(), 0
    async with world.sql() as connection:
        while time.monotonic() - began < 2.0:
            await connection.execute(COUNT, user_id)
            counted += 1
    await world.until_published(user_id, messages_used=counted)
    lasted = time.monotonic() - began
    published = documents(world, user_id) - before
    assert counted > 100
    assert 2 <= published <= lasted + 2, f"{published} documents in {lasted:.1f} s"


@on_shared_loop
async def test_a_crossed_threshold_does_not_wait(shared: World) -> None:
    """Unlike other changes of use, which wait for their second: the fastest of three says whether they do."""
    world, waited = shared, defaultdict[str, list[float]](list)
    for _ in range(3):
        user_id = await granted(world)
        await world.execute("UPDATE subscriptions SET messages_used = 39 WHERE user_id = $1", user_id)
        await world.until_published(user_id, messages_used=39)
        await world.execute(COUNT, user_id)
        waited["warning"].append(await world.until_published(user_id, quota_state="warning"))
        await world.execute("UPDATE subscriptions SET messages_used = 50 WHERE user_id = $1", user_id)
        waited["exhausted"].append(await world.until_published(user_id, quota_state="exhausted"))
    assert max(map(min, waited.values())) < 0.3, waited


@on_shared_loop
async def test_a_node_put_on_the_list_in_sql_is_published_at_once(shared: World) -> None:
    world, waited = shared, []
    for _ in range(3):
        user_id = await world.buy(world.daemons[0], plan="guardian")
        await world.until_published(user_id, allowed_nodes=[])
        insert = "INSERT INTO whitelisted_nodes (user_id, node_id, added_at) VALUES ($1, '!0a0b0c0d', now())"
        await world.execute(insert, user_id)
        waited.append(await world.until_published(user_id, allowed_nodes=["!0a0b0c0d"]))
    assert min(waited) < 0.3, waited


@on_shared_loop
async def test_rows_that_a_writer_holds_are_published_once(shared: World) -> None:
    """Nobody else's row is written by publication: what is read, and what is deleted, nobody holds."""
    world, user_id = shared, await granted(shared)
    event = "INSERT INTO events (type, user_id, data, occurred_at) VALUES ('x', $1, '{}', now())"
    async with world.sql() as holder:
        before = documents(world, user_id)
        async with holder.transaction():
            await world.execute("UPDATE subscriptions SET messages_limit = 51 WHERE user_id = $1", user_id)
            await world.execute(event, user_id)
            await holder.execute("SELECT FROM entitlements FOR UPDATE")
            await holder.execute("SELECT FROM events FOR UPDATE")
            await world.until_published(user_id, messages_limit=51)
            await until(lambda: "x" in world.observer.events(user_id), "the event")
            await until(lambda: world.value("SELECT NOT EXISTS (SELECT FROM outbox)"), "the acks")
        assert documents(world, user_id) == before + 1
        assert world.observer.events(user_id).count("x") == 1


async def test_an_older_copy_of_the_database_speaks_above_what_was_published(world: World) -> None:
    daemon = await world.daemon()
    users = [uuid4() for _ in range(5)]
    await grant(world, users)
    await until(lambda: world.observer.watermark["entitlements"] == 5, "the watermark")
    assert await daemon.stop() == 0
    name = world.database_url.rpartition("/")[2]
    older = f"{name}_older"
    server = world.database_url.removesuffix(name) + "postgres"
    original, world.database_url = world.database_url, server
    await world.execute(f'CREATE DATABASE "{older}" TEMPLATE "{name}"')
    world.database_url = original
    await daemon.start()
    for limit in range(60, 70):
        await world.execute("UPDATE subscriptions SET messages_limit = $1", limit)
    for user_id in users:
        await world.until_published(user_id, messages_limit=69)
    sequence = await world.value("SELECT last_value FROM entitlement_versions")
    await until(lambda: world.observer.watermark["sequence"] >= sequence, "the watermark")
    assert await daemon.stop() == 0
    published = {user_id: world.observer.documents[user_id]["version"] for user_id in users}
    world.database_url = original.removesuffix(name) + older
    try:
        restored = await world.daemon("restored")
        for user_id in users:
            await world.until_published(user_id, messages_limit=50)
            assert world.observer.documents[user_id]["version"] > published[user_id]
        assert "restored from a backup" in restored.log
        assert await restored.stop() == 0
    finally:
        world.database_url = server
        await world.execute(f'DROP DATABASE "{older}" WITH (FORCE)')
        world.database_url = original


@on_shared_loop
async def test_a_transaction_left_open_on_one_user_holds_up_nobody_else(
    shared: World, tmp_path: Path
) -> None:
    world, daemon = shared, shared.daemons[0]
    stuck, other = await world.buy(daemon), uuid4()
    await world.until_published(stuck)
    used = "SELECT coalesce(sum(messages_used), 0) FROM subscriptions WHERE user_id = $1"
    broker = Broker(host=world.broker.host, port=world.broker.port, client_id="gateway-1")
    async with Gate(broker, tmp_path / "gate.db", reporter="gateway-1") as gate, world.sql() as writer:
        await gate.ready(20)
        ordered = await world.order(daemon, stuck, "sanctuary")
        change = writer.transaction()
        await change.start()
        await writer.execute(COUNT, stuck)
        await world.pay(ordered)
        gate.record(stuck, "!a1b2c3d4")
        published, counted = [], []
        for _ in range(3):
            other = await world.buy(daemon)
            published.append(await world.until_published(other))
            gate.record(other, "!a1b2c3d4")
            counted.append(await until(partial(world.value, used, other), "usage of the others"))
        assert max(median(published), median(counted)) < 2, (published, counted)
        named = f"rows are locked by pid {writer.get_server_pid()} "
        await until(lambda: named in daemon.log, lambda: daemon.log)
        status, body = await world.ready(daemon)
        assert (status, body["status"]) == (200, "degraded"), body
        assert named in body["checks"]["set_aside"]["detail"]
        await change.commit()
        await world.until_published(stuck, plan_type="sanctuary")
        await until(lambda: gate.status.unacknowledged == 0, lambda: gate.status)
    assert await world.value(used, stuck) == 2
    await world.until_ready(daemon)
    assert daemon.log.count("connected to the broker") == 1
