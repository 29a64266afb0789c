"""R9: what is fulfilled is what was quoted; anything else is listed and activates nothing."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.books import compare
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.demo.btcpay import SimulatedStore
from kosmo_billing_daemon.demo.btcpay.invoices import CURRENCIES
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from tests.services.conftest import KEY, STORE, Shop, nothing_more
from tests.services.test_opening import create_at_btcpay

CREATED, SETTLED, ATTENTION = "invoice.created", "invoice.settled", "invoice.needs_attention"
ACTIVATED = "subscription.activated"


async def relabel(shop: Shop, invoice: Invoice, order_id: str | None) -> None:
    """Replace the metadata at BTCPay, as anybody with its key can."""
    url = f"{shop.simulator.url}/api/v1/stores/{STORE}/invoices/{shop.btcpay_id(invoice)}"
    body: dict[str, Any] = {"metadata": {} if order_id is None else {"orderId": order_id}}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"token {KEY}"}) as session,
        session.put(url, json=body) as answer,
    ):
        assert answer.status == 200


async def detail(shop: Shop) -> str:
    (case,) = await shop.front.rows("SELECT detail FROM attention_cases")
    return str(case["detail"])


@pytest.mark.parametrize("order_id", ["somebody-else", None])
async def test_changed_order_id_activates_nothing_and_is_listed(
    shop: Shop, user: UserId, order_id: str | None
) -> None:
    invoice = await shop.open(user)
    await relabel(shop, invoice, order_id)
    await shop.lightning(invoice)
    assert await shop.front.events(user) == [CREATED, ATTENTION]
    assert await shop.front.cases(user) == [("mismatch", Decimal("5.00"), True)]
    assert await detail(shop) == f"order id is {order_id}, quoted for {invoice.id}"
    assert await shop.front.subscriptions(user) == []
    assert (await shop.front.invoice(invoice.id))["effect"] == "none"


async def test_order_id_of_another_invoice_activates_neither(shop: Shop, user: UserId) -> None:
    cheap = await shop.open(user, "wanderer")
    dear = await shop.open(user, "sanctuary")
    await relabel(shop, cheap, str(dear.id))
    await shop.lightning(cheap)
    assert await shop.front.subscriptions(user) == []
    kinds = {kind for kind, _, _ in await shop.front.cases(user)}
    assert kinds == {"mismatch", "paid_twice"}
    assert (await shop.front.invoice(dear.id))["status"] == "new"
    await shop.lightning(dear)
    (row,) = await shop.front.subscriptions(user)
    assert (row["plan_type"], row["invoice_id"]) == ("sanctuary", dear.id)


async def test_changed_price_activates_nothing_and_is_listed(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user, "sanctuary")
    shop.at_btcpay(invoice).price = Decimal("0.01")
    await shop.lightning(invoice)
    assert await shop.front.events(user) == [CREATED, ATTENTION]
    assert await shop.front.cases(user) == [("mismatch", Decimal("0.01"), True)]
    assert await detail(shop) == "price is 0.01 USD, quoted 50.00 USD"
    assert await shop.front.subscriptions(user) == []


async def test_changed_currency_activates_nothing_and_is_listed(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    shop.at_btcpay(invoice).currency = CURRENCIES["JPY"]
    await shop.lightning(invoice)
    assert await shop.front.events(user) == [CREATED, ATTENTION]
    assert await shop.front.cases(user) == [("mismatch", Decimal("5.00"), True)]
    assert await shop.front.subscriptions(user) == []


async def test_invoice_of_another_store_is_never_seen(shop: Shop, user: UserId) -> None:
    """A second store on the same server, with a key of its own, cannot pay for an order of ours."""
    invoice = await shop.open(user)
    shop.simulator.add_store(
        SimulatedStore(store_id="StoreTwo", api_key="b2" * 20, expiration_minutes=15, monitoring_minutes=1440)
    )
    async with BtcpayClient(url=shop.simulator.url, api_key="b2" * 20, store_id="StoreTwo") as foreign:
        cheap = await foreign.create_invoice(invoice.id, BUILT_IN.plans[0])
    await shop.simulator.act(cheap.btcpay_invoice_id, "pay", None, "BTC-LN")
    await shop.front.inbox.record(
        shop.delivery(
            b'{"type": "InvoiceSettled", "deliveryId": "x", "invoiceId": "%s", "metadata": {"orderId": "%s"}}'
            % (cheap.btcpay_invoice_id.encode(), str(invoice.id).encode())
        )
    )
    assert await shop.front.settle() == 1
    assert await shop.front.events(user) == [CREATED]
    assert (await shop.front.invoice(invoice.id))["status"] == "new"


async def test_operator_may_settle_a_mismatch_and_btcpay_cannot_undo_it_by_repeating(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    await relabel(shop, invoice, "somebody-else")
    await shop.lightning(invoice)
    await shop.front.settlement.settle_by_hand(invoice.id, "checked", also=nothing_more)
    await shop.front.settlement.settle((await shop.front.settlement.look_up([invoice])).observations)
    assert await shop.front.events(user) == [CREATED, ATTENTION, SETTLED, ACTIVATED]
    assert await shop.front.cases(user) == [("mismatch", Decimal("5.00"), False)]


async def test_mismatch_that_is_fixed_at_btcpay_is_fulfilled(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await relabel(shop, invoice, "a typing error")
    await shop.lightning(invoice)
    await relabel(shop, invoice, str(invoice.id))
    again = shop.delivery(
        b'{"type": "InvoiceSettled", "deliveryId": "again", "invoiceId": "%s"}'
        % shop.btcpay_id(invoice).encode()
    )
    await shop.front.inbox.record(again)
    await shop.front.settle()
    assert (await shop.front.events(user))[-1] == ACTIVATED
    assert await shop.front.statuses(user) == ["active"]


async def test_money_on_second_invoices_of_one_order_is_one_case_that_an_operator_turns_into_credit(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    await shop.lightning(invoice)
    strays = [await create_at_btcpay(shop, invoice.id) for _ in range(2)]
    for stray in strays:
        await shop.simulator.act(stray, "pay", None, "BTC-LN")
    await shop.told()
    ((kind, amount, is_open),) = await shop.front.cases(user)
    assert (kind, is_open, str(amount)) == ("paid_twice", True, "10.00")
    assert await shop.front.statuses(user) == ["active"]
    events = await shop.front.events(user)
    assert events[:3] == [CREATED, SETTLED, ACTIVATED]
    assert set(events[3:]) == {ATTENTION}
    (row,) = await shop.front.rows("SELECT id FROM attention_cases")
    acting, by = CaseActions(pool=shop.front.pool, clock=shop.clock), OperatorAction("eva", "ticket 7")
    with pytest.raises(Conflict):
        await acting.give(row["id"], UserId(uuid4()), by)
    await acting.give(row["id"], user, by)
    (credit,) = await shop.front.rows("SELECT sum(amount) FROM ledger WHERE user_id = $1", user)
    assert str(credit["sum"]) == "10.00"
    assert await shop.front.cases(user) == [("paid_twice", Decimal(10), False)]


async def test_confirmed_money_on_a_second_invoice_of_an_order_is_credit_once(
    shop: Shop, user: UserId
) -> None:
    await shop.start(credit=True)
    invoice = await shop.open(user)
    await shop.lightning(invoice)
    for total in ("5.00", "10.00"):
        stray = await create_at_btcpay(shop, invoice.id)
        await shop.simulator.act(stray, "pay", None, "BTC-LN")
        await shop.told()
        # Whoever looks again sees the same money, which was decided about.
        await shop.front.settlement.settle((await shop.front.settlement.look_up([invoice])).observations)
        (credit,) = await shop.front.rows("SELECT sum(amount) FROM ledger WHERE user_id = $1", user)
        assert str(credit["sum"]) == total
        assert await shop.front.cases(user) == [("paid_twice", Decimal(total), False)]
    assert (await shop.front.events(user))[3:] == ["credit.added", "credit.added"]
    day = timedelta(days=1)
    compared = await compare(shop.front.pool, shop.front.btcpay, shop.clock() - day, shop.clock() + day)
    assert compared == []
