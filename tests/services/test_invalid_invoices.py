"""What becomes of money on invoices that turn invalid, or are paid while they are (R8, R13, R14)."""

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.demo.btcpay.conftest import HandClock
from tests.services.conftest import Shop, nothing_more
from tests.services.test_books import differences
from tests.services.test_credit import credit, credited, entries
from tests.services.test_decisions import operations


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    """A shop that gives credit."""
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(credit=True)
        yield opened


async def test_an_invoice_that_turns_invalid_reverses_what_it_booked(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled", "mark_invalid", "mark_settled", "mark_invalid")
    assert await credit(shop, user) == {}
    booked = await entries(shop, user)
    assert (
        booked
        == [
            ("granted", "5", False),
            ("sold", "-5", False),
            ("granted", "-5", True),
            ("sold", "5", True),
        ]
        * 2
    )


@pytest.mark.parametrize("is_seen", [True, False])
async def test_what_is_confirmed_on_an_invalid_invoice_is_a_case_unless_it_was_credit_before(
    shop: Shop, user: UserId, is_seen: bool
) -> None:
    """Seen to fail: money on an invoice whose plan was taken back was listed nowhere."""
    late, partly = await shop.open(user, "guardian"), await shop.open(user)
    if not is_seen:
        shop.simulator.set_faults(webhooks={"drop": 1.0})
    for invoice, amount in ((late, "13.00"), (partly, "2.50")):
        await shop.simulator.act(shop.btcpay_id(invoice), "expire")
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", amount)
        await shop.simulator.act(shop.btcpay_id(invoice), "confirm")
        await shop.told()
    assert await shop.front.statuses(user) == (["active"] if is_seen else [])
    assert await credit(shop, user) == ({"USD": Decimal("3.50")} if is_seen else {})
    shop.simulator.set_faults(webhooks={"drop": 0})
    for invoice in (late, partly):
        await shop.act(invoice, "mark_invalid")
    assert await credit(shop, user) == ({"USD": Decimal("2.50")} if is_seen else {})
    listed = {amount for kind, amount, is_open in await shop.front.cases(user) if is_open}
    assert listed == {Decimal(13)} | (set() if is_seen else {Decimal("2.50")})
    assert await shop.front.statuses(user) == (["revoked"] if is_seen else [])
    assert {each.amount for each in await differences(shop)} == listed
    await shop.act(late, "mark_settled")
    assert Decimal(13) not in {amount for _, amount, is_open in await shop.front.cases(user) if is_open}
    await shop.act(late, "mark_invalid")
    assert {amount for _, amount, is_open in await shop.front.cases(user) if is_open} == listed


async def test_what_an_invalid_invoice_had_brought_in_pays_for_settling_it_by_hand(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    await shop.wait(days=4)
    await shop.act(invoice, "pay_late", "confirm")
    assert await credit(shop, user) == {"USD": Decimal(5)}
    await shop.act(invoice, "mark_invalid")
    await shop.front.settlement.settle_by_hand(invoice.id, "it did arrive", also=nothing_more)
    await shop.act(invoice, "pay", amount="0.50")  # which BTCPay tells, so that it is looked up again
    assert await shop.front.statuses(user) == ["active"]
    assert await credit(shop, user) == {}


async def test_a_plan_given_back_by_an_operator_is_paid_with_credit_that_its_revocation_returned(
    shop: Shop, user: UserId
) -> None:
    """What is left of it pays; the rest is granted, and nothing is owed."""
    for spends in (False, True):
        await credited(shop, user, "2.00")
        invoice = await shop.open(user, "guardian")
        assert invoice.asked.amount == 10
        await shop.act(invoice, "expire", "pay_late", "confirm")
        await shop.act(invoice, "mark_invalid")
        assert await credit(shop, user) == {"USD": Decimal(2)}
        rows = await shop.front.subscriptions(user)
        if spends:
            await shop.open(user)  # for which it is reserved
        bought = next(row["id"] for row in rows if row["invoice_id"] == invoice.id)
        await operations(shop.front, shop).reinstate(user, bought, OperatorAction("ann", "a slip"))
        assert await credit(shop, user) == ({"USD": Decimal(2)} if spends else {})
    assert [each.amount for each in await differences(shop)] == [Decimal(10)] * 2, "and nothing else"
