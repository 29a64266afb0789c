"""What each way of paying causes: the complete list of events, the subscriptions, the cases."""

import logging
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.services.conftest import Shop

MONTH = timedelta(days=30)
CREATED, PROCESSING, SETTLED = "invoice.created", "invoice.processing", "invoice.settled"
EXPIRED, INVALID, ATTENTION = "invoice.expired", "invoice.invalid", "invoice.needs_attention"
ACTIVATED = "subscription.activated"


async def test_payment_on_chain_activates_when_it_is_confirmed(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    assert await shop.front.events(user) == [CREATED]
    await shop.act(invoice, "pay")
    assert await shop.front.events(user) == [CREATED, PROCESSING]
    assert await shop.front.subscriptions(user) == []
    shop.clock.move(minutes=40)
    await shop.act(invoice, "confirm")
    assert await shop.front.events(user) == [CREATED, PROCESSING, SETTLED, ACTIVATED]
    (row,) = await shop.front.subscriptions(user)
    assert (row["status"], row["source"], row["plan_type"]) == ("active", "btcpay", "wanderer")
    assert (row["valid_from"], row["valid_until"]) == (shop.clock(), shop.clock() + MONTH)
    assert (row["messages_limit"], row["messages_used"], row["invoice_id"]) == (50, 0, invoice.id)
    kept = await shop.front.invoice(invoice.id)
    assert (kept["status"], kept["effect"], kept["payment"]) == ("settled", "fulfilled", "none")
    assert (kept["paid_amount"], kept["settled_at"]) == (Decimal("5.00"), shop.clock())
    assert kept["next_check_at"] is None
    assert await shop.front.cases(user) == []


async def test_lightning_activates_at_once(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]
    assert await shop.front.statuses(user) == ["active"]


async def test_each_settled_invoice_tells_what_was_bought(shop: Shop, user: UserId) -> None:
    invoice = await shop.buy(user)
    created, settled, activated = await shop.front.rows("SELECT type, data::text FROM events ORDER BY id")
    assert f'"order_id": "{invoice.id}"' in created["data"]
    assert '"amount": "5.00"' in settled["data"]
    assert '"reason": "purchase"' in activated["data"]


async def test_invoice_that_nobody_pays_expires(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    assert await shop.front.events(user) == [CREATED, EXPIRED]
    await shop.wait(days=4)
    assert await shop.front.events(user) == [CREATED, EXPIRED]
    assert await shop.front.subscriptions(user) == []
    assert await shop.front.cases(user) == []
    assert (await shop.front.invoice(invoice.id))["next_check_at"] is None


async def test_partial_payment_activates_nothing_and_is_listed_once(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_partial", "confirm")
    assert await shop.front.events(user) == [CREATED]
    await shop.wait(minutes=16)
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION]
    await shop.wait(days=4)
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION]
    assert await shop.front.cases(user) == [("partial_payment", Decimal("2.50"), True)]
    assert await shop.front.subscriptions(user) == []


async def test_partial_payment_completed_late_is_fulfilled_and_its_case_closed(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_partial", "confirm")
    await shop.wait(minutes=16)
    await shop.wait(hours=5)
    await shop.act(invoice, "pay_late")
    assert await shop.front.subscriptions(user) == []
    await shop.act(invoice, "confirm")
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION, SETTLED, ACTIVATED]
    assert await shop.front.cases(user) == [("partial_payment", Decimal("2.50"), False)]
    assert await shop.front.statuses(user) == ["active"]


async def test_late_payment_within_72_hours_is_fulfilled(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    await shop.wait(hours=71)
    await shop.act(invoice, "pay_late", "confirm")
    assert await shop.front.events(user) == [CREATED, EXPIRED, SETTLED, ACTIVATED]
    assert await shop.front.cases(user) == []
    (row,) = await shop.front.subscriptions(user)
    assert row["valid_from"] == shop.clock()
    kept = await shop.front.invoice(invoice.id)
    assert (kept["status"], kept["payment"], kept["effect"]) == ("expired", "late", "fulfilled")
    assert kept["settled_at"] == shop.clock()


async def test_late_payment_beyond_72_hours_is_listed_only(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    await shop.wait(hours=72)
    await shop.lightning(invoice, "5.00")
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION]
    await shop.wait(days=2)
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION]
    assert await shop.front.cases(user) == [("late_payment", Decimal("5.00"), True)]
    assert await shop.front.subscriptions(user) == []


async def test_late_payment_waits_for_its_confirmation(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    await shop.act(invoice, "pay_late")
    await shop.wait(hours=10)
    assert await shop.front.events(user) == [CREATED, EXPIRED]
    assert (await shop.front.invoice(invoice.id))["late_unconfirmed_at"] == shop.clock()
    await shop.act(invoice, "confirm")
    assert await shop.front.events(user) == [CREATED, EXPIRED, SETTLED, ACTIVATED]


async def test_late_payment_that_confirms_without_a_word_is_found_by_polling(
    shop: Shop, user: UserId
) -> None:
    """BTCPay sends no event when a late payment settles the invoice."""
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    await shop.act(invoice, "pay_late")
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    await shop.act(invoice, "confirm")
    assert await shop.front.subscriptions(user) == []
    await shop.wait(minutes=31)
    assert await shop.front.events(user) == [CREATED, EXPIRED, SETTLED, ACTIVATED]


async def test_late_payment_not_confirmed_in_time_is_listed(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    await shop.act(invoice, "pay_late")
    await shop.wait(hours=71)
    assert await shop.front.events(user) == [CREATED, EXPIRED]
    await shop.wait(hours=2)
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION]
    assert await shop.front.cases(user) == [("late_payment", Decimal("5.00"), True)]
    await shop.act(invoice, "confirm")
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION, ATTENTION], (
        "and when it is confirmed"
    )
    assert await shop.front.cases(user) == [("late_payment", Decimal("5.00"), True)]
    assert await shop.front.subscriptions(user) == []


async def test_overpayment_fulfils_once_and_lists_the_excess(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_over")
    assert await shop.front.events(user) == [CREATED, PROCESSING]
    await shop.act(invoice, "confirm")
    assert await shop.front.events(user) == [CREATED, PROCESSING, SETTLED, ACTIVATED, ATTENTION]
    assert await shop.front.cases(user) == [("overpaid", Decimal("2.50"), True)]
    (row,) = await shop.front.subscriptions(user)
    assert row["valid_until"] == shop.clock() + MONTH


async def test_money_sent_after_settlement_is_listed_and_gives_no_second_period(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.buy(user)
    await shop.lightning(invoice, "5.00")
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED, ATTENTION]
    assert await shop.front.cases(user) == [("overpaid", Decimal("5.00"), True)]
    await shop.lightning(invoice, "1.00")
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED, ATTENTION, ATTENTION]
    assert await shop.front.cases(user) == [("overpaid", Decimal("6.00"), True)]
    assert await shop.front.statuses(user) == ["active"]


@pytest.mark.parametrize("payments", [("7.00",), ("5.00", "2.00")])
async def test_late_overpayment_fulfils_and_lists_the_excess(
    shop: Shop, user: UserId, payments: tuple[str, ...]
) -> None:
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    for amount in payments:
        await shop.lightning(invoice, amount)
    assert await shop.front.events(user) == [CREATED, EXPIRED, SETTLED, ACTIVATED, ATTENTION]
    assert await shop.front.cases(user) == [("overpaid", Decimal("2.00"), True)]


async def test_payment_that_is_replaced_falls_back_and_expires(shop: Shop, user: UserId) -> None:
    """BTCPay tells nobody when Processing falls back to New."""
    invoice = await shop.open(user)
    await shop.act(invoice, "pay", "replace_payment")
    await shop.wait(minutes=1)
    assert (await shop.front.invoice(invoice.id))["status"] == "new"
    assert await shop.front.events(user) == [CREATED, PROCESSING]
    await shop.act(invoice, "pay", "confirm")
    assert await shop.front.events(user) == [CREATED, PROCESSING, PROCESSING, SETTLED, ACTIVATED]


async def test_unconfirmed_payment_at_the_monitoring_deadline_activates_nothing(
    shop: Shop, user: UserId
) -> None:
    """BTCPay calls it Invalid although money may still arrive; none has been confirmed."""
    invoice = await shop.open(user)
    await shop.act(invoice, "pay")
    await shop.wait(days=1, minutes=20)
    assert await shop.front.events(user) == [CREATED, PROCESSING, INVALID]
    assert await shop.front.cases(user) == []
    assert await shop.front.subscriptions(user) == []
    await shop.act(invoice, "confirm")
    await shop.wait(hours=1)
    assert await shop.front.events(user) == [CREATED, PROCESSING, INVALID, ATTENTION]
    assert await shop.front.cases(user) == [("paid_invalid", Decimal("5.00"), True)]


async def test_what_was_committed_is_logged_with_user_and_order(
    shop: Shop, user: UserId, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    invoice = await shop.buy(user)
    (told,) = [record for record in caplog.records if record.getMessage() == "subscription activated"]
    assert told.__dict__["fields"] == {"user": user, "order": str(invoice.id)}


async def test_what_was_committed_for_many_is_one_line_that_names_all(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    orders = {}
    for _ in range(25):
        user = UserId(uuid4())
        invoice, _ = await shop.front.open(user, "wanderer")
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
        orders[str(user)] = str(invoice.id)
    await shop.wait(hours=1)
    told = [one.__dict__["fields"] for one in caplog.records if one.getMessage() == "subscription activated"]
    assert [len(one["users"].split()) for one in told] == [20, 5]
    named = [pair for one in told for pair in zip(one["users"].split(), one["orders"].split(), strict=True)]
    assert sorted(named) == sorted(orders.items())
