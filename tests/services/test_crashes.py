"""A crash after any commit, then fresh objects on the same rows: the same end as without it."""

import asyncio
from uuid import UUID

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Unavailable
from tests.services.conftest import Daemon, Shop, everything, reserve, until
from tests.services.test_auto_renewal import FROM_CREDIT, give

USERS = [UserId(UUID(int=number)) for number in range(1, 4)]
BOUGHT = ["invoice.created", "invoice.settled", "subscription.activated"]

STALL = """
CREATE FUNCTION stalled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_advisory_xact_lock(42);
    RETURN NULL;
END $$
"""
STALL_AT = "CREATE CONSTRAINT TRIGGER stalled AFTER {event} ON {table} DEFERRABLE INITIALLY {moment} \
FOR EACH ROW EXECUTE FUNCTION stalled()"


async def paid(shop: Shop) -> None:
    """Three invoices are paid and their webhooks are recorded, not handled."""
    for user in USERS:
        invoice = await shop.open(user)
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.simulator.drained()


@pytest.mark.parametrize("moment", ["IMMEDIATE", "DEFERRED"])
@pytest.mark.parametrize(
    ("event", "table"),
    [
        ("UPDATE", "btcpay_invoices"),
        ("INSERT", "subscriptions"),
        ("INSERT", "events"),
        ("DELETE", "lookups"),
    ],
)
async def test_death_within_the_settling_transaction_leaves_nothing_half_done(
    shop: Shop, event: str, table: str, moment: str
) -> None:
    """At each write, and within the commit (a deferred trigger), the transaction dies."""
    await paid(shop)
    before = await everything(shop.front)
    await shop.front.execute(STALL)
    await shop.front.execute(STALL_AT.format(event=event, table=table, moment=moment))
    async with shop.front.pool.connection() as holder:
        await holder.execute("SELECT pg_advisory_lock(42)")
        dying = asyncio.create_task(shop.front.reconciliation.run_once())
        await cut_off(shop.front)
        with pytest.raises(Unavailable):
            await dying
        await holder.execute("SELECT pg_advisory_unlock(42)")
    await shop.front.execute(f"DROP TRIGGER stalled ON {table}")
    assert await everything(shop.front) == before
    restarted = await shop.start()
    assert await restarted.settle() > 0
    for user in USERS:
        assert await restarted.events(user) == BOUGHT
        assert await restarted.statuses(user) == ["active"]


async def cut_off(daemon: Daemon) -> None:
    """End the session that waits for the lock, and with it its transaction."""
    waiting = (
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    await until(lambda: daemon.rows(waiting), "somebody waits")
    ended = await daemon.rows(f"SELECT pg_terminate_backend(pid, 5000) AS ended FROM ({waiting}) AS waiting")  # noqa: S608  a constant
    assert [row["ended"] for row in ended] == [True]


async def test_death_after_the_settling_commit_changes_nothing_at_the_next_start(shop: Shop) -> None:
    """What was committed but never told to anybody is found done."""
    await paid(shop)
    await shop.front.reconciliation.run_once()
    after = await everything(shop.front)
    hints = "INSERT INTO lookups (due_at, invoice_id, hinted_at) SELECT $1, id, $1 FROM btcpay_invoices"
    await shop.front.execute(hints, shop.clock())
    restarted = await shop.start()
    await restarted.reconciliation.begin()
    await restarted.settle()
    await restarted.settle()
    await restarted.expire()
    assert await everything(restarted) == after
    for user in USERS:
        assert await restarted.events(user) == BOUGHT


async def test_death_between_recording_and_settling_is_made_up_for(shop: Shop) -> None:
    await paid(shop)
    restarted = await shop.start()
    await restarted.settle()
    for user in USERS:
        assert await restarted.events(user) == BOUGHT


@pytest.mark.parametrize(
    ("days", "event", "statuses"),
    [
        (28, "subscription.expiring", ["active"]),
        (28, "subscription.renewing", ["active"]),
        (30, "subscription.renewed", ["replaced", "active"]),
        (31, "subscription.expired", ["expired"]),
    ],
)
async def test_expiry_that_died_or_runs_twice_ends_reminds_and_renews_once(
    shop: Shop, days: int, event: str, statuses: list[str]
) -> None:
    renews = event in {"subscription.renewing", "subscription.renewed"}
    await shop.start(credit=renews)
    await paid(shop)
    await shop.front.settle()
    for user in USERS if renews else ():
        await give(shop, user, "5.00")
        await shop.front.renewals.choose(user, auto=True)
    shop.clock.move(days=days)
    await shop.front.execute(STALL)
    await shop.front.execute(STALL_AT.format(event="UPDATE", table="subscriptions", moment="DEFERRED"))
    async with shop.front.pool.connection() as holder:
        await holder.execute("SELECT pg_advisory_lock(42)")
        dying = asyncio.create_task(shop.front.expiry.run_once())
        await cut_off(shop.front)
        with pytest.raises(Unavailable):
            await dying
        await holder.execute("SELECT pg_advisory_unlock(42)")
    await shop.front.execute("DROP TRIGGER stalled ON subscriptions")
    restarted = await shop.start(credit=renews)
    await asyncio.gather(restarted.expire(), shop.front.expire())
    around = FROM_CREDIT if event == "subscription.renewed" else [event]
    for user in USERS:
        assert await restarted.events(user) == [*BOUGHT, *around]
        assert await restarted.statuses(user) == statuses


@pytest.mark.parametrize("answered", [True, False])
async def test_death_while_creating_is_made_up_for(shop: Shop, answered: bool) -> None:
    """Before BTCPay saw the request, and after it had created the invoice."""
    user = USERS[0]
    if answered:
        shop.simulator.set_faults(create_times_out=True)
        dying = asyncio.create_task(shop.front.open(user, "wanderer"))

        async def created() -> int:
            return len(shop.simulator.invoices)

        await until(created, "BTCPay has it")
        for task in shop.front.invoicing._in_progress.values():
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dying
        shop.simulator.set_faults(create_times_out=False)
    else:
        await reserve(shop, user)
    restarted = await shop.start()
    shop.clock.move(minutes=1)
    invoice, is_new = await restarted.open(user, "wanderer")
    assert not is_new
    assert list(shop.simulator.invoices) == [invoice.btcpay_invoice_id]
    await shop.told()
    await shop.lightning(invoice)
    assert await restarted.events(user) == BOUGHT
