"""What cannot be handled holds nothing up: it is set aside, the others go on, and it is tried again."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Unavailable
from tests.services.conftest import IMPATIENT, Daemon, Shop
from tests.services.relay import relay, unreadable

CREATED, SETTLED, ACTIVATED = "invoice.created", "invoice.settled", "subscription.activated"

BREAK = """
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'this row cannot be written';
END $$
"""
BREAK_ROWS = """
CREATE TRIGGER broken BEFORE INSERT OR UPDATE ON subscriptions FOR EACH ROW
WHEN (NEW.user_id = '{user}') EXECUTE FUNCTION broken()
"""


async def break_rows(daemon: Daemon, user: UserId) -> None:
    """Let no row of this user's subscriptions be written any more."""
    await daemon.execute(BREAK)
    await daemon.execute(BREAK_ROWS.format(user=user))


async def repair(daemon: Daemon) -> None:
    await daemon.execute("DROP TRIGGER broken ON subscriptions")


@pytest.fixture
def others() -> list[UserId]:
    return [UserId(uuid4()) for _ in range(3)]


async def test_delivery_that_cannot_be_handled_is_set_aside_and_tried_again(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    await break_rows(shop.front, user)
    for each in (user, *others):
        invoice = await shop.open(each)
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.told()
    for other in others:
        assert await shop.front.events(other) == [CREATED, SETTLED, ACTIVATED]
    assert await shop.front.events(user) == [CREATED]
    waiting = "SELECT FROM lookups WHERE hinted_at IS NOT NULL"
    assert len(await shop.front.rows(waiting)) > 0
    await repair(shop.front)
    assert await shop.front.settle() == 0, "it waits a minute"
    shop.clock.move(minutes=1)
    assert await shop.front.settle() > 0
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]
    assert await shop.front.rows(waiting) == []


async def test_nothing_is_set_aside_until_a_clock_that_was_set_back_has_caught_up(
    shop: Shop, user: UserId
) -> None:
    await break_rows(shop.front, user)
    await shop.buy(user)
    await repair(shop.front)
    shop.clock.move(hours=-3)
    await shop.front.settle()
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]
    await shop.front.execute("UPDATE subscriptions SET reminder_hours = 0")
    await shop.front.execute(BREAK_ROWS.format(user=user))
    shop.clock.move(days=31)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["active"]
    await repair(shop.front)
    shop.clock.move(minutes=-30)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["expired"]


