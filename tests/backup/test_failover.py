"""A standby is promoted that had not received the last commits: gates believe what is said from then on."""

import asyncio
import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker
from tests.backup.servers import Server
from tests.support.daemon import DaemonProcess
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until, world_around

NODE = "!a1b2c3d4"
USERS = 60
BELIEVED_WITHIN = 10.0  # seconds after the standby was promoted
COMPARED_WITHIN = 30.0

REVOKE = (
    "UPDATE subscriptions SET status = 'revoked', ended_at = now() WHERE user_id = $1 AND status = 'active'"
)
USE = "UPDATE subscriptions SET messages_used = (messages_used + 1) % 30 WHERE user_id = ANY ($1::uuid[])"


@dataclass
class Cluster:
    """A primary and its standby."""

    primary: Server
    standby: Server

    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self.primary, self.standby))
        return f"postgresql://kosmo@{hosts}/kosmo?target_session_attrs=read-write"

    async def stop_streaming(self) -> None:
        """What the primary commits from now on never reaches the standby."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self.primary.url("kosmo"))
        try:
            sender = await connection.fetchval("SELECT pid FROM pg_stat_replication")
            os.kill(sender, signal.SIGSTOP)
        finally:
            await connection.close()


@pytest.fixture
def cluster(service_directory: Path) -> Iterator[Cluster]:
    primary, standby = (Server(service_directory / name) for name in ("one", "two"))
    primary.create()
    primary.run("createdb", "kosmo")
    standby.follow(primary)
    try:
        yield Cluster(primary, standby)
    finally:
        for server in (primary, standby):
            with contextlib.suppress(AssertionError):  # one of them was killed
                server.stop()


@pytest.fixture
async def world(tmp_path: Path, cluster: Cluster) -> AsyncIterator[World]:
    async with Mosquitto() as broker, world_around(tmp_path, cluster.url(), broker) as made:
        yield made


@pytest.fixture
async def gate(world: World, tmp_path: Path) -> AsyncIterator[Gate]:
    broker = Broker(host=world.broker.host, port=world.broker.port, client_id="gate")
    async with Gate(broker, tmp_path / "gate.db", reporter="gate") as made:
        yield made


async def use(world: World, users: list[UUID]) -> None:
    """A gateway that counts by SQL, until it is cancelled or the database goes."""
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        async with world.sql() as connection:
            while True:
                await connection.execute(USE, users)
                await asyncio.sleep(0.02)


async def fail_over(
    world: World,
    cluster: Cluster,
    gate: Gate,
    daemon: DaemonProcess,
    *,
    behind: float,
    restarts: bool = False,
) -> None:
    """Lose what gates learnt in the last ``behind`` seconds; they believe what comes after."""
    users = [uuid4() for _ in range(USERS)]
    forgotten, revoked, quiet = users[:3]
    await grant(world, users)
    await until(lambda: all(gate.check(user, NODE) for user in users), lambda: gate.status)
    load = asyncio.create_task(use(world, users[3:]))
    # Right after a watermark, so that the next one tells nothing of what is lost.
    written = world.observer.watermark
    await until(lambda: world.observer.watermark["sequence"] > written["sequence"], "a watermark")
    await cluster.stop_streaming()
    began = time.monotonic()
    never = uuid4()
    await world.execute(REVOKE, revoked)
    await grant(world, [never])
    await until(
        lambda: bool(gate.check(never, NODE)) and not gate.check(revoked, NODE),
        lambda: (gate.status, world.logs),
    )
    await asyncio.sleep(max(0.0, behind - (time.monotonic() - began)))
    await world.execute(USE, [forgotten])
    await world.until_published(forgotten, messages_used=1)
    cluster.primary.kill()
    if restarts:
        daemon.kill()
    await load
    await asyncio.to_thread(cluster.standby.promote)
    # Before any daemon could look at it.
    promoted = time.monotonic()
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(cluster.standby.url("kosmo"))
    try:
        assert await connection.fetchval("SELECT true FROM subscriptions WHERE user_id = $1", never) is None
        await connection.execute(REVOKE, forgotten)
    finally:
        await connection.close()
    if restarts:
        await daemon.start()
    await until(lambda: not gate.check(forgotten, NODE), lambda: (gate.status, world.logs), BELIEVED_WITHIN)
    believed = time.monotonic() - promoted
    # And so does what was never said here: a purchase, a revocation.
    await until(lambda: not gate.check(never, NODE), lambda: (gate.status, world.logs), COMPARED_WITHIN)
    await until(lambda: bool(gate.check(revoked, NODE)), lambda: (gate.status, world.logs), COMPARED_WITHIN)
    assert gate.check(quiet, NODE)
    print(f"believed after {believed:.2f} s, compared after {time.monotonic() - promoted:.2f} s")
    await until(lambda: same(world, gate), lambda: (gate.status, world.logs), COMPARED_WITHIN)
    no_event_id_twice(world)


async def same(world: World, gate: Gate) -> bool:
    """Whether database, broker and gate hold the same version of everybody."""
    async with world.sql() as connection:
        rows = await connection.fetch("SELECT user_id, version FROM entitlements")
    given = {row["user_id"]: row["version"] for row in rows}
    told = {
        TOPICS.entitlement_user(topic): document["version"]
        for topic, document in (await world.retained(TOPICS.entitlements_filter)).items()
    }
    known = {UUID(int=user): entry.version for user, entry in gate._entries.items()}
    return given == told == known


def no_event_id_twice(world: World) -> None:
    told = defaultdict(set)
    for event in world.observer.cloud_events():
        told[event["id"]].add(str(event))
    assert not [events for events in told.values() if len(events) > 1]


@pytest.mark.timeout(180)
async def test_a_gate_believes_a_revocation_after_a_standby_was_promoted(
    world: World, cluster: Cluster, gate: Gate
) -> None:
    daemon = await world.daemon()
    await gate.ready(20)
    await fail_over(world, cluster, gate, daemon, behind=0.2)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("restarts", [False, True], ids=["connected", "restarted"])
@pytest.mark.parametrize("behind", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
async def test_a_gate_believes_a_revocation_whatever_was_lost(
    world: World, cluster: Cluster, gate: Gate, behind: float, *, restarts: bool
) -> None:
    daemon = await world.daemon()
    await gate.ready(20)
    await fail_over(world, cluster, gate, daemon, behind=behind, restarts=restarts)
