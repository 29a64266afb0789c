"""A row that somebody else's transaction has locked: only its user waits, and the lock's holder is named."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.admin.actions import AdminActions, OperatorAction
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Locked
from kosmo_billing_daemon.services.backlog import read_backlog
from kosmo_billing_daemon.services.metering import Metering, Report
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.store.locks import find_holder
from kosmo_billing_daemon.store.parking import park
from tests.services.conftest import Shop
from tests.support.usage import event, payload
from tests.support.world import until

SOON = 2.0  # seconds in which everybody else is served
COUNT = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"


@contextlib.asynccontextmanager
async def locking(shop: Shop, user: UUID, statement: str = COUNT) -> AsyncIterator[int]:
    """A gateway that counts by SQL, and leaves its transaction open; gives its process id."""
    settings = {"application_name": "old gateway"}
    connection = await asyncpg.connect(shop.database_url, server_settings=settings)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement, user)
        yield connection.get_server_pid()
        await transaction.commit()
    finally:
        await connection.close()


@pytest.fixture
def others() -> list[UserId]:
    return [UserId(uuid4()) for _ in range(20)]


async def pay_all(shop: Shop, users: list[UserId]) -> None:
    """Have everybody's payment hinted at, and nothing settled yet."""
    for invoice in [await shop.open(each) for each in users]:
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.simulator.drained()


async def test_the_others_are_settled_at_once_and_the_stuck_one_when_its_row_is_free(
    shop: Shop, user: UserId, others: list[UserId], caplog: pytest.LogCaptureFixture
) -> None:
    await shop.buy(user)
    await pay_all(shop, [*others[:10], user, *others[10:]])
    async with locking(shop, user) as pid:
        began = time.monotonic()
        await shop.front.settle()
        assert time.monotonic() - began < SOON
        assert [await shop.front.statuses(other) for other in others] == [["active"]] * len(others)
        assert await shop.front.statuses(user) == ["active"]
        assert f"rows are locked by pid {pid} (old gateway, role " in caplog.text
        assert "idle in transaction since " in caplog.text
        shop.clock.move(seconds=61)
        await shop.front.settle()  # in vain, and that is seen by every daemon
        backlog = await read_backlog(shop.front.pool, shop.clock)
        assert (backlog.deliveries, backlog.error) == (0.0, None)
        assert backlog.aside is not None
        assert f"pid {pid}" in backlog.aside
    shop.clock.move(seconds=11)
    await shop.front.settle()
    assert await shop.front.statuses(user) == ["replaced", "active"]
    assert (await read_backlog(shop.front.pool, shop.clock)).aside is None


