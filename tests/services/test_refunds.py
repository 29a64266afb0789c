"""Refunds of credit at a simulated BTCPay: nothing goes out twice, and nothing is lost in between."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.books import compare
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid, KosmoError, NotFound, Unavailable
from tests.demo.btcpay.conftest import HandClock
from tests.services.conftest import KEY, Shop
from tests.services.test_books import differences
from tests.services.test_credit import paid_partly
from tests.services.test_inquiries import PAID, inquire, lost

BY = OperatorAction("eva", "ticket 7")


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(credit=True)
        yield opened


def refunding(shop: Shop) -> Refunding:
    return Refunding(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock)


async def overpaid(shop: Shop, user: UserId) -> str:
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    return shop.btcpay_id(invoice)


async def credit(shop: Shop, user: UserId) -> Decimal:
    (row,) = await shop.front.rows("SELECT sum(amount) FROM ledger WHERE user_id = $1", user)
    amount: Decimal = row["sum"]
    return amount


async def test_a_refund_takes_the_credit_and_a_repeat_returns_the_same_link(shop: Shop, user: UserId) -> None:
    name = await overpaid(shop, user)
    made = await refunding(shop).refund(name, None, BY)
    assert (made.total.amount, made.link) == (
        Decimal("2.00"),
        f"{shop.simulator.url}/pull-payments/{made.pull_payment_id}",
    )
    assert await credit(shop, user) == 0
    assert await refunding(shop).refund(name, None, BY) == made
    assert len(shop.simulator.pull_payments) == 1
    assert (await shop.front.events(user))[-1] == "credit.refunded"
    rows = await shop.front.rows("SELECT who, reason FROM ledger WHERE kind = 'refunded'")
    assert [tuple(row) for row in rows] == [("eva", "ticket 7")]


async def test_a_cancelled_refund_is_credit_again_and_cannot_be_claimed(shop: Shop, user: UserId) -> None:
    name = await overpaid(shop, user)
    made = await refunding(shop).refund(name, Decimal("1.50"), BY)
    assert await credit(shop, user) == Decimal("0.50")
    await refunding(shop).cancel(name, BY)
    assert await credit(shop, user) == Decimal(2)
    assert shop.simulator.pull_payments[made.pull_payment_id or ""].archived
    (reversal,) = await shop.front.rows("SELECT reverses FROM ledger WHERE kind = 'refunded' AND amount > 0")
    assert reversal["reverses"] is not None
    again = await refunding(shop).refund(name, None, BY)
    assert again.pull_payment_id != made.pull_payment_id


async def test_a_claimed_refund_is_not_cancelled(shop: Shop, user: UserId) -> None:
    name = await overpaid(shop, user)
    made = await refunding(shop).refund(name, None, BY)
    shop.simulator.claim(made.pull_payment_id or "")
    with pytest.raises(Conflict) as refused:
        await refunding(shop).cancel(name, BY)
    assert refused.value.code == "refund_claimed"
    assert await credit(shop, user) == 0


async def test_another_refund_of_an_invoice_follows_when_the_last_is_paid(shop: Shop, user: UserId) -> None:
    name = await overpaid(shop, user)
    first = await refunding(shop).refund(name, Decimal("0.50"), BY)
    payout = shop.simulator.claim(first.pull_payment_id or "")
    for amount, another, code in (
        (None, False, None),
        (Decimal(1), False, "refund_open"),
        (None, True, None),
    ):
        if code is None:
            assert await refunding(shop).refund(name, amount, BY, another=another) == first
        else:
            with pytest.raises(Conflict) as refused:
                await refunding(shop).refund(name, amount, BY, another=another)
            assert refused.value.code == code
    shop.simulator.pay_out(payout)
    second = await refunding(shop).refund(name, Decimal("0.70"), BY, another=True)
    assert (second.id != first.id, await credit(shop, user)) == (True, Decimal("0.80"))
    assert await refunding(shop).refund(name, None, BY) == second
    await refunding(shop).cancel(name, BY)
    paid = await refunding(shop).refund(name, None, BY)  # a repeat pays nothing out by itself
    assert (paid.id, paid.paid_at, await credit(shop, user)) == (first.id, shop.clock(), Decimal("1.50"))


async def test_a_users_credit_is_refunded_by_all_invoices_that_brought_it_in(
    shop: Shop, user: UserId
) -> None:
    names = []
    for _ in range(2):
        names.append(await overpaid(shop, user))
        shop.clock.move(minutes=1)
    assert await credit(shop, user) == Decimal(4)
    made = await refunding(shop).refund_all(user, None, BY)
    assert [(one.btcpay_invoice_id, one.total.amount) for one in made] == [(names[1], Decimal(4))]
    assert await refunding(shop).refund_all(user, None, BY) == made
    await refunding(shop).cancel(names[1], BY)
    await paid_partly(shop, user, "4.00")
    await paid_partly(shop, user, "3.00")
    made = await refunding(shop).refund_all(user, Decimal("10.50"), BY)
    assert [one.total.amount for one in made] == [Decimal("3.50"), Decimal(4), Decimal(3)]
    assert await credit(shop, user) == Decimal("0.50")
    with pytest.raises(Conflict) as refused:
        await refunding(shop).refund_all(UserId(uuid4()), None, BY)
    assert refused.value.code == "no_credit"


@pytest.mark.parametrize("given", [False, True])
async def test_money_for_an_unknown_order_is_refunded_once_by_its_invoice(
    shop: Shop, user: UserId, given: bool
) -> None:
    name = await lost(shop, *PAID)
    await inquire(shop)
    (case,) = await shop.front.rows("SELECT id FROM attention_cases WHERE kind = 'unknown_order'")
    if given:
        await CaseActions(pool=shop.front.pool, clock=shop.clock).give(case["id"], user, BY)
    made = await refunding(shop).refund(name, None, BY)
    assert (made.total.amount, made.user_id) == (Decimal(5), user if given else None)
    assert await refunding(shop).refund(name, None, BY) == made
    assert len(shop.simulator.pull_payments) == 1
    cases = "SELECT closed_at IS NULL AS is_open, decided FROM attention_cases WHERE kind = 'unknown_order'"
    assert [tuple(row) for row in await shop.front.rows(cases)] == [(False, Decimal(5))]
    await refunding(shop).cancel(name, BY)
    expected = (False, Decimal(5)) if given else (True, Decimal(0))
    assert [tuple(row) for row in await shop.front.rows(cases)] == [expected]
    again = await refunding(shop).refund(name, None, BY)
    assert again.id != made.id


async def test_what_the_user_does_not_have_is_not_refunded(shop: Shop, user: UserId) -> None:
    invoice = await shop.buy(user)
    with pytest.raises(Conflict) as refused:
        await refunding(shop).refund(shop.btcpay_id(invoice), None, BY)
    assert refused.value.code == "no_credit"
    name = await overpaid(shop, user)
    for amount in ("2.01", "0.001", "0", "-1"):
        with pytest.raises(KosmoError):
            await refunding(shop).refund(name, Decimal(amount), BY)
    assert shop.simulator.pull_payments == {}
    assert await credit(shop, user) == Decimal(2)


async def test_an_order_that_btcpay_refuses_gives_the_credit_back(shop: Shop, user: UserId) -> None:
    name = await overpaid(shop, user)
    shop.simulator.add_key(KEY, ("btcpay.store.canmodifyinvoices",))
    with pytest.raises(Unavailable, match="cancreatenonapprovedpullpayments"):
        await refunding(shop).refund(name, None, BY)
    assert await credit(shop, user) == Decimal(2)


async def test_an_order_whose_end_is_not_known_is_completed_and_never_doubled(
    shop: Shop, user: UserId
) -> None:
    name = await overpaid(shop, user)
    await shop.simulator.go_away()
    with pytest.raises(Unavailable):
        await refunding(shop).refund(name, None, BY)
    assert await credit(shop, user) == 0  # it may have arrived
    await shop.simulator.come_back()
    with pytest.raises(Conflict) as refused:
        await refunding(shop).refund(name, None, BY)  # the first try may still be under way
    assert refused.value.code == "refund_in_progress"
    shop.clock.move(minutes=1)
    made = await refunding(shop).refund(name, None, BY)
    await shop.front.execute("UPDATE refunds SET pull_payment_id = NULL, link = NULL")  # as after a crash
    shop.clock.move(minutes=1)
    assert await refunding(shop).refund(name, None, BY) == made
    assert len(shop.simulator.pull_payments) == 1
    assert await credit(shop, user) == 0


async def test_a_refund_made_in_btcpays_pages_is_named_and_booked_once(shop: Shop, user: UserId) -> None:
    name = await overpaid(shop, user)
    made = shop.simulator.refund(name, refundVariant="Custom", customAmount="2.00", customCurrency="USD")
    day = timedelta(days=1)
    (found,) = await compare(shop.front.pool, shop.front.btcpay, shop.clock() - day, shop.clock() + day)
    assert found.fact == f"refund {made.id} over 2.00 was made in BTCPay and is not in the ledger"
    booked = await refunding(shop).record(name, made.id, BY)
    assert await refunding(shop).record(name, made.id, BY) == booked
    assert await credit(shop, user) == 0
    assert await compare(shop.front.pool, shop.front.btcpay, shop.clock() - day, shop.clock() + day) == []


async def test_what_is_no_refund_of_the_invoice_is_not_booked(shop: Shop, user: UserId) -> None:
    name = await overpaid(shop, user)
    bitcoin = shop.simulator.refund(name, refundVariant="RateThen")
    archived = shop.simulator.refund(name)
    await shop.front.btcpay.ask("archive", f"pull-payments/{archived.id}", method="DELETE")
    for pull_payment, code in ((bitcoin.id, "refund_currency"), (archived.id, "refund_archived")):
        with pytest.raises(Conflict) as refused:
            await refunding(shop).record(name, pull_payment, BY)
        assert refused.value.code == code
    with pytest.raises(NotFound):
        await refunding(shop).record(name, "nothing", BY)
    assert await credit(shop, user) == Decimal(2)


async def test_a_refund_in_bitcoin_is_booked_by_what_the_operator_says_it_was_worth(
    shop: Shop, user: UserId
) -> None:
    name = await overpaid(shop, user)
    made = shop.simulator.refund(name, refundVariant="RateThen")
    for wrong in ("0", "0.001"):
        with pytest.raises(Invalid):
            await refunding(shop).record(name, made.id, BY, worth=Decimal(wrong))
    for _ in range(2):
        await refunding(shop).record(name, made.id, BY, worth=Decimal("1.75"))
    assert await credit(shop, user) == Decimal("0.25")
    assert await differences(shop) == []


@pytest.mark.parametrize("in_pages", [False, True])
async def test_a_refund_that_is_archived_in_btcpay_is_named_and_can_be_taken_back(
    shop: Shop, user: UserId, in_pages: bool
) -> None:
    """Nobody can claim it any more, so the money is the user's; BTCPay tells nobody."""
    name = await overpaid(shop, user)
    if in_pages:
        made = shop.simulator.refund(name, refundVariant="Custom", customAmount="2.00", customCurrency="USD")
        await inquire(shop)
        pull_payment = made.id
    else:
        pull_payment = (await refunding(shop).refund(name, None, BY)).pull_payment_id or ""
    assert (await credit(shop, user), await differences(shop)) == (Decimal(0), [])
    await shop.front.btcpay.ask("archive", f"pull-payments/{pull_payment}", method="DELETE")
    (found,) = await differences(shop)
    assert (found.invoice_id, found.amount) == (name, Decimal(2))
    await refunding(shop).cancel(name, BY)
    assert (await credit(shop, user), await differences(shop)) == (Decimal(2), [])
    for body in shop.bodies:  # BTCPay's words again, which book nothing
        await shop.front.inbox.record(shop.delivery(body, str(uuid4())))
    await inquire(shop)
    assert await credit(shop, user) == Decimal(2)


