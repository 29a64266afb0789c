"""Invoices that somebody vouches for after their money became credit, or after they were revoked (R8, R14).

The rule: a mark at BTCPay gives the plan, as settling by hand does. What is left of the invoice's money pays
for it; what was spent meanwhile is granted, and the ledger says so. No other debt is granted with it.
"""

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from kosmo_billing_daemon.admin.actions import AdminActions
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.store import ledger_faults
from tests.demo.btcpay.conftest import HandClock
from tests.domain.builders import WITH_PACK
from tests.services.conftest import Shop
from tests.services.test_credit import BY, credit
from tests.services.test_inquiries import inquire
from tests.services.test_packs import order


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    """A shop that gives credit."""
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(credit=True)
        yield opened
        async with opened.front.pool.connection() as connection:
            assert await ledger_faults.load(connection) == []


def operator(shop: Shop) -> AdminActions:
    front = shop.front
    return AdminActions(pool=front.pool, settlement=front.settlement, catalogue=BUILT_IN, clock=shop.clock)


async def booked(shop: Shop, invoice: Invoice) -> dict[str, Decimal]:
    """What an invoice has in the ledger."""
    rows = await shop.front.rows(
        "SELECT kind, sum(amount) FROM ledger WHERE invoice_id = $1 GROUP BY kind", invoice.id
    )
    return {row["kind"]: row["sum"] for row in rows if row["sum"]}


async def spent(shop: Shop, user: UserId) -> Invoice:
    """Leave a guardian of which 4.10 were paid, and spent elsewhere as credit once it had expired."""
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay_partial", "confirm", amount="4.10")
    await shop.wait(minutes=16)
    await shop.lightning(await shop.open(user))
    assert await credit(shop, user) == {}
    return invoice


LATE_AND_MARKED = ("pay_late", "confirm", "mark_invalid", "mark_settled", "mark_invalid", "mark_settled")


@pytest.mark.parametrize("seen", ["111111", "000000", "010100", "001010", "010010", "000101"])
async def test_whatever_was_seen_of_it_an_invoice_marked_settled_ends_the_same(
    shop: Shop, user: UserId, seen: str
) -> None:
    """Seen to fail where a mark left credit alone, and where a grant was forgotten by a revocation."""
    invoice = await spent(shop, user)
    for action, is_seen in zip(LATE_AND_MARKED, seen, strict=True):
        if is_seen == "1":
            await shop.act(invoice, action)
        else:
            await shop.simulator.act(shop.btcpay_id(invoice), action)
    await shop.told()
    await shop.front.execute("UPDATE lookups SET due_at = now() - interval '9 years'")
    await shop.front.settle()  # and seen once more
    assert await shop.front.statuses(user) == ["replaced", "active"]
    assert await booked(shop, invoice) == {
        "received": Decimal(12),
        "granted": Decimal("4.10"),
        "sold": Decimal(-12),
    }
    assert await credit(shop, user) == {}
    assert [case for case in await shop.front.cases(user) if case[2]] == []


async def test_the_ledger_says_that_a_mark_granted_what_had_been_spent(shop: Shop, user: UserId) -> None:
    invoice = await spent(shop, user)
    await shop.act(invoice, "pay_late", "confirm")
    assert (await shop.front.invoice(invoice.id))["effect"] == "credited"
    await shop.act(invoice, "mark_settled")
    rows = await shop.front.rows("SELECT amount, reason FROM ledger WHERE kind = 'granted'")
    assert [tuple(row) for row in rows] == [(Decimal("4.10"), "marked settled at BTCPay")]
    (row,) = [row for row in await shop.front.subscriptions(user) if row["invoice_id"] == invoice.id]
    assert (row["plan_type"], row["source"], row["status"]) == ("guardian", "manual", "active")


