"""Two daemons on one database: one speaks, the other takes over, and no document goes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

from tests.support.daemon import STORE, WEBHOOK_SECRET, DaemonProcess
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until

HOLDER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE application_name = 'kosmo-billing leader' AND locktype = 'advisory' AND granted
    AND datname = current_database()
"""
COUNT = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"


async def pair(world: World) -> tuple[DaemonProcess, DaemonProcess]:
    """A leader and one who stands by; BTCPay's webhooks arrive at both."""
    leader = await world.daemon("first")
    candidate = world.prepare("second")
    await candidate.start()
    world.simulator.add_webhook(candidate.webhook_url, WEBHOOK_SECRET)
    await until(lambda: role(world, candidate, "stands by"), "one that stands by")
    assert await role(world, leader, "leads")
    return leader, candidate


async def role(world: World, daemon: DaemonProcess, wanted: str) -> bool:
    _, body = await world.ready(daemon)
    return bool(body["checks"]["leadership"]["detail"] == wanted)


@contextlib.asynccontextmanager
async def counting(world: World, *users: object) -> AsyncIterator[None]:
    """Messages are counted all the while, so that documents change all the while."""

    async def work() -> None:
        async with world.sql() as connection:
            while True:
                for user_id in users:
                    await connection.execute(COUNT, user_id)
                    await asyncio.sleep(0.02)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_killed_leader_is_replaced_within_three_seconds(world: World) -> None:
    leader, candidate = await pair(world)
    invoice_id = await world.order(candidate, user_id := uuid4())
    leader.kill()
    await world.pay(invoice_id)
    assert await world.until_published(user_id) < 3.0
    await until(lambda: world.observer.states()[-1] == "online", "the status")
    status = world.observer.last(TOPICS.status)
    assert status is not None
    assert status["instance"] == "second"


async def test_a_stopped_leader_hands_over_at_once(world: World) -> None:
    leader, candidate = await pair(world)
    assert await leader.stop() == 0
    assert await world.until_published(await world.buy(candidate)) < 3.0


async def test_a_webhook_at_the_one_who_stands_by_is_settled_by_the_leader(world: World) -> None:
    leader = await world.daemon("first")
    candidate = world.prepare("second", WEBHOOK_SECRET="")
    await candidate.start()
    await until(lambda: role(world, candidate, "stands by"), "one that stands by")
    world.simulator.set_faults(webhooks={"hold": True})  # BTCPay tells the leader nothing
    user_id = uuid4()
    invoice_id = await world.order(leader, user_id)
    await world.pay(invoice_id)
    hint = {"type": "InvoiceSettled", "invoiceId": invoice_id, "deliveryId": "one", "storeId": STORE}
    async with world.http.post(candidate.webhook_url, json=hint) as response:
        assert response.status == 200
    assert await world.until_published(user_id) < 1.0


async def test_a_frozen_leader_is_replaced_and_says_nothing_stale_when_it_wakes(world: World) -> None:
    leader, candidate = await pair(world)
    user_id = uuid4()
    await grant(world, [user_id])
    await world.until_published(user_id)
    async with counting(world, user_id):
        leader.freeze()
        waited = await until(lambda: role(world, candidate, "leads"), "the other one leads", 25.0)
        assert waited < 18.0
        fresh = await world.buy(candidate)
        await world.until_published(fresh)
        leader.thaw()
        await until(lambda: role(world, leader, "stands by"), lambda: leader.log)
        assert await role(world, candidate, "leads")
    used = await world.value("SELECT messages_used FROM subscriptions WHERE user_id = $1", user_id)
    await world.until_published(user_id, messages_used=used)
    await until(lambda: world.observer.states()[-1] == "online", "the status")
    world.observer.assert_never_back()
    assert await candidate.stop() == 0
    assert await world.until_published(await world.buy(leader)) < 5.0


async def test_a_leader_cut_from_postgresql_alone_leaves_one_who_leads(world: World) -> None:
    leader, candidate = await pair(world)
    pids = leader.pid, candidate.pid
    user_id = uuid4()
    await grant(world, [user_id])
    await world.until_published(user_id)
    async with counting(world, user_id):
        for _ in range(3):
            await until(lambda: world.value(HOLDER), "somebody holds the lock")

            async def one_leads() -> bool:
                return await role(world, leader, "leads") != await role(world, candidate, "leads")

            await until(one_leads, "exactly one leads")
            await world.until_published(await world.buy(leader))
    used = await world.value("SELECT messages_used FROM subscriptions WHERE user_id = $1", user_id)
    await world.until_published(user_id, messages_used=used)
    await until(lambda: world.observer.states()[-1] == "online", "the status")
    assert (leader.pid, candidate.pid) == pids
