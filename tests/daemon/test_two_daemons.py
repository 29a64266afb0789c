"""Two daemons on one database: one speaks, the other takes over, and no document goes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

from tests.support.daemon import WEBHOOK_SECRET, DaemonProcess
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until

HOLDER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE application_name = 'kosmo-billing leader' AND locktype = 'advisory' AND granted
    AND datname = current_database()
"""
SOON = 5.0  # seconds on a busy host; a frozen leader is not replaced before twelve
COUNT = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"


async def pair(world: World, *, leader_hears: bool = True) -> tuple[DaemonProcess, DaemonProcess]:
    """A leader and one that stands by; BTCPay's webhooks arrive at both, or at the other one alone."""
    leader, candidate = world.prepare("first"), world.prepare("second")
    await leader.start()
    await until(lambda: role(world, leader, "leads"), "one that leads")
    await candidate.start()
    await until(lambda: role(world, candidate, "stands by"), "one that stands by")
    for daemon in (leader, candidate) if leader_hears else (candidate,):
        world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
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


async def test_a_leader_that_is_killed_or_stops_is_replaced_at_once(world: World) -> None:
    leader, candidate = await pair(world, leader_hears=False)
    assert (
        await world.until_published(await world.buy(leader)) < SOON
    )  # settled by it, though the other heard
    invoice_id = await world.order(candidate, user_id := uuid4())
    leader.kill()
    await world.pay(invoice_id)
    assert await world.until_published(user_id) < SOON
    await until(lambda: world.observer.states()[-1] == "online", "the status")
    status = world.observer.last(TOPICS.status)
    assert status is not None
    assert status["instance"] == "second"
    await leader.start()
    await until(lambda: role(world, leader, "stands by"), "the first one stands by")
    world.simulator.add_webhook(leader.webhook_url, WEBHOOK_SECRET)
    assert await candidate.stop() == 0
    assert await world.until_published(await world.buy(leader)) < SOON


async def test_a_leader_that_loses_its_lock_or_freezes_is_replaced_and_says_nothing_stale(
    world: World,
) -> None:
    """A frozen one whose session was ended, as a candidate ends it after twelve seconds of silence.

    That it does so is proved in tests/test_leadership.py, and with frozen processes in test_three_daemons.py.
    """
    daemons = await pair(world)
    pids = [daemon.pid for daemon in daemons]
    user_id = uuid4()
    await grant(world, [user_id])
    await world.until_published(user_id)

    async def leaders() -> list[DaemonProcess]:
        return [daemon for daemon in daemons if await role(world, daemon, "leads")]

    async def one_leads() -> bool:
        return len(await leaders()) == 1

    async with counting(world, user_id):
        for _ in range(3):
            await until(lambda: world.value(HOLDER), "somebody holds the lock")
            await until(one_leads, "exactly one leads")
            await world.until_published(await world.buy(daemons[0]))
        (leader,) = await leaders()
        (candidate,) = set(daemons) - {leader}
        leader.freeze()
        # It may just have lost the lock, and not know yet: then the other one loses it once more.
        await until(lambda: world.value(HOLDER), "somebody holds the lock")
        await until(lambda: role(world, candidate, "leads"), "the other one leads")
        await world.until_published(await world.buy(candidate))
        leader.thaw()
        await until(lambda: role(world, leader, "stands by"), lambda: leader.log)
        assert await role(world, candidate, "leads")
    used = await world.value("SELECT messages_used FROM subscriptions WHERE user_id = $1", user_id)
    await world.until_published(user_id, messages_used=used)
    await until(lambda: world.observer.states()[-1] == "online", "the status")
    world.observer.assert_never_back()
    assert [daemon.pid for daemon in daemons] == pids
    assert await candidate.stop() == 0
    assert await world.until_published(await world.buy(leader)) < SOON