@pytest.mark.parametrize("is_archived", [False, True])
async def test_what_is_left_of_a_refund_that_was_paid_in_part_can_be_taken_back(
    shop: Shop, user: UserId, is_archived: bool
) -> None:
    name = await overpaid(shop, user)
    made = await refunding(shop).refund(name, None, BY)
    pull_payment = made.pull_payment_id or ""
    payout = shop.simulator.claim(pull_payment, "0.50")
    with pytest.raises(Conflict):
        await refunding(shop).cancel(name, BY)
    assert not shop.simulator.pull_payments[pull_payment].archived
    shop.simulator.pay_out(payout)
    if is_archived:
        await shop.front.btcpay.ask("archive", f"pull-payments/{pull_payment}", method="DELETE")
        assert [found.amount for found in await differences(shop)] == [Decimal("1.50")]
    taken = await refunding(shop).cancel(name, BY)
    assert (taken.total.amount, await credit(shop, user)) == (Decimal("1.50"), Decimal("1.50"))
    assert shop.simulator.pull_payments[pull_payment].archived
    assert await differences(shop) == []
    with pytest.raises(NotFound):  # all of it is paid now
        await refunding(shop).cancel(name, BY)
    another = await refunding(shop).refund(name, None, BY, another=True)
    assert (another.total.amount, await credit(shop, user)) == (Decimal("1.50"), Decimal(0))


