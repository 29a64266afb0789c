"""Our books beside BTCPay's own list: they agree, and every kind of difference is named."""

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.books import Difference, compare
from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.store.ledger_faults import load
from tests.services.conftest import Shop


async def differences(shop: Shop) -> list[Difference]:
    day = timedelta(days=1)
    return await compare(shop.front.pool, shop.front.btcpay, shop.clock() - day, shop.clock() + day)


async def test_books_agree_after_payments_of_every_kind(shop: Shop, user: UserId) -> None:
    await shop.start(credit=True)
    await shop.buy(user)
    await shop.lightning(await shop.open(user, "guardian"), "14.00")
    await shop.act(await shop.open(user, "sanctuary"), "mark_settled")
    other = UserId(uuid4())
    partly = await shop.open(other, "wanderer")
    await shop.act(partly, "pay_partial", "confirm", amount="1.00")
    late = await shop.open(other, "guardian")
    await shop.open(other, "sanctuary")
    await shop.wait(minutes=16)
    await shop.act(late, "pay_late", "confirm")
    assert await differences(shop) == []


async def test_a_paid_order_that_the_database_lost_is_named_with_its_sum(shop: Shop) -> None:
    lost = await shop.front.btcpay.create_invoice(uuid4(), BUILT_IN.plans[0])
    await shop.simulator.act(lost.btcpay_invoice_id, "pay", method="BTC-LN")
    await shop.told()
    (found,) = await differences(shop)
    assert (found.invoice_id, found.amount, found.currency) == (lost.btcpay_invoice_id, Decimal(5), "USD")
    assert found.fact == "an order that this database does not know was paid 5.00"


async def test_a_second_payment_of_one_order_is_named(shop: Shop, user: UserId) -> None:
    invoice = await shop.buy(user)
    second = await shop.front.btcpay.create_invoice(invoice.id, BUILT_IN.plans[0])
    await shop.simulator.act(second.btcpay_invoice_id, "pay", method="BTC-LN")
    await shop.told()
    (found,) = await differences(shop)
    assert found.fact == f"a further invoice of order {invoice.id} was paid 5.00"


async def test_a_payment_that_nobody_noticed_is_named_with_what_is_missing(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", method="BTC-LN")
    (found,) = await differences(shop)
    assert found.fact == "BTCPay received 5.00, the ledger has 0"


async def test_an_invoice_that_btcpay_does_not_list_is_named(shop: Shop, user: UserId) -> None:
    invoice = await shop.buy(user)
    shop.simulator._engine.ledger.by_id.clear()
    shop.simulator._engine.ledger = type(shop.simulator._engine.ledger)()
    (found,) = await differences(shop)
    assert (found.invoice_id, found.fact) == (shop.btcpay_id(invoice), "BTCPay does not list it")


async def test_many_invoices_are_read_in_pages(shop: Shop, user: UserId) -> None:
    for _ in range(203):
        await shop.front.btcpay.create_invoice(uuid4(), BUILT_IN.plans[0])
    invoice = await shop.open(user)
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", method="BTC-LN")
    assert [found.invoice_id for found in await differences(shop)] == [shop.btcpay_id(invoice)]


RELEASED = """
UPDATE subscriptions SET stack = jsonb_build_object('lots', jsonb_build_array(),
    'released', jsonb_build_array(jsonb_build_object('purchase', id, 'worth', '2', 'currency', 'USD')))
"""
ENTRY = """
INSERT INTO ledger (at, user_id, kind, amount, currency, invoice_id, who, reason)
SELECT at, user_id, {}, 'USD', {}, 'ann', 'a plant' FROM ledger LIMIT 1
"""


PLANTED = {
    ENTRY.format("'received', 1", "invoice_id"): "received: 8.00, must be 7.00",
    ENTRY.format("'refunded', -1", "NULL"): "refunded to user {user}: 1, must be 0",
    ENTRY.format("'sold', -1", "user_id"): "booked for an invoice that is not there: -1, must be 0",
    "UPDATE btcpay_invoices SET received = 6": "received: 7.00, must be 6",
    "UPDATE btcpay_invoices SET adjusted = -1": "granted or written off: 0, must be -1",
    "UPDATE btcpay_invoices SET effect = 'credited'": "sold: 5.00, must be 0",
    "UPDATE btcpay_invoices SET effect = 'withdrawn'": "given: 1, must be 0",
    "UPDATE btcpay_invoices SET user_id = id": "users beside its own: 1, must be 0",
    "UPDATE refunds SET cancelled_at = ordered_at": "refunded: 0.50, must be 0",
    RELEASED: "taken back of purchase {purchase} in USD: 0, must be 2",
}


async def test_whatever_is_wrong_in_the_ledger_itself_is_named(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    refunding = Refunding(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock)
    await refunding.refund(shop.btcpay_id(invoice), Decimal("0.50"), OperatorAction("ann", "a test"))
    assert await differences(shop) == []
    (bought,) = await shop.front.subscriptions(user)
    for planted, fact in PLANTED.items():
        right = fact.replace("{user}", str(user)).replace("{purchase}", str(bought["id"]))
        async with shop.front.pool.connection() as connection:
            await connection.execute("BEGIN")
            await connection.execute(planted)
            found = [
                f"{each.what}: {each.booked:f}, must be {each.right:f}" for each in await load(connection)
            ]
            await connection.execute("ROLLBACK")
        assert right in found, planted
    await shop.front.execute(next(iter(PLANTED)))
    (found_at_last,) = await differences(shop)
    assert found_at_last.fact == "received: 8.00, must be 7.00; report this as a bug"
