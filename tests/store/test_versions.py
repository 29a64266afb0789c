"""A user's version rises with whatever the document shows, whoever writes; nothing else raises it (R12)."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.entitlements import quota_state
from tests.store.conftest import Connector, Rows
from tests.support.quotes import GUARDIAN, quoting

NODE = "!0000000a"


class Listener:
    """What was notified on the channel."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection
        self.payloads: list[str] = []

    async def start(self) -> None:
        await self._connection.add_listener("kosmo_billing", self._heard)

    def _heard(self, *received: Any) -> None:
        self.payloads.append(received[3])

    async def told(self) -> list[str]:
        """What came until now: notifications arrive before the answer to a later statement."""
        await self._connection.execute("SELECT 1")
        return self.payloads


@pytest.fixture
async def listener(connect: Connector) -> Listener:
    listening = Listener(await connect())
    await listening.start()
    return listening


async def test_first_subscription_makes_a_document_at_once(rows: Rows, user: UUID) -> None:
    assert await rows.versions(user) == (0, 0)
    await rows.subscribe(user)
    version, rights = await rows.versions(user)
    assert (version > 0, rights) == (True, 1)


@pytest.mark.parametrize(
    ("change", "is_urgent"),
    [
        ("messages_used = messages_used + 1", False),
        ("messages_used = 39", False),
        ("messages_used = 40", True),
        ("messages_used = 49", True),
        ("messages_used = 50", True),
        ("messages_limit = 51", True),
        ("messages_limit = NULL", True),
        ("status = 'expired', ended_at = now()", True),
        ("status = 'revoked', ended_at = now()", True),
        ("valid_until = valid_until + interval '1 day'", True),
        ("grace_until = valid_until + interval '1 day'", True),
        (f"quote_id = quote_id({GUARDIAN})", True),
    ],
)
async def test_update_raises_the_version(rows: Rows, user: UUID, change: str, is_urgent: bool) -> None:
    await rows.subscribe(user)
    await rows.execute(quoting(GUARDIAN, "SELECT"))
    before, _ = await rows.versions(user)
    await rows.execute(f"UPDATE subscriptions SET {change} WHERE user_id = $1", user)  # noqa: S608  from the list
    version, rights = await rows.versions(user)
    assert version > before
    assert rights == (2 if is_urgent else 1)


@pytest.mark.parametrize(
    ("used", "then", "is_urgent"),
    [(40, 41, False), (40, 49, False), (49, 50, True), (50, 51, False), (45, 3, True)],
)
async def test_only_a_crossed_threshold_or_a_reset_is_urgent(
    rows: Rows, user: UUID, used: int, then: int, is_urgent: bool
) -> None:
    await rows.subscribe(user)
    await rows.execute("UPDATE subscriptions SET messages_used = $1", used)
    _, before = await rows.versions(user)
    await rows.execute("UPDATE subscriptions SET messages_used = $1", then)
    _, rights = await rows.versions(user)
    assert rights == before + is_urgent


@pytest.mark.parametrize(
    "change",
    [
        "reminder_hours = 24",
        "reason = 'x'",
        "messages_used = messages_used",
        "status = status",
        "carried_messages = 5",
    ],
)
async def test_column_that_no_document_shows_raises_nothing(
    rows: Rows, user: UUID, listener: Listener, change: str
) -> None:
    await rows.subscribe(user)
    before = await rows.versions(user)
    (await listener.told()).clear()
    await rows.execute(f"UPDATE subscriptions SET {change}")  # noqa: S608  from the list above
    assert await rows.versions(user) == before
    assert await listener.told() == []


async def test_deleting_raises_the_version(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user)
    before, _ = await rows.versions(user)
    await rows.execute("DELETE FROM subscriptions WHERE user_id = $1", user)
    version, rights = await rows.versions(user)
    assert (version > before, rights) == (True, 2)


async def test_subscription_moved_to_another_user_raises_both(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user)
    before, _ = await rows.versions(user)
    other = uuid4()
    await rows.execute("UPDATE subscriptions SET user_id = $1", other)
    version, rights = await rows.versions(user)
    assert (version > before, rights) == (True, 2)
    assert (await rows.versions(other))[1] == 1


async def test_statement_over_many_rows_raises_each_user_once(rows: Rows) -> None:
    users = [uuid4() for _ in range(5)]
    for user in users:
        await rows.subscribe(user, status="expired")
        await rows.subscribe(user, status="expired")
        await rows.subscribe(user)
    before = {user: (await rows.versions(user))[0] for user in users}
    given_before = await rows.connection.fetchval("SELECT last_value FROM entitlement_versions")
    await rows.execute("UPDATE subscriptions SET messages_used = 50")
    for user in users:
        assert (await rows.versions(user))[0] > before[user]
    # One for each user, one for the row of the outbox that names them all, and two for that of their events.
    drawn = await rows.connection.fetchval("SELECT last_value FROM entitlement_versions")
    events = await rows.connection.fetchval("SELECT count(*) FROM outbox WHERE kind = 'event'")
    assert drawn == given_before + 5 + 1 + events
    queued = await rows.connection.fetchval("SELECT users FROM outbox ORDER BY id DESC LIMIT 1")
    assert sorted(queued) == sorted(users)