async def test_a_refund_in_btcpays_pages_of_an_orders_second_invoice_is_booked_by_itself(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    stray = await shop.front.btcpay.create_invoice(invoice.id, invoice.plan)
    await shop.simulator.act(stray.btcpay_invoice_id, "pay", method="BTC-LN")
    await shop.lightning(invoice)
    assert await credit(shop, user) == Decimal(5)
    shop.simulator.refund(
        stray.btcpay_invoice_id, refundVariant="Custom", customAmount="5.00", customCurrency="USD"
    )
    await inquire(shop)
    assert (await credit(shop, user), await differences(shop)) == (Decimal(0), [])


async def test_closing_cases_writes_off_no_credit_that_was_spent_or_is_of_before(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay_partial", "confirm", amount="6.00")
    await shop.wait(minutes=16)
    await shop.open(user)  # which five of the six pay
    shop.simulator.replace_metadata(shop.btcpay_id(invoice), {"orderId": "edited"})
    await shop.act(invoice, "pay", amount="0.50")  # not confirmed, and BTCPay tells of it
    await shop.front.execute("UPDATE lookups SET due_at = now() - interval '9 years'")
    await shop.front.settle()
    listed = await shop.front.rows(
        "SELECT id, kind FROM attention_cases WHERE closed_at IS NULL ORDER BY kind"
    )
    assert [case["kind"] for case in listed] == ["mismatch", "partial_payment"]
    for case, left in zip(listed, (1, 0), strict=True):
        await CaseActions(pool=shop.front.pool, clock=shop.clock).close(case["id"], BY)
        assert await credit(shop, user) == left