async def test_invoice_already_fulfilled_behind_our_back_stays_fulfilled_once(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    """A row set back by hand would be fulfilled twice, were it not for the constraint (R1)."""
    invoice = await shop.buy(user)
    await shop.front.execute(
        "UPDATE btcpay_invoices SET status = 'new', effect = 'none', next_check_at = now()"
    )
    await shop.front.inbox.record(shop.delivery(shop.bodies[-1], "again"))
    await shop.front.settle()
    await shop.buy(others[0])
    assert await shop.front.statuses(user) == ["active"]
    assert await shop.front.statuses(others[0]) == ["active"]
    assert (await shop.front.invoice(invoice.id))["effect"] == "none"


async def test_invoice_that_cannot_be_reconciled_holds_up_no_other(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    await break_rows(shop.front, user)
    for each in (user, *others):
        await shop.buy(each)
    await shop.wait(seconds=15)
    for other in others:
        assert await shop.front.events(other) == [CREATED, SETTLED, ACTIVATED]
    assert await shop.front.events(user) == [CREATED]
    due = await shop.front.reconciliation.next_due()
    assert due is not None
    assert due == shop.clock() + timedelta(minutes=1)
    await repair(shop.front)
    await shop.wait(minutes=1)
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]


async def test_subscription_that_cannot_be_ended_holds_up_no_other(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    for each in (user, *others):
        await shop.buy(each)
    await shop.front.execute("UPDATE subscriptions SET reminder_hours = 0")
    await break_rows(shop.front, user)
    shop.clock.move(days=30)
    await shop.front.expire()
    for other in others:
        assert await shop.front.statuses(other) == ["expired"]
    assert await shop.front.statuses(user) == ["active"]
    assert await shop.front.expiry.next_due() == shop.clock() + timedelta(minutes=1), "no busy loop"
    await repair(shop.front)
    shop.clock.move(minutes=1)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["expired"]


async def test_invoice_that_cannot_be_read_at_btcpay_holds_up_no_other(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    async with relay(shop.simulator.url) as passing:
        daemon = await shop.start(btcpay_url=passing.url)
        opened = [await shop.open(each) for each in (user, *others)]
        passing.spoil = unreadable(shop.btcpay_id(opened[0]))
        for invoice in opened:
            await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
        await shop.told()
        for other in others:
            assert await daemon.events(other) == [CREATED, SETTLED, ACTIVATED]
        assert await daemon.events(user) == [CREATED]
        shop.clock.move(minutes=1)
        assert await daemon.settle() > 0
        assert await daemon.events(user) == [CREATED]
        passing.spoil = None
        shop.clock.move(minutes=1)
        await daemon.settle()
        assert await daemon.events(user) == [CREATED, SETTLED, ACTIVATED]


async def test_late_payment_that_cannot_be_read_holds_up_no_other(
    shop: Shop, user: UserId, others: list[UserId]
) -> None:
    async with relay(shop.simulator.url) as passing:
        daemon = await shop.start(btcpay_url=passing.url)
        opened = [await shop.open(each) for each in (user, *others)]
        await shop.wait(minutes=16)
        bad = shop.btcpay_id(opened[0])
        passing.refuse = lambda _, path: path.endswith(f"/{bad}/payment-methods")
        for invoice in opened:
            await shop.simulator.act(shop.btcpay_id(invoice), "pay_late", None, "BTC-LN")
        await shop.told()
        for other in others:
            assert (await daemon.events(other))[-2:] == [SETTLED, ACTIVATED]
        assert await daemon.subscriptions(user) == []
        passing.refuse = None
        shop.clock.move(minutes=1)
        await daemon.settle()
        assert (await daemon.events(user))[-2:] == [SETTLED, ACTIVATED]


async def test_reservation_whose_invoice_cannot_be_read_is_not_created_again(
    shop: Shop, user: UserId
) -> None:
    async with relay(shop.simulator.url) as passing:
        daemon = await shop.start(btcpay_url=passing.url, timeouts=IMPATIENT)
        shop.simulator.set_faults(create_times_out=True)

        def spoil(_path: str, document: object) -> object:
            for entry in document if isinstance(document, list) else []:
                entry["status"] = "Frozen"
            return document

        passing.spoil = spoil
        with pytest.raises(Unavailable):
            await daemon.open(user, "wanderer")
        shop.simulator.set_faults(create_times_out=False)
        shop.clock.move(minutes=2)
        with pytest.raises(Unavailable):
            await daemon.open(user, "wanderer")
        for _ in range(15):
            shop.clock.move(minutes=1)
            await daemon.settle()
        (row,) = await daemon.rows("SELECT status FROM btcpay_invoices")
        assert row["status"] == "reserved", "it exists at BTCPay, so it is not given up"
        passing.spoil = None
        opened, _ = await daemon.open(user, "wanderer")
        assert [opened.btcpay_invoice_id] == list(shop.simulator.invoices)


async def test_deliveries_about_strangers_and_unknown_types_are_marked_and_forgotten(shop: Shop) -> None:
    bodies = [
        b'{"type": "InvoiceSettled", "invoiceId": "nobody knows it"}',
        b'{"type": "PayoutApproved", "storeId": "StoreOne"}',
        b'{"type": "InvoiceSettled", "metadata": {"orderId": "11111111-1111-1111-1111-111111111111"}}',
        b'{"type": "InvoiceSettled", "metadata": {"orderId": "not one of ours"}}',
    ]
    await asyncio.gather(*(shop.front.inbox.record(shop.delivery(body)) for body in bodies))
    assert await shop.front.settle() == 0
    outcomes = await shop.front.rows("SELECT DISTINCT outcome FROM webhook_deliveries")
    assert [row["outcome"] for row in outcomes] == ["not ours"]
