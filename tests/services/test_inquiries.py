"""What BTCPay received or refunded beside what we know is found out from its webhooks, once (R13)."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.books import compare
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Unavailable
from kosmo_billing_daemon.services.inquiries import Inquiries
from tests.services.conftest import STORE, Shop
from tests.services.test_locked_rows import locking

BY = OperatorAction("eva", "ticket 7")


def inquiries(shop: Shop) -> Inquiries:
    front = shop.front
    return Inquiries(pool=front.pool, btcpay=front.btcpay, store_id=STORE, clock=shop.clock)


async def inquire(shop: Shop) -> int:
    """Let every webhook arrive, and make the inquiries that are due."""
    await shop.told()
    return await inquiries(shop).run_once()


async def lost(shop: Shop, *acts: tuple[str, str | None], order: str | None = None) -> str:
    """Open an invoice at BTCPay that our database does not know, and let the payer do something."""
    made = await shop.front.btcpay.create_invoice(uuid4(), BUILT_IN.plans[0])
    name = made.btcpay_invoice_id
    if order is not None:
        shop.simulator.replace_metadata(name, {"orderId": order} if order else {})
    for action, amount in acts:
        await shop.simulator.act(name, action, amount)
    return name


async def cases(shop: Shop) -> list[tuple[Any, ...]]:
    rows = await shop.front.rows("SELECT * FROM attention_cases ORDER BY id")
    return [
        (row["kind"], row["btcpay_invoice_id"], row["amount"], row["currency"], row["closed_at"] is None)
        for row in rows
    ]


async def credit(shop: Shop, user: UserId) -> Decimal:
    (row,) = await shop.front.rows("SELECT coalesce(sum(amount), 0) FROM ledger WHERE user_id = $1", user)
    amount: Decimal = row[0]
    return amount


async def differences(shop: Shop) -> list[str]:
    day = timedelta(days=1)
    found = await compare(shop.front.pool, shop.front.btcpay, shop.clock() - day, shop.clock() + day)
    return [each.fact for each in found]


PAID = (("pay", None), ("confirm", None))


async def test_money_for_an_order_that_the_database_lost_is_one_case_with_its_sum(shop: Shop) -> None:
    paid = await lost(shop, *PAID)
    partly = await lost(shop, ("pay_partial", "1.25"), ("confirm", None), ("expire", None))
    await lost(shop)
    await lost(shop, ("pay_partial", "1.25"), ("expire", None))  # not confirmed
    assert await inquire(shop) == 4
    assert await cases(shop) == [
        ("unknown_order", paid, Decimal("5.00"), "USD", True),
        ("unknown_order", partly, Decimal("1.25"), "USD", True),
    ]
    for body in shop.bodies:  # the same again, as new deliveries
        await shop.front.inbox.record(shop.delivery(body, str(uuid4())))
    assert await inquire(shop) == 4
    assert len(await cases(shop)) == 2
    assert await inquire(shop) == 0


async def test_invoices_of_others_in_the_same_store_open_no_case(shop: Shop, user: UserId) -> None:
    strange = ("", "1234", str(uuid4()).upper(), uuid4().hex)
    for order in strange:
        body = {"type": "InvoiceSettled", "invoiceId": "stranger", "metadata": {"orderId": order}}
        await shop.front.inbox.record(shop.delivery(json.dumps(body).encode()))
    await shop.buy(user)
    assert await inquire(shop) == 0
    for order in strange:
        await lost(shop, *PAID, order=order)
    await inquire(shop)
    # A webhook is no more than a hint: neither its order nor its invoice need be what it says.
    other = await lost(shop, *PAID, order="1234")
    for name in (other, "nothing"):
        hinted = (
            f'{{"type": "InvoiceSettled", "invoiceId": "{name}", "metadata": {{"orderId": "{uuid4()}"}}}}'
        )
        await shop.front.inbox.record(shop.delivery(hinted.encode()))
    assert await inquire(shop) == 2
    assert await cases(shop) == []


async def test_what_is_given_to_a_user_is_booked_as_received_once(shop: Shop, user: UserId) -> None:
    name = await lost(shop, ("pay_partial", "1.25"), ("confirm", None), ("expire", None))
    await inquire(shop)
    (row,) = await shop.front.rows("SELECT id FROM attention_cases")
    acting = CaseActions(pool=shop.front.pool, clock=shop.clock)
    await acting.give(row["id"], user, BY)
    with pytest.raises(Conflict) as refused:
        await acting.give(row["id"], user, BY)
    assert refused.value.code == "closed_before"
    assert await credit(shop, user) == Decimal("1.25")
    assert await shop.front.events(user) == ["credit.added"]
    assert await differences(shop) == []
    # The rest comes in late: of that alone nobody has decided yet.
    for action in ("pay_late", "confirm"):
        await shop.simulator.act(name, action, "3.75" if action == "pay_late" else None)
    await inquire(shop)
    assert await cases(shop) == [("unknown_order", name, Decimal("5.00"), "USD", True)]
    assert len(await differences(shop)) == 1
    given = await acting.give(row["id"], user, BY)
    assert given.undecided == Decimal("3.75")
    assert await credit(shop, user) == Decimal("5.00")
    entries = await shop.front.rows("SELECT kind, who, reason FROM ledger")
    assert [tuple(entry) for entry in entries] == [
        ("received", "eva", f"ticket 7 (BTCPay invoice {name})")
    ] * 2
    assert await differences(shop) == []


async def test_a_closed_case_of_an_unknown_order_books_nothing_and_stays_closed(shop: Shop) -> None:
    name = await lost(shop, *PAID)
    await inquire(shop)
    (row,) = await shop.front.rows("SELECT id FROM attention_cases")
    await CaseActions(pool=shop.front.pool, clock=shop.clock).close(row["id"], BY)
    await shop.front.inbox.record(shop.delivery(shop.bodies[-1], "another"))
    assert await inquire(shop) == 1
    assert await cases(shop) == [("unknown_order", name, Decimal("5.00"), "USD", False)]
    assert await shop.front.rows("SELECT FROM ledger") == []
    assert await differences(shop) == []


async def test_an_unknown_order_is_asked_for_until_btcpay_answers(shop: Shop) -> None:
    await lost(shop, *PAID)
    await shop.told()
    await shop.simulator.go_away()
    with pytest.raises(Unavailable):
        await inquire(shop)
    assert await cases(shop) == []
    await shop.simulator.come_back()
    assert await inquire(shop) == 1
    assert len(await cases(shop)) == 1


async def test_a_refund_made_in_btcpays_pages_is_booked_by_itself_once(shop: Shop, user: UserId) -> None:
    await shop.start(credit=True)
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    name = shop.btcpay_id(invoice)
    made = shop.simulator.refund(name, refundVariant="Custom", customAmount="1.50", customCurrency="USD")
    assert await inquire(shop) == 1
    assert await credit(shop, user) == Decimal("0.50")
    for body in shop.bodies:
        await shop.front.inbox.record(shop.delivery(body, str(uuid4())))
    assert await inquire(shop) == 1
    assert await credit(shop, user) == Decimal("0.50")
    (booked,) = await shop.front.rows("SELECT who, reason FROM ledger WHERE kind = 'refunded'")
    assert tuple(booked) == ("BTCPay", "refunded in BTCPay's own pages")
    assert (await shop.front.events(user))[-1] == "credit.refunded"
    assert await differences(shop) == []
    recorded = Refunding(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock)
    assert (await recorded.record(name, made.id, BY)).total.amount == Decimal("1.50")
    assert await credit(shop, user) == Decimal("0.50")


async def refunded_in_pages(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    shop.simulator.refund(
        shop.btcpay_id(invoice), refundVariant="Custom", customAmount="1.50", customCurrency="USD"
    )


async def test_a_refund_whose_user_is_locked_holds_up_no_other(shop: Shop, user: UserId) -> None:
    await shop.start(credit=True)
    other = UserId(uuid4())
    await refunded_in_pages(shop, user)
    await refunded_in_pages(shop, other)
    await shop.told()
    asking = inquiries(shop)
    async with locking(shop, user, "SELECT lock_users(ARRAY[$1::uuid])"):
        assert await asking.run_once() == 2
        assert (await credit(shop, user), await credit(shop, other)) == (Decimal("2.00"), Decimal("0.50"))
        assert await asking.run_once() == 0
    shop.clock.move(seconds=6)
    assert (await asking.next_due() or shop.clock()) < shop.clock()
    assert await asking.run_once() == 1
    assert await credit(shop, user) == Decimal("0.50")
    assert await asking.next_due() is None


async def test_one_answer_that_cannot_be_read_puts_a_refund_off_by_a_minute(shop: Shop, user: UserId) -> None:
    await shop.start(credit=True)
    await refunded_in_pages(shop, user)
    await shop.told()
    asking = inquiries(shop)
    shop.simulator.set_faults(garbage=True)
    assert await asking.run_once() == 1
    shop.simulator.set_faults(garbage=False)
    assert await asking.run_once() == 0
    shop.clock.move(minutes=1)
    assert await asking.run_once() == 1
    assert await credit(shop, user) == Decimal("0.50")


async def test_only_what_btcpay_shows_as_a_refund_of_the_invoice_is_booked(shop: Shop, user: UserId) -> None:
    await shop.start(credit=True)
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    name = shop.btcpay_id(invoice)
    ordered = await Refunding(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock).refund(
        name, Decimal("1.00"), BY
    )
    await shop.front.execute(
        "UPDATE refunds SET pull_payment_id = NULL, link = NULL"
    )  # before it is attached
    shop.simulator.refund(name, refundVariant="RateThen")  # in bitcoin
    other = shop.at_btcpay(await shop.buy(UserId(uuid4())))
    elsewhere = shop.simulator.refund(other.id)
    for pull_payment in (elsewhere.id, "nothing"):
        body = {"type": "InvoiceRefund", "invoiceId": name, "pullPaymentId": pull_payment}
        await shop.front.inbox.record(shop.delivery(json.dumps(body).encode()))
    assert await inquire(shop) == 5
    assert ordered.pull_payment_id is not None
    assert await credit(shop, user) == Decimal("1.00")
    rows = await shop.front.rows("SELECT user_id, amount FROM ledger WHERE kind = 'refunded' ORDER BY id")
    assert [row["amount"] for row in rows] == [Decimal("-1.00"), Decimal("-5.00")]
    assert rows[1]["user_id"] != user
