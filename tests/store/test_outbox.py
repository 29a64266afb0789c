"""The outbox: what one statement changed is one row, read newest rights first, none skipped, none twice."""

from typing import Any
from uuid import UUID, uuid4

from kosmo_billing_daemon.store import outbox
from kosmo_billing_daemon.store.outbox import Kind, Unpublished
from tests.store.conftest import Connector, Rows

EVENT = """
INSERT INTO events (type, user_id, data, occurred_at) SELECT 'x', $1, '{}', now() FROM generate_series(1, $2)
"""
NOTHING = dict.fromkeys(Kind, 0)
ALL = dict.fromkeys(Kind, 1000)


async def read(rows: Rows, **changes: Any) -> Unpublished:
    arguments: dict[str, Any] = {"known": [], "users": [], "busy": [], "passed": NOTHING, "most": ALL}
    return await outbox.read(rows.connection, **(arguments | changes))


async def test_updates_of_entitlements_touch_no_index(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user, limit=None)
    for limit in range(100, 105):
        await rows.execute(
            "UPDATE subscriptions SET messages_used = messages_used + 1, messages_limit = $1", limit
        )
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
    newest = (await read(rows)).entries[0]
    found = await read(rows, known=[newest.id], most=dict.fromkeys(Kind, 2))
    assert [entry.left for entry in found.entries] == [{users[3]}, {users[2]}]
    assert {document.user_id for document in found.documents} == {users[3], users[2]}
    assert Kind.RIGHTS not in found.complete


async def test_events_go_in_order_a_hundred_in_a_row_of_the_outbox(rows: Rows, user: UUID) -> None:
    await rows.execute(EVENT, user, 250)
    found = await read(rows)
    assert [entry.size for entry in found.entries] == [100, 100, 50]
    ids = [event.id for event in found.events]
    assert ids == sorted(ids)
    assert len(ids) == 250


async def test_what_is_acknowledged_is_deleted_or_taken_out_of_its_row(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user)
    await rows.execute(EVENT, user, 3)
    found = await read(rows)
    rights, event = found.entries
    assert (rights.kind, event.kind) == (Kind.RIGHTS, Kind.EVENT)
    published = found.events[0].id
    event.left.discard(published)
    await outbox.reduce(rows.connection, [event])
    await outbox.delete(rows.connection, [rights])
    again = await read(rows)
    assert [entry.kind for entry in again.entries] == [Kind.EVENT]
    assert published not in {event.id for event in again.events}
    assert len(again.events) == 2


async def test_what_waits_says_whose_first_document_it_makes(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user)
    await rows.execute("UPDATE subscriptions SET messages_limit = 51")
    found = await read(rows)
    (document,) = found.documents
    later, first = found.entries
    assert first.id < document.first_version < later.id < document.versioned.version


async def test_an_id_drawn_before_and_committed_after_is_known_to_be_missing(
    rows: Rows, user: UUID, connect: Connector
) -> None:
    await rows.subscribe(uuid4())  # the quote that all share
    known = [entry.id for entry in (await read(rows)).entries]
    writer = Rows(await connect())
    change = writer.connection.transaction()
    await change.start()
    await writer.subscribe(user)
    await rows.subscribe(uuid4())
    drawn = await outbox.load_drawn(rows.connection)
    found = await read(rows, known=known)
    assert [entry.id < drawn.id for entry in found.entries] == [True]
    assert found.ended <= drawn.before
    await change.commit()
    found = await read(rows, known=[*known, *(entry.id for entry in found.entries)])
    assert found.ended > drawn.before
    assert [entry.left for entry in found.entries] == [{user}]
    assert (await read(rows, passed=dict.fromkeys(Kind, drawn.id))).entries == []


async def test_a_repeated_document_gets_a_new_version_unless_a_writer_holds_it(
    rows: Rows, user: UUID, connect: Connector
) -> None:
    other = uuid4()
    await rows.subscribe(user)
    await rows.subscribe(other)
    before, _ = await rows.versions(user)
    holder = Rows(await connect())
    async with holder.connection.transaction():
        await holder.execute("SELECT FROM entitlements WHERE user_id = $1 FOR UPDATE", other)
        assert await outbox.repeat(rows.connection, [user, other]) == {user}
    assert (await rows.versions(user))[0] > before
    assert [e.left for e in (await read(rows)).entries if e.kind is Kind.REPEAT] == [{user}]
    assert await outbox.count_waiting(rows.connection) == 2
    assert await outbox.count_waiting(rows.connection, [uuid4()]) == 0


async def test_a_publication_costs_the_log_hardly_more_than_its_new_version(rows: Rows) -> None:
    """A lock and an update for each version, and a few records for the one row that names all."""
    users = sorted(uuid4() for _ in range(64))
    raising, records = (
        "SELECT raise_versions($1, $2)",
        "SELECT wal_records FROM pg_stat_get_backend_wal(pg_backend_pid())",
    )
    await rows.execute(raising, users, [True] * 64)
    await outbox.delete(rows.connection, (await read(rows)).entries)
    await rows.execute("SELECT pg_stat_force_next_flush()")
    before = await rows.connection.fetchval(records)
    await rows.execute(raising, users, [True] * 64)
    await outbox.delete(rows.connection, (await read(rows)).entries)
    await rows.execute("SELECT pg_stat_force_next_flush()")
    spent = await rows.connection.fetchval(records) - before
    assert 64 <= spent <= 64 * 2.25