async def test_a_queue_that_nobody_works_on_is_late(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    await pay_all(shop, [user])
    async with locking(shop, user):
        await shop.front.settle()
    shop.clock.move(minutes=5)  # and no leader tried again
    backlog = await read_backlog(shop.front.pool, shop.clock)
    assert (backlog.deliveries > 60, backlog.aside) == (True, None)


@pytest.mark.parametrize(
    "statement",
    [
        COUNT,
        "SELECT FROM btcpay_invoices WHERE user_id = $1 FOR UPDATE",
        "SELECT lock_users(ARRAY[$1::uuid])",
        "SELECT FROM entitlements WHERE user_id = $1 FOR UPDATE",
    ],
)
async def test_reconciliation_goes_on_beside_a_lock(
    shop: Shop, user: UserId, others: list[UserId], statement: str
) -> None:
    await shop.buy(user)
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    for each in (others[0], user, others[1]):
        await shop.buy(each)
    async with locking(shop, user, statement):
        await shop.front.reconciliation.begin()
        shop.clock.move(seconds=15)
        began = time.monotonic()
        await shop.front.settle()
        assert time.monotonic() - began < SOON
        assert [await shop.front.statuses(each) for each in others[:2]] == [["active"]] * 2
    shop.clock.move(seconds=15)
    await shop.front.settle()
    assert await shop.front.statuses(user) == ["replaced", "active"]


async def test_the_others_expire_in_time(shop: Shop, user: UserId, others: list[UserId]) -> None:
    for each in (user, *others):
        await shop.buy(each)
    shop.clock.move(days=31)
    async with locking(shop, user):
        began = time.monotonic()
        await shop.front.expire()
        assert time.monotonic() - began < SOON
        assert [await shop.front.statuses(other) for other in others] == [["expired"]] * len(others)
        assert await shop.front.statuses(user) == ["active"]
        due = await shop.front.expiry.next_due()
        assert due is not None
        assert (due - shop.clock()).total_seconds() <= 10
    shop.clock.move(seconds=11)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["expired"]


async def test_usage_of_the_others_is_counted_and_the_report_in_question_later(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    for each in (user, *others):
        await shop.buy(each)
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)

    def report(each: UserId, number: int) -> Report:
        sent = event(each, f"m{number}", shop.clock())
        read = metering.read(f"gateway-{number}", payload([sent], f"report-{number}"))
        assert isinstance(read, Report)
        return read

    reports = [report(each, number) for number, each in enumerate([*others[:7], user, *others[7:]])]
    used = "SELECT coalesce(sum(messages_used), 0) AS n FROM subscriptions WHERE user_id = $1"
    async with locking(shop, user, "SELECT FROM subscriptions WHERE user_id = $1 FOR UPDATE"):
        began = time.monotonic()
        answers = await metering.count(reports)
        assert time.monotonic() - began < SOON
        assert [place for place, answer in enumerate(answers) if answer is None] == [7]
        assert await metering.count([reports[7]]) == [None]  # repeated by its gateway: parked once
        assert await metering.count_parked() == ([], 0)
        assert len(await shop.front.rows("SELECT FROM parked_reports")) == 1
    ((reporter, answer),), _ = await metering.count_parked()
    assert (reporter, answer.report_id, answer.accepted) == ("gateway-7", "report-7", 1)
    assert await shop.front.rows("SELECT FROM parked_reports") == []
    (again,) = await metering.count([reports[7]])
    assert again is not None
    assert (again.accepted, again.duplicates) == (0, 1)
    for each in (user, others[0]):
        assert (await shop.front.rows(used, each))[0]["n"] == 1


async def test_requests_and_operators_are_told_who_holds_the_lock(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    await shop.buy(user)
    operations = AdminActions(
        pool=shop.front.pool, settlement=shop.front.settlement, catalogue=BUILT_IN, clock=shop.clock
    )
    whitelist = Whitelist(pool=shop.front.pool, clock=shop.clock, changed=lambda: None, new_per_day=10)
    async with locking(shop, user, "SELECT FROM subscriptions WHERE user_id = $1 FOR UPDATE") as pid:
        began = time.monotonic()
        with pytest.raises(Locked, match=rf"locked by pid {pid} \(old gateway"):
            await operations.grant(user, "guardian", OperatorAction("Ann", "a gift"))
        await operations.grant(others[0], "guardian", OperatorAction("Ann", "a gift"))
        assert time.monotonic() - began < SOON
    async with locking(shop, user, "SELECT lock_users(ARRAY[$1::uuid])") as pid:
        began = time.monotonic()
        for refused in (
            whitelist.add(user, "!a1b2c3d4", None),
            shop.front.open(user, "wanderer"),
        ):
            with pytest.raises(Locked, match=f"pid {pid}"):
                await refused
        await whitelist.add(others[0], "!a1b2c3d4", None)
        await shop.front.open(others[0], "wanderer")
        assert time.monotonic() - began < SOON


async def test_reports_that_stay_locked_hold_up_none_parked_behind_them(
    shop: Shop, user: UserId, others: list[UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kosmo_billing_daemon.services.metering.MOST_PARKED_AT_ONCE", 2)
    for each in (user, others[0]):
        await shop.buy(each)
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    now = shop.clock()
    rows = [
        (
            f"gateway-{number}",
            f"report-{number}",
            payload([event(each, f"m{number}", now)], f"report-{number}"),
        )
        for number, each in enumerate([user, user, others[0]])
    ]
    async with shop.front.pool.connection() as connection:
        await park(connection, rows, now)
    async with locking(shop, user, "SELECT FROM subscriptions WHERE user_id = $1 FOR UPDATE"):
        answers, after = await metering.count_parked()
        assert (answers, after > 0) == ([], True)
        ((reporter, _),), after = await metering.count_parked(after)
        assert (reporter, after) == ("gateway-2", 0)


async def test_a_parked_report_that_cannot_be_read_is_quarantined_and_holds_up_none_behind_it(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user)
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    now = shop.clock()
    rows = [
        ("gate", "strange", b"of another version"),
        ("gate", "known", payload([event(user, "m", now)], "known")),
    ]
    async with shop.front.pool.connection() as connection:
        await park(connection, rows, now)
    ((reporter, answer),), after = await metering.count_parked()
    assert (reporter, answer.accepted, after) == ("gate", 1, 0)
    assert await shop.front.rows("SELECT FROM parked_reports") == []
    (kept,) = await shop.front.rows("SELECT payload FROM usage_quarantine")
    assert kept["payload"] == b"of another version"


async def test_whoever_waits_for_a_whole_table_is_named_and_so_is_what_it_waits_for(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user)
    dump = await asyncpg.connect(shop.database_url, server_settings={"application_name": "pg_dump"})
    vacuum = await asyncpg.connect(shop.database_url, server_settings={"application_name": "a migration"})
    dumping = dump.transaction()
    await dumping.start()
    await dump.execute("LOCK TABLE subscriptions IN ACCESS SHARE MODE")
    altering = asyncio.create_task(vacuum.execute("ALTER TABLE subscriptions ADD COLUMN more int"))
    try:
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)"
        await until(lambda: dump.fetchval(waits, vacuum.get_server_pid()), "it waits for the table")
        await asyncio.sleep(0.05)  # longer in its transaction than anybody of ours
        async with shop.front.pool.connection() as connection:
            told = await find_holder(connection)
        assert told is not None
        assert f"pid {vacuum.get_server_pid()} (a migration" in told
        assert f"which itself waits for pid {dump.get_server_pid()} (pg_dump)" in told
    finally:
        await dumping.rollback()
        await altering
        await dump.close()
        await vacuum.close()
