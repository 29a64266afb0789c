"""A backup taken while the daemon runs, and the commands an operator types to go back to it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.backup.servers import ROLE, Server
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, until, world_around

pytestmark = pytest.mark.timeout(180)  # a server of its own, and daemons on it


UNEQUAL = """
SELECT count(*) FROM btcpay_invoices AS i FULL JOIN subscriptions AS s ON s.invoice_id = i.id
WHERE (i.effect = 'fulfilled') IS DISTINCT FROM (s.id IS NOT NULL)
"""


@pytest.fixture
def server(service_directory: Path) -> Iterator[Server]:
    made = Server(service_directory / "server")
    made.create()
    try:
        made.run("createdb", "kosmo")
        yield made
    finally:
        made.stop()


@pytest.fixture
async def world(tmp_path: Path, server: Server) -> AsyncIterator[World]:
    async with Mosquitto() as broker, world_around(tmp_path, server.url("kosmo"), broker) as made:
        yield made


async def test_a_backup_is_whole_and_once_restored_speaks_above_everything_that_was_published(
    world: World, server: Server
) -> None:
    """Taken in the middle of purchases: every purchase in it is there with its invoice, or not at all."""
    daemon = await world.daemon()
    kept = await world.buy(daemon)
    await world.until_published(kept, messages_limit=50)
    buyers = [asyncio.create_task(world.buy(daemon)) for _ in range(20)]
    backup = str(server.directory / "kosmo.dump")
    await asyncio.to_thread(server.run, "pg_dump", "--format=custom", f"--file={backup}", "kosmo")
    for user_id in await asyncio.gather(*buyers):
        await world.until_published(user_id)

    lost = await world.buy(daemon)
    await world.until_published(lost)
    await world.buy(daemon, kept)
    await world.until_published(kept, messages_limit=100)
    published = max(max(versions) for versions in world.observer.versions.values())
    assert world.observer.watermark["version_ceiling"] >= published
    sequence = await world.value("SELECT last_value FROM entitlement_versions")
    await until(lambda: world.observer.watermark["sequence"] >= sequence, "the watermark")
    assert await daemon.stop() == 0

    await asyncio.to_thread(server.run, "dropdb", "kosmo")
    await asyncio.to_thread(server.run, "createdb", f"--owner={ROLE}", "kosmo")
    restore = ("--exit-on-error", "--no-owner", "--dbname=kosmo", backup)
    await asyncio.to_thread(server.run, "pg_restore", *restore)
    assert await world.value(UNEQUAL) == 0
    assert await world.value("SELECT count(*) FROM kosmo_billing_migrations") >= 1

    await daemon.start()
    await world.until_published(kept, messages_limit=50)
    assert world.observer.documents[kept]["version"] > published
    assert "restored from a backup" in daemon.log
    # Nobody in the database: the document that was left on the broker is cleared.
    await until(lambda: _is_cleared(world, lost), "the orphan is cleared")
    new = await world.buy(daemon, uuid4())
    await world.until_published(new)
    assert world.observer.documents[new]["version"] > published


def _is_cleared(world: World, user: object) -> bool:
    mine = [message for message in world.observer.messages if message.topic.endswith(str(user))]
    return mine[-1].payload == b""
