"""From the outbox to the broker and back: nothing is skipped, published twice or held up by others."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.postgres import Connection, Database
from tests.support.intake import PUBLIC, TOPICS, Half, intake
from tests.support.mosquitto import Mosquitto
from tests.support.observer import Observer, observing, retained
from tests.support.world import GRANT, until

USE = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"
IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM outbox)"
DRAWN = "SELECT last_value FROM entitlement_versions"


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Connection]:
    opened = await Database(url=database_url).connect()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as opened:
        yield opened


@pytest.fixture
async def broker() -> AsyncIterator[Mosquitto]:
    async with Mosquitto() as started:
        yield started


@pytest.fixture
async def observer(broker: Mosquitto) -> AsyncIterator[Observer]:
    async with observing(broker) as one:
        yield one


@pytest.fixture
async def half(database_url: str, broker: Mosquitto) -> AsyncIterator[Half]:
    async with intake(database_url, broker.port) as one:
        yield one


async def granted(connection: Connection, *users: UUID) -> None:
    await connection.execute(GRANT, list(users), utc_now() + timedelta(days=30))


async def until_empty(connection: Connection) -> None:
    await until(lambda: connection.fetchval(IS_EMPTY), "an empty outbox")


async def until_covered(connection: Connection, observer: Observer) -> None:
    async def fact() -> bool:
        return bool(observer.watermark["sequence"] == await connection.fetchval(DRAWN))

    await until(fact, lambda: observer.watermark)


@pytest.mark.usefixtures("half")
async def test_a_change_that_commits_late_holds_the_watermark_and_nobody_else(
    database_url: str, connection: Connection, observer: Observer
) -> None:
    late, other = uuid4(), uuid4()
    await granted(connection, late)
    async with connected(database_url) as writer:
        change = writer.transaction()
        await change.start()
        await writer.execute(USE, late)
        drawn = await connection.fetchval(DRAWN)
        await granted(connection, other)
        await until(lambda: other in observer.documents, "the other's document")
        await until_empty(connection)
        await until(lambda: observer.watermark["entitlements"] == 2, lambda: observer.watermark)
        assert observer.watermark["sequence"] < drawn
        await change.commit()
    await until(lambda: observer.documents[late]["messages_used"] == 1, "the late document")
    await until_covered(connection, observer)


@pytest.mark.usefixtures("half")
async def test_acks_that_cannot_be_written_hold_up_no_publication_and_repeat_none(
    database_url: str, connection: Connection, observer: Observer
) -> None:
    first, second = uuid4(), uuid4()
    async with connected(database_url) as holder:
        holding = holder.transaction()
        await holding.start()
        await holder.execute("LOCK TABLE outbox IN SHARE UPDATE EXCLUSIVE MODE")
        await granted(connection, first)
        await until(lambda: first in observer.documents, "the first document")
        await holding.rollback()
        holding = holder.transaction()
        await holding.start()
        await granted(connection, second)
        await holder.execute("SELECT FROM outbox FOR UPDATE")
        await until(lambda: second in observer.documents, "the second document")
        assert observer.watermark["sequence"] < observer.documents[second]["version"]
        await holding.rollback()
    await until_empty(connection)
    await until_covered(connection, observer)
    assert [len(observer.versions[user]) for user in (first, second)] == [1, 1]


@pytest.mark.usefixtures("half")
async def test_many_changes_of_use_are_one_publication_that_answers_all(
    connection: Connection, observer: Observer
) -> None:
    user = uuid4()
    await granted(connection, user)
    await until(lambda: user in observer.documents, "the document")
    for _ in range(30):
        await connection.execute(USE, user)
    await until(lambda: observer.documents[user]["messages_used"] == 30, "all of them")
    await until_empty(connection)
    assert len(observer.versions[user]) <= 3


@pytest.mark.usefixtures("half")
async def test_a_document_whose_row_is_deleted_is_cleared_and_counted_no_more(
    broker: Mosquitto, connection: Connection
) -> None:
    """Also one that comes back: the watermark counts what gates find retained."""
    stays, goes = uuid4(), uuid4()

    async def until_counted(documents: int) -> None:
        async def fact() -> bool:
            found = await retained(broker, f"{TOPICS.prefix}/#")
            held = [topic for topic in found if "/entitlements/" in topic]
            counted: int = found.get(TOPICS.watermark, {}).get("entitlements", 0)
            return counted == documents == len(held)

        await until(fact, f"{documents} documents, counted")

    await granted(connection, stays, goes)
    await until_counted(2)
    async with connection.transaction():
        await connection.execute("DELETE FROM subscriptions WHERE user_id = $1", goes)  # queues the user
        await connection.execute("DELETE FROM entitlements WHERE user_id = $1", goes)
    await until_counted(1)
    await until_empty(connection)
    await granted(connection, goes)
    await until_counted(2)


async def test_what_was_deleted_by_hand_leaves_the_outbox(
    database_url: str, broker: Mosquitto, connection: Connection
) -> None:
    user = uuid4()
    await granted(connection, user)
    await connection.execute(
        "INSERT INTO events (type, user_id, data, occurred_at) VALUES ('x', $1, '{}', now())", user
    )
    await connection.execute("DELETE FROM entitlements")
    await connection.execute("DELETE FROM events")
    async with intake(database_url, broker.port):
        await until_empty(connection)


@pytest.mark.usefixtures("half")
async def test_a_crossed_threshold_is_told_with_a_link_to_more_messages(
    connection: Connection, observer: Observer
) -> None:
    user_id = uuid4()
    await granted(connection, user_id)
    await connection.execute("UPDATE subscriptions SET messages_used = 45 WHERE user_id = $1", user_id)
    await until(lambda: "quota.warning" in observer.events(user_id), "the warning")
    (said,) = (
        json.loads(message.payload)["data"]
        for message in observer.messages
        if message.topic == TOPICS.event("quota.warning")
    )
    assert (said["threshold"], said["topup_url"].startswith(f"{PUBLIC}/r/")) == (80, True)
    assert said["topup_url"].endswith("?pack=extra_50")
    stored = await connection.fetchval("SELECT data ? 'topup_url' FROM events WHERE type = 'quota.warning'")
    assert stored is False, "whoever reads the database can use no link"
