"""The broker forgets, or somebody writes to it: what it retains becomes the database's truth again."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.link import Broker, connect
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until, world_around


@pytest.fixture
async def keeping() -> AsyncIterator[Mosquitto]:
    """A broker that saves when it is told to."""
    async with Mosquitto(persistence=True, autosave_interval=0, max_queued_messages=0) as mosquitto:
        yield mosquitto


async def until_complete(world: World, users: set[UUID], seconds: float) -> float:
    async def fact() -> bool:
        found = await world.retained(TOPICS.entitlements_filter)
        return users <= {TOPICS.entitlement_user(topic) for topic in found}

    return await until(fact, "a document of everybody", seconds)


async def test_whatever_it_lost_is_complete_within_five_seconds_of_its_return(
    tmp_path: Path, database_url: str, keeping: Mosquitto
) -> None:
    """Rolled back, killed without saving while others buy, and replaced by an empty one."""
    async with world_around(tmp_path, database_url, keeping) as world:
        daemon = await world.daemon()
        early, late = [uuid4() for _ in range(900)], [uuid4() for _ in range(20)]
        await grant(world, early)
        await world.until_covered()
        await keeping.save()
        await grant(world, late)
        await world.until_covered()
        keeping.kill()
        before = len(daemon.log)
        await keeping.start()
        await until_complete(world, {*early, *late}, 5.0)
        await until(lambda: "connected to the broker" in daemon.log[before:], "the log")
        assert "republishing 20 of 920 documents" in daemon.log[before:]

        published = await world.retained(TOPICS.entitlements_filter)
        keeping.kill()
        keeping.wipe()
        await keeping.start()

        async def buy() -> None:
            while True:
                await grant(world, [uuid4()])

        buying = asyncio.create_task(buy())
        try:
            await until_complete(world, {*early, *late}, 5.0)
            assert not buying.done()
        finally:
            buying.cancel()
            await asyncio.gather(buying, return_exceptions=True)
        # A version is one document, for ever; only when it was issued differs.
        again = await world.retained(TOPICS.entitlements_filter)
        for topic, document in published.items():
            assert again[topic] | {"issued_at": document["issued_at"]} == document

        await keeping.stop()
        keeping.wipe()
        await keeping.start()
        await until_complete(world, {*early, *late}, 5.0)
        await until(lambda: world.observer.states()[-1] == "online", "the status")


async def test_what_was_deleted_altered_or_made_up_by_hand_is_repaired(world: World) -> None:
    daemon = await world.daemon()
    gone, garbage, altered, ahead, untouched = users = [uuid4() for _ in range(5)]
    stranger = uuid4()
    await grant(world, users)
    await world.until_covered()
    truth = {user_id: dict(world.observer.documents[user_id]) for user_id in users}
    assert await daemon.stop() == 0

    def forged(of: UUID, **changes: object) -> bytes:
        return json.dumps(truth[of] | changes).encode()

    wrong_shard = f"{TOPICS.prefix}/entitlements/{(gone.int >> 120 ^ 1):02x}/{gone}"
    written = {
        TOPICS.entitlement(gone): b"",
        TOPICS.entitlement(garbage): b"{",
        TOPICS.entitlement(altered): forged(altered, messages_limit=None),
        TOPICS.entitlement(ahead): forged(ahead, version=truth[ahead]["version"] + 70, status="revoked"),
        TOPICS.entitlement(stranger): forged(gone, user_id=str(stranger), version=5000),
        wrong_shard: forged(gone),
    }
    async with connect(
        Broker(host=world.broker.host, port=world.broker.port, client_id="vandal", clean=True)
    ) as link:
        for topic, payload in written.items():
            await link.publish(topic, payload, retain=True)
    await daemon.start()
    await until(lambda: "held 2 orphaned ones" in daemon.log, lambda: daemon.log)
    assert "lost or altered 4 documents" in daemon.log
    wanted = {TOPICS.entitlement(user_id) for user_id in users}

    async def repaired() -> bool:
        found = await world.retained(TOPICS.entitlements_filter)
        return set(found) == wanted and all(
            document["messages_limit"] == 50 and document["status"] == "active" for document in found.values()
        )

    await until(repaired, "the truth")
    found = await world.retained(TOPICS.entitlements_filter)
    # An edge keeps the greatest version, so what it may have believed needs a greater one.
    assert found[TOPICS.entitlement(altered)]["version"] > truth[altered]["version"]
    assert found[TOPICS.entitlement(ahead)]["version"] > truth[ahead]["version"] + 70
    assert found[TOPICS.entitlement(untouched)]["version"] == truth[untouched]["version"]
    # Nor may what we say of a user later be older than what another past, or a forger, said.
    await grant(world, [stranger])
    await until(lambda: world.observer.documents[stranger]["version"] > 5000, "a version above it")


async def test_without_a_watermark_a_new_leader_gives_all_documents_new_versions(world: World) -> None:
    """The broker lost its memory; the database may have gone back in the same accident."""
    daemon = await world.daemon()
    users = [uuid4() for _ in range(5)]
    await grant(world, users)
    await world.until_covered()
    versions = {user_id: world.observer.documents[user_id]["version"] for user_id in users}
    assert await daemon.stop() == 0
    async with connect(
        Broker(host=world.broker.host, port=world.broker.port, client_id="vandal", clean=True)
    ) as link:
        await link.publish(TOPICS.watermark, b"", retain=True)
    await daemon.start()
    await world.until_covered()
    assert "republishing 5 of 5 documents" in daemon.log
    documents = world.observer.documents
    await until(
        lambda: min(documents[user_id]["version"] for user_id in users) > max(versions.values()),
        "new versions",
    )
    assert "restored from a backup" not in daemon.log