@pytest.mark.parametrize(("scope", "matters"), [("whitelist", True), ("any_node", False)])
async def test_whitelist_matters_to_whitelist_plans(
    rows: Rows, user: UUID, scope: str, matters: bool
) -> None:
    await rows.subscribe(user, scope=scope)
    for sql in (
        "INSERT INTO whitelisted_nodes VALUES ($1, $2, NULL, now())",
        "UPDATE whitelisted_nodes SET node_id = '!0000000b' WHERE user_id = $1 AND node_id = $2",
        "DELETE FROM whitelisted_nodes WHERE user_id = $1 OR node_id = $2",
    ):
        before, rights_before = await rows.versions(user)
        await rows.execute(sql, user, NODE)
        version, rights = await rows.versions(user)
        assert (version > before, rights - rights_before) == (matters, matters)


async def test_ended_plan_and_label_leave_the_whitelist_out_of_the_document(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user, scope="whitelist")
    await rows.execute("INSERT INTO whitelisted_nodes VALUES ($1, $2, NULL, now())", user, NODE)
    before = await rows.versions(user)
    await rows.execute("UPDATE whitelisted_nodes SET label = 'roof'")
    assert await rows.versions(user) == before
    await rows.execute("UPDATE subscriptions SET status = 'expired', ended_at = now()")
    before = await rows.versions(user)
    await rows.execute("DELETE FROM whitelisted_nodes")
    assert await rows.versions(user) == before


async def test_version_rises_above_one_that_a_restored_sequence_would_give(rows: Rows, user: UUID) -> None:
    await rows.subscribe(user)
    await rows.execute("UPDATE entitlements SET version = 1000")
    await rows.execute("UPDATE subscriptions SET messages_used = 1")
    assert (await rows.versions(user))[0] == 1001


async def test_change_is_notified_unless_the_session_is_quiet(
    rows: Rows, user: UUID, listener: Listener
) -> None:
    await rows.subscribe(user)
    assert await listener.told() == ["entitlements"]
    async with rows.connection.transaction():
        await rows.execute("SET LOCAL kosmo_billing.quiet = 'on'")
        await rows.execute("UPDATE subscriptions SET messages_used = 3")
    assert await listener.told() == ["entitlements"]
    await rows.execute("UPDATE subscriptions SET messages_used = 4")
    assert await listener.told() == ["entitlements", "entitlements"]


async def test_rolled_back_change_raises_and_tells_nothing(
    rows: Rows, user: UUID, listener: Listener
) -> None:
    await rows.subscribe(user)
    before = await rows.versions(user)
    (await listener.told()).clear()
    transaction = rows.connection.transaction()
    await transaction.start()
    await rows.execute("UPDATE subscriptions SET messages_used = 50")
    await transaction.rollback()
    assert await rows.versions(user) == before
    assert await listener.told() == []


async def test_opposing_updates_of_many_users_do_not_deadlock(rows: Rows, connect: Connector) -> None:
    """Rows of different tables, written in opposite orders, meet at the versions of the same users."""
    users = [uuid4() for _ in range(20)]
    for user in users:
        await rows.subscribe(user, scope="whitelist")
    one, two, three = await connect(), await connect(), await connect()
    rising, falling = sorted(users), sorted(users, reverse=True)

    async def use() -> None:
        for _ in range(15):
            await one.execute("UPDATE subscriptions SET messages_used = messages_used + 1")

    async def list_nodes(connection: "asyncpg.Connection[Any]", order: list[UUID], node: str) -> None:
        for _ in range(15):
            await connection.execute(
                "INSERT INTO whitelisted_nodes SELECT u, $2, NULL, now() FROM unnest($1::uuid[]) AS u",
                order,
                node,
            )
            await connection.execute("DELETE FROM whitelisted_nodes WHERE node_id = $1", node)

    async with asyncio.timeout(30):
        await asyncio.gather(use(), list_nodes(two, falling, NODE), list_nodes(three, rising, "!0000000b"))
    versions = [(await rows.versions(user))[0] for user in users]
    assert len(set(versions)) == len(users)


async def test_quota_state_of_the_database_is_that_of_the_domain(rows: Rows) -> None:
    cases: list[tuple[int, int | None]] = []
    limits = st.none() | st.integers(0, 200) | st.integers(0, 10**12)

    @given(st.integers(0, 260) | st.integers(0, 10**12), limits)
    @example(0, 0)
    @example(40, 50)
    @example(39, 50)
    @example(50, 50)
    def collect(used: int, limit: int | None) -> None:
        cases.append((used, limit))

    collect()
    said = await rows.connection.fetch(
        "SELECT quota_state(used, most) AS state"
        " FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS row (used, most, place) ORDER BY place",
        [used for used, _ in cases],
        [limit for _, limit in cases],
    )
    assert [row["state"] for row in said] == [quota_state(used, limit) for used, limit in cases]