async def test_a_mark_does_not_forgive_what_is_owed_for_another_invoice(shop: Shop, user: UserId) -> None:
    late = await shop.open(user)
    await shop.wait(days=4)
    await shop.act(late, "pay_late", "confirm")  # too late: five dollars of credit
    await shop.lightning(await shop.open(user, "guardian"))  # for seven more
    shop.simulator.refund(
        shop.btcpay_id(late), refundVariant="Custom", customAmount="5.00", customCurrency="USD"
    )
    await inquire(shop)
    assert await credit(shop, user) == {"USD": Decimal(-5)}
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay_partial", "confirm", amount="1.00")
    await shop.wait(minutes=16)
    assert await credit(shop, user) == {"USD": Decimal(-4)}
    await shop.act(invoice, "mark_settled")
    assert await booked(shop, invoice) == {
        "received": Decimal(1),
        "granted": Decimal(12),
        "sold": Decimal(-12),
    }
    assert await credit(shop, user) == {"USD": Decimal(-4)}


async def test_what_is_marked_but_cannot_take_effect_stays_credit_until_it_is_marked_again(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user, "sanctuary")
    await shop.act(invoice, "pay_partial", "confirm")
    for _ in range(13):
        await shop.buy(user, "sanctuary")
    await shop.act(invoice, "mark_settled")
    assert (await shop.front.invoice(invoice.id))["effect"] == "credited"
    await shop.wait(days=100)
    await shop.front.execute("UPDATE lookups SET due_at = now() - interval '9 years'")
    await shop.front.settle()
    assert (await shop.front.invoice(invoice.id))["effect"] == "credited"
    assert await credit(shop, user) == {"USD": Decimal(25)}
    assert ("not_fulfilled", Decimal(25), True) in await shop.front.cases(user), "the mark had no effect"
    (case,) = await shop.front.rows("SELECT id FROM attention_cases WHERE closed_at IS NULL")
    await CaseActions(pool=shop.front.pool, clock=shop.clock).close(case["id"], BY)
    assert await credit(shop, user) == {"USD": Decimal(25)}
    await shop.act(invoice, "mark_invalid", "mark_settled")
    assert (await shop.front.invoice(invoice.id))["effect"] == "fulfilled"
    assert await credit(shop, user) == {}


async def test_a_pack_whose_mark_had_no_effect_is_no_case_once_it_is_marked_invalid(
    shop: Shop, user: UserId
) -> None:
    await shop.start(catalogue=WITH_PACK, credit=True)
    await shop.buy(user)
    pack = await order(shop, user)
    await shop.wait(days=31)
    await shop.act(pack, "mark_settled")
    assert await shop.front.cases(user) == [("not_fulfilled", Decimal(0), True)]
    await shop.act(pack, "mark_invalid")
    assert await shop.front.cases(user) == [("not_fulfilled", Decimal(0), False)]
    assert await credit(shop, user) == {}


async def test_settling_what_was_taken_back_here_gives_the_plan_and_no_money(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.buy(user)
    admin = operator(shop)
    await admin.revoke(user, None, BY)
    await admin.settle(shop.btcpay_id(invoice), BY)
    assert await shop.front.statuses(user) == ["active"]
    assert await booked(shop, invoice) == {"received": Decimal(5), "sold": Decimal(-5)}
    assert await credit(shop, user) == {}


@pytest.mark.parametrize("way", ["reinstate", "revoke and settle"])
async def test_giving_back_what_btcpay_calls_invalid_is_a_grant_in_the_books(
    shop: Shop, user: UserId, way: str
) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled", "mark_invalid")
    (row,) = await shop.front.subscriptions(user)
    admin = operator(shop)
    if way == "reinstate":
        await admin.reinstate(user, row["id"], BY)
    else:
        await admin.revoke(user, row["id"], BY)
        assert await credit(shop, user) == {}
        await admin.settle(shop.btcpay_id(invoice), BY)
    assert await shop.front.statuses(user) == ["active"]
    assert await booked(shop, invoice) == {"granted": Decimal(5), "sold": Decimal(-5)}
    await shop.act(invoice, "mark_settled")
    assert await booked(shop, invoice) == {"granted": Decimal(5), "sold": Decimal(-5)}
    assert await credit(shop, user) == {}
