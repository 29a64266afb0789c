"""PostgreSQL without disk, connections or speed: reported, and waited for.

Seen failing: without ``Pool.refusal`` a full disk was "ready" and ``database_up`` 1; with a leadership check
that is always well, a daemon without a connection for the lock "stood by" and was "ready", and nobody led.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.faults.disk import Disk
from tests.faults.signs import logs, measures, metrics, says
from tests.support.daemon import DaemonProcess
from tests.support.world import World, until

ACTIVE = "SELECT count(*) FROM subscriptions WHERE user_id = $1 AND status = 'active'"


async def once(world: World, users: list[UUID]) -> None:
    """Each of them has one subscription and no more, and the world knows."""
    for user_id in users:
        await world.until_published(user_id)
        assert await world.value(ACTIVE, user_id) == 1
    count = "SELECT count(*) FROM subscriptions WHERE user_id = ANY ($1)"
    assert await world.value(count, users) == len(users)


async def recovers(world: World, daemon: DaemonProcess, paid: list[UUID], pid: int) -> float:
    """Wait until everybody who paid has the plan, then buy again; returns the seconds of the waiting."""
    waited = 0.0
    for user_id in paid:
        waited += await world.until_published(user_id)
    await once(world, [*paid, await world.buy(daemon)])
    await world.until_ready(daemon)
    assert daemon.pid == pid
    return waited


@pytest.mark.soak  # it mounts a file system, which not every host allows
async def test_a_full_disk_is_named_and_what_was_paid_meanwhile_is_kept(
    world_on_small_disk: World, small_disk: Disk
) -> None:
    world = world_on_small_disk
    daemon = await world.daemon()
    pid, paid = daemon.pid, [await world.buy(daemon)]
    await world.until_published(paid[0])
    ordered = [(user_id := uuid4(), await world.order(daemon, user_id)) for _ in range(20)]
    small_disk.fill()
    for user_id, invoice_id in ordered:  # the pages that are there have room for some of them
        await world.pay(invoice_id)
        paid.append(user_id)
    await says(world, daemon, "unready", "database", "No space left on device")
    await measures(world, daemon, "database_up", 0)
    await logs(daemon, "No space left on device")
    small_disk.make_room()
    print(f"disk full: recovered in {await recovers(world, daemon, paid, pid):.2f} s")


@contextlib.asynccontextmanager
async def no_connection_left(server: EmbeddedPostgres, daemon: DaemonProcess) -> AsyncIterator[None]:
    """Others hold every connection there is, those of the daemon too: it is stopped while they take them."""
    ours = "FROM pg_stat_activity WHERE application_name LIKE 'kosmo-billing%'"
    held: list[asyncpg.Connection[Any]] = [await asyncpg.connect(server.url)]
    daemon.freeze()
    try:
        await held[0].execute(f"SELECT pg_terminate_backend(pid) {ours}")
        await until(lambda: held[0].fetchval(f"SELECT count(*) = 0 {ours}"), "the end of its connections")
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                held.append(await asyncpg.connect(server.url))
        daemon.thaw()
        yield
    finally:
        daemon.thaw()
        for connection in held:
            connection.terminate()


@pytest.mark.asyncio(loop_scope="module")
async def test_connections_taken_by_others_are_named_and_waited_for(
    own_world: World, own_postgres: EmbeddedPostgres
) -> None:
    world, daemon = own_world, own_world.daemons[0]
    pid, user_id = daemon.pid, uuid4()
    invoice_id = await world.order(daemon, user_id)
    async with no_connection_left(own_postgres, daemon):
        await says(world, daemon, "unready", "leadership", "no connection")
        await measures(world, daemon, "leader", 0)
        await logs(daemon, "no leadership without the database")
        await world.pay(invoice_id)
    print(f"connections exhausted: recovered in {await recovers(world, daemon, [user_id], pid):.2f} s")


async def crowd(world: World, daemon: DaemonProcess) -> list[UUID]:
    """Twenty buy at once and are told so."""
    users = list(await asyncio.gather(*(world.buy(daemon) for _ in range(20))))
    for user_id in users:
        await world.until_published(user_id)
    return users


async def slow_commits(world: World) -> None:
    """Make every flush of the log 100 ms longer, as a disk with a slow fsync would."""
    await world.execute("ALTER SYSTEM SET commit_siblings = 0")
    await world.execute("ALTER SYSTEM SET commit_delay = 100000")
    await world.execute("SELECT pg_reload_conf()")
    slow_now = "SELECT setting = '100000' FROM pg_settings WHERE name = 'commit_delay'"
    await until(lambda: world.value(slow_now), "the slow disk")


async def stalled_commits(world: World) -> None:
    """Let reads be answered and no commit return, as with a disk that takes no write any more."""
    await world.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await world.execute("SELECT pg_reload_conf()")


async def quick_commits(world: World) -> None:
    await world.execute("ALTER SYSTEM RESET ALL")
    await world.execute("SELECT pg_reload_conf()")


@pytest.mark.asyncio(loop_scope="module")
async def test_slow_commits_are_named_and_lose_nothing(own_world: World) -> None:
    """First each takes a tenth of a second longer, then none returns at all.

    Fails without ``timed`` in ``Pool.transaction``: nothing is said of slow commits, and stalled ones are
    "ready" while nobody can buy.
    """
    world, daemon = own_world, own_world.daemons[0]
    pid, paid = daemon.pid, []
    await slow_commits(world)
    paid += await crowd(world, daemon)

    async def go_on() -> None:
        while True:
            paid.append(await world.buy(daemon))
            await world.until_published(paid[-1])

    buying = asyncio.create_task(go_on())
    slow = await says(world, daemon, "degraded", "commits", "commits take 0.")
    await logs(daemon, "the database's disk is slow")
    buying.cancel()
    await asyncio.gather(buying, return_exceptions=True)
    seen = await metrics(world, daemon)
    assert seen["commit_seconds_count"] > seen['commit_seconds_bucket{le="0.1"}']
    ordered = await world.order(daemon, stalled := uuid4())
    await stalled_commits(world)
    await world.pay(ordered)
    stalled_for = await says(world, daemon, "unready", "database", "a commit was waited for")
    await measures(world, daemon, "database_up", 0)
    await quick_commits(world)
    recovered = await recovers(world, daemon, [*paid, stalled], pid)
    print(f"slow disk: named after {slow:.1f} s, its stall after {stalled_for:.1f} s")
    print(f"recovered in {recovered:.2f} s")
    await logs(daemon, "commits are quick again")
