"""Ten payments that no rule decides, as BTCPay brings them about, and the console of their shop."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.admin.access import ConsoleAccess
from kosmo_billing_daemon.admin.actions import AdminActions
from kosmo_billing_daemon.admin.extending import Extending
from kosmo_billing_daemon.console.desk import Desk
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.inquiries import Inquiries
from kosmo_billing_daemon.services.links import RenewalLinks
from tests.console.conftest import ConsoleShop, Visitor, ready, serve_desk
from tests.services.conftest import STEPS, STORE, Shop
from tests.support.quotes import quoting


def somebody(number: int) -> UserId:
    return UserId(UUID(int=number << 96 | 0x4000_8000 << 40))


async def paid_late(shop: Shop, user: UserId) -> Invoice:
    invoice = await shop.open(user)
    await shop.wait(minutes=16)
    await shop.wait(hours=72)
    await shop.act(invoice, "pay_late", "confirm")
    return invoice


async def paid_partly(shop: Shop, user: UserId, plan: str = "wanderer") -> Invoice:
    invoice = await shop.open(user, plan)
    await shop.act(invoice, "pay_partial", "confirm")
    await shop.wait(minutes=16)
    return invoice


async def paid_too_much(shop: Shop, user: UserId) -> Invoice:
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    return invoice


async def paid_another_price(shop: Shop, user: UserId) -> Invoice:
    invoice = await shop.open(user)
    dearer = "'wanderer', 6.00, 'USD', '30 days', 50, 'any_node', '{}'"
    change = quoting(dearer, "UPDATE btcpay_invoices SET quote_id = :quote WHERE id = $1")
    await shop.front.execute(change, invoice.id)
    await shop.lightning(invoice)
    return invoice


async def paid_invalid(shop: Shop, user: UserId) -> Invoice:
    invoice = await paid_partly(shop, user)
    await shop.act(invoice, "mark_invalid")
    return invoice


async def paid_twice(shop: Shop, user: UserId) -> Invoice:
    invoice = await shop.open(user)
    stray = await shop.front.btcpay.create_invoice(invoice.id, invoice.plan)
    await shop.simulator.act(stray.btcpay_invoice_id, "pay", method="BTC-LN")
    await shop.lightning(invoice)
    return invoice


async def paid_beyond_the_cap(shop: Shop, user: UserId) -> Invoice:
    await shop.buy(user)
    invoice = await shop.open(user)
    longer = "UPDATE subscriptions SET valid_until = valid_until + interval '380 days' WHERE user_id = $1"
    await shop.front.execute(longer, user)
    await shop.lightning(invoice)
    return invoice


async def paid_for_a_lost_order(shop: Shop) -> str:
    lost = await shop.front.btcpay.create_invoice(uuid4(), BUILT_IN.plans[0])
    await shop.simulator.act(lost.btcpay_invoice_id, "pay", method="BTC-LN")
    await shop.told()
    front = shop.front
    await Inquiries(pool=front.pool, btcpay=front.btcpay, store_id=STORE, clock=shop.clock).run_once()
    return lost.btcpay_invoice_id


async def owes(shop: Shop, user: UserId) -> Invoice:
    """Money is taken back that the user had spent."""
    invoice = await shop.buy(user)
    taken = (
        "INSERT INTO ledger (at, user_id, kind, amount, currency, invoice_id, who, reason)"
        " VALUES ($1, $2, 'refunded', -4, 'USD', $3, 'bob', 'refunded in BTCPay')"
    )
    await shop.front.execute(taken, shop.clock(), user, invoice.id)
    return invoice


async def ten_cases(shop: Shop) -> None:
    """One of each kind, and one partial payment more."""
    await paid_late(shop, somebody(1))
    await paid_partly(shop, somebody(2))
    await paid_too_much(shop, somebody(3))
    await paid_another_price(shop, somebody(4))
    await paid_invalid(shop, somebody(5))
    await paid_twice(shop, somebody(6))
    await paid_beyond_the_cap(shop, somebody(7))
    await paid_for_a_lost_order(shop)
    await owes(shop, somebody(9))
    await paid_partly(shop, somebody(10), "guardian")


async def console_of(shop: Shop, stack: AsyncExitStack) -> ConsoleShop:
    """Serve the console of a shop, on its clock."""
    front = shop.front
    desk = Desk(
        pool=front.pool,
        clock=shop.clock,
        access=ConsoleAccess(pool=front.pool, clock=shop.clock),
        operations=AdminActions(
            pool=front.pool, settlement=front.settlement, catalogue=BUILT_IN, clock=shop.clock
        ),
        extending=Extending(pool=front.pool, clock=shop.clock, remind_hours=STEPS),
        renewals=AutoRenewals(pool=front.pool, clock=shop.clock, catalogue=BUILT_IN, spends=True),
        settlement=front.settlement,
        links=RenewalLinks(pool=front.pool, clock=shop.clock, key=b"key", public_url="https://b.example"),
        readiness=ready,
    )
    return await serve_desk(stack, desk, shop.simulator)


@pytest.fixture
async def console(business: Shop) -> AsyncIterator[ConsoleShop]:
    """The console of a shop that goes about its business."""
    async with AsyncExitStack() as stack:
        yield await console_of(business, stack)


@pytest.fixture
async def alice(console: ConsoleShop) -> Visitor:
    """An operator who is logged in there."""
    return await console.operator()
