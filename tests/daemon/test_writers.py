"""Rows change by whoever's hand, the platform's own SQL included, and the documents follow."""

import asyncio
import time
from functools import partial
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until

COUNT = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"


def documents(world: World, user_id: UUID) -> int:
    return sum(message.topic == TOPICS.entitlement(user_id) for message in world.observer.messages)


async def granted(world: World) -> UUID:
    await world.daemon()
    user_id = uuid4()
    await grant(world, [user_id])
    await world.until_published(user_id)
    return user_id


async def test_messages_counted_in_sql_are_published_once_a_second(world: World) -> None:
    user_id = await granted(world)
    await world.execute("UPDATE subscriptions SET messages_limit = 1000000 WHERE user_id = $1", user_id)
    await world.until_published(user_id, messages_limit=1_000_000)
    before, began, counted = documents(world, user_id), time.monotonic(), 0
    async with world.sql() as connection:
        while time.monotonic() - began < 3.0:
            await connection.execute(COUNT, user_id)
            counted += 1
    await world.until_published(user_id, messages_used=counted)
    lasted = time.monotonic() - began
    published = documents(world, user_id) - before
    assert counted > 100
    assert 2 <= published <= lasted + 2, f"{published} documents in {lasted:.1f} s"


async def test_a_crossed_threshold_does_not_wait(world: World) -> None:
    user_id = await granted(world)
    await world.execute("UPDATE subscriptions SET messages_used = 39 WHERE user_id = $1", user_id)
    await world.until_published(user_id, messages_used=39)
    await world.execute(COUNT, user_id)
    assert await world.until_published(user_id, quota_state="warning") < 0.3
    await world.execute("UPDATE subscriptions SET messages_used = 50 WHERE user_id = $1", user_id)
    assert await world.until_published(user_id, quota_state="exhausted") < 0.3


async def test_a_node_put_on_the_list_in_sql_is_published_at_once(world: World) -> None:
    daemon = await world.daemon()
    user_id = await world.buy(daemon, plan="guardian")
    await world.until_published(user_id, allowed_nodes=[])
    insert = "INSERT INTO whitelisted_nodes (user_id, node_id, added_at) VALUES ($1, '!0a0b0c0d', now())"
    await world.execute(insert, user_id)
    assert await world.until_published(user_id, allowed_nodes=["!0a0b0c0d"]) < 0.3


async def test_a_row_that_a_writer_holds_is_not_published_over_and_over(world: World) -> None:
    user_id = await granted(world)
    row = "SELECT FROM entitlements WHERE user_id = $1 FOR UPDATE"
    async with world.sql() as holder, world.sql() as writer:
        change = writer.transaction()
        await change.start()
        await writer.execute("UPDATE subscriptions SET messages_limit = 51 WHERE user_id = $1", user_id)
        holding = holder.transaction()
        await holding.start()
        locked = asyncio.create_task(holder.execute(row, user_id))
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)"
        await until(lambda: world.value(waits, holder.get_server_pid()), "the holder waits")
        before = documents(world, user_id)
        await change.commit()
        await locked  # and so the row is held from the very commit on
        await world.until_published(user_id, messages_limit=51)
        await until(lambda: documents(world, user_id) >= before + 2, "a repetition")
        began, repeated = time.monotonic(), documents(world, user_id)
        await until(lambda: documents(world, user_id) >= repeated + 3, "repetitions")
        assert time.monotonic() - began > 0.25  # a tenth of a second apart, not as fast as they go
        await holding.rollback()
    marked = "SELECT published_version = version FROM entitlements WHERE user_id = $1"
    await until(lambda: world.value(marked, user_id), "the mark")


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
    sequence = await world.value("SELECT max(published_sequence) FROM entitlements")
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


async def test_a_transaction_left_open_on_one_user_holds_up_nobody_else(world: World, tmp_path: Path) -> None:
    daemon = await world.daemon()
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


async def test_an_event_that_somebody_holds_keeps_no_document_from_being_marked(world: World) -> None:
    daemon = world.prepare()
    await daemon.start()
    await world.until_ready(daemon)
    assert await daemon.stop() == 0
    event = "INSERT INTO events (type, user_id, data, occurred_at) VALUES ('x', $1, '{}', now())"
    stuck = uuid4()
    await world.execute(event, stuck)
    async with world.sql() as holder:
        holding = holder.transaction()
        await holding.start()
        await holder.execute("SELECT FROM events WHERE user_id = $1 FOR UPDATE", stuck)
        await daemon.start()
        await until(lambda: TOPICS.event("x") in [m.topic for m in world.observer.messages], "the event")
        users = [uuid4() for _ in range(3)]
        await grant(world, users)
        marked = "SELECT bool_and(NOT waits AND published_version > 0) FROM entitlements"
        for limit in (51, 52):
            await world.execute("UPDATE subscriptions SET messages_limit = $1", limit)
            for user_id in users:
                await world.until_published(user_id, messages_limit=limit)
            assert await until(lambda: world.value(marked), "the marks") < 2
        told = "SELECT count(*) FROM events WHERE user_id = $1 AND published_at IS NULL"
        assert await world.value(told, stuck) == 1
        assert [message.topic for message in world.observer.messages].count(TOPICS.event("x")) == 1
        await holding.rollback()
        await until(lambda: world.value(told.replace("count(*)", "count(*) = 0"), stuck), "its mark")
