"""What is raised and marked with every message stays cheap, and the newest change of rights goes first."""

import asyncio
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.store import outbox, usage
from kosmo_billing_daemon.store.errors import RetryTransaction
from kosmo_billing_daemon.store.usage import Columns
from tests.store.conftest import Connector, Rows
from tests.support.usage import NOW
from tests.support.world import until


async def test_further_use_of_a_waiting_document_touches_no_index(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user, limit=None)
    for _ in range(5):
        await rows.execute("UPDATE subscriptions SET messages_used = messages_used + 1")
    await rows.execute("SELECT pg_stat_force_next_flush()")
    row = await rows.connection.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'entitlements'"
    )
    assert row is not None
    assert tuple(row) == (5, 5)


async def test_the_newest_change_of_rights_goes_first(rows: Rows) -> None:
    users = [uuid4() for _ in range(5)]
    for user in users:
        await rows.subscribe(user)
    found = await outbox.load(
        rows.connection,
        documents=2,
        events=2,
        but=[users[4]],
        but_used=users,
        but_events=[],
        told_before=NOW,
        now=NOW,
    )
    assert {versioned.entitlement.user_id for versioned in found.urgent} == {users[3], users[2]}


async def test_two_writers_of_one_message_count_it_once(connect: Connector) -> None:
    """Nothing locks a user who bought nothing: the key alone decides, and the loser tries again."""
    one, other = await connect(), await connect()
    event = Columns(
        user_id=[str(uuid4())],
        message_id=["m"],
        node_id=[None],
        count=[1],
        sent_at=[NOW],
        report=[0],
        reporters=["gateway"],
    )
    first = one.transaction()
    await first.start()
    assert await usage.count(one, event, NOW) == [1]
    second = asyncio.create_task(usage.count(other, event, NOW))
    observer = await connect()
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)"
    await until(lambda: observer.fetchval(waits, other.get_server_pid()), "the second waits")
    await first.commit()
    with pytest.raises(RetryTransaction):
        await second
    assert await usage.count(other, event, NOW) == [0]
