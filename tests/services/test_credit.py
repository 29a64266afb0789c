"""Where every cent goes (R13, R14): the ledger of real invoices at a simulated BTCPay."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue
from kosmo_billing_daemon.domain.subscriptions import Refusal, UserId
from kosmo_billing_daemon.errors import Conflict, Unavailable
from kosmo_billing_daemon.services.credit import CreditAccounts
from tests.demo.btcpay.conftest import HandClock
from tests.domain.builders import plan
from tests.services.conftest import Shop, nothing_more

DAY = timedelta(days=1)
BY = OperatorAction("eva", "ticket 7")


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    """A shop that gives credit."""
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(credit=True)
        yield opened


async def entries(shop: Shop, user: UserId) -> list[tuple[str, str, bool]]:
    """A user's postings: kind, amount, and whether it takes an earlier one back."""
    rows = await shop.front.rows("SELECT * FROM ledger WHERE user_id = $1 ORDER BY id", user)
    return [(row["kind"], f"{row['amount'].normalize():f}", row["reverses"] is not None) for row in rows]


async def credit(shop: Shop, user: UserId) -> dict[str, Decimal]:
    rows = await shop.front.rows(
        "SELECT currency, sum(amount) FROM ledger WHERE user_id = $1 GROUP BY currency", user
    )
    return {row["currency"]: row["sum"] for row in rows if row["sum"]}


async def events(shop: Shop, user: UserId) -> list[str]:
    return [name for name in await shop.front.events(user) if name.startswith("credit.")]


async def test_a_purchase_is_received_and_sold_and_leaves_nothing(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    assert await entries(shop, user) == [("received", "5", False), ("sold", "-5", False)]
    assert await events(shop, user) == []


async def test_a_partial_payment_of_an_expired_invoice_is_credit_and_no_case(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay_partial", "confirm", amount="4.10")
    await shop.wait(minutes=16)
    assert await credit(shop, user) == {"USD": Decimal("4.10")}
    assert await shop.front.cases(user) == []
    assert await events(shop, user) == ["credit.added"]


async def test_unconfirmed_money_is_no_credit_yet(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay_partial", amount="4.10")
    await shop.wait(minutes=16)
    assert await credit(shop, user) == {}
    await shop.act(invoice, "confirm")
    await shop.wait(minutes=10)
    assert await credit(shop, user) == {"USD": Decimal("4.10")}
    assert await shop.front.cases(user) == [("partial_payment", Decimal("4.10"), False)]


async def test_the_excess_of_an_overpayment_is_credit(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    assert await credit(shop, user) == {"USD": Decimal("2.00")}
    assert await shop.front.statuses(user) == ["active"]
    assert await shop.front.cases(user) == []


async def test_a_rest_paid_late_buys_with_what_was_credited(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay_partial", "confirm", amount="4.10")
    await shop.wait(minutes=16)
    await shop.act(invoice, "pay", "confirm", amount="7.90")
    await shop.wait(minutes=10)
    assert await shop.front.statuses(user) == ["active"]
    assert await credit(shop, user) == {}
    assert await events(shop, user) == ["credit.added", "credit.spent"]


async def test_what_cannot_take_effect_when_it_is_paid_is_credit_and_stays_it(
    shop: Shop, user: UserId
) -> None:
    old = await shop.open(user, "wanderer")
    for _ in range(13):
        await shop.buy(user, "sanctuary")
    await shop.lightning(old)
    assert await credit(shop, user) == {"USD": Decimal(5)}
    assert (await shop.front.invoice(old.id))["effect"] == "credited"
    shop.clock.move(days=60)
    await shop.told()
    await shop.front.execute("UPDATE btcpay_invoices SET next_check_at = now() - interval '9 years'")
    await shop.front.settle()
    assert await credit(shop, user) == {"USD": Decimal(5)}


async def test_a_payment_that_comes_again_after_it_was_replaced_is_listed_again(
    shop: Shop, user: UserId
) -> None:
    """Seen to fail: its case had been closed as credited, when nothing was left of it."""
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_partial")
    await shop.wait(minutes=16)
    for action, is_open in (("replace_payment", False), ("pay_partial", True), ("confirm", False)):
        await shop.act(invoice, action)
        await shop.wait(hours=2)  # BTCPay tells nobody of a payment that is gone
        assert [case[2] for case in await shop.front.cases(user)] == [is_open], action
    assert await credit(shop, user) == {"USD": Decimal("2.50")}


async def test_more_money_that_comes_again_after_it_was_replaced_is_listed_again(
    shop: Shop, user: UserId
) -> None:
    """Seen to fail: what was left of it had closed the case as credited, and the sum was the same again."""
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_over", "confirm")
    for action, amount, is_open in (("pay", "5", True), ("replace_payment", None, False), ("pay", "5", True)):
        await shop.act(invoice, action, amount=amount)
        # BTCPay tells nobody of a payment that is gone, but whoever looks sees it.
        seen = (await shop.front.settlement.look_up([invoice])).observations
        await shop.front.settlement.settle(seen)
        assert [case[2] for case in await shop.front.cases(user)] == [is_open], action
    await shop.act(invoice, "confirm")
    assert [case[2] for case in await shop.front.cases(user)] == [False]
    assert await credit(shop, user) == {"USD": Decimal("7.50")}


async def test_worth_in_another_currency_becomes_credit(shop: Shop, user: UserId) -> None:
    await shop.buy(user, "sanctuary")
    euro = plan("wanderer", "5.00", 50, currency="EUR")
    await shop.start(catalogue=Catalogue((euro, *BUILT_IN.plans[1:])), credit=True)
    shop.clock.move(days=15)
    await shop.buy(user)
    assert await credit(shop, user) == {"USD": Decimal(25)}
    assert ("sold", "25", True) in await entries(shop, user)


async def test_late_reports_take_credit_back_that_was_released_too_much(shop: Shop, user: UserId) -> None:
    await shop.buy(user, "guardian")
    euro = plan("wanderer", "5.00", 50, currency="EUR")
    await shop.start(catalogue=Catalogue((euro, *BUILT_IN.plans[1:])), credit=True)
    await shop.buy(user)
    assert await credit(shop, user) == {"USD": Decimal(12)}
    await shop.front.execute("UPDATE subscriptions SET messages_used = 250 WHERE status = 'replaced'")
    await shop.front.recounting.run_once()
    assert await credit(shop, user) == {"USD": Decimal(6)}
    assert await events(shop, user) == ["credit.added", "credit.spent"]


async def paid_partly(shop: Shop, user: UserId, amount: str) -> None:
    """Let a guardian be paid in part, and expire."""
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay_partial", "confirm", amount=amount)
    await shop.wait(minutes=16)


async def credited(shop: Shop, user: UserId, amount: str) -> None:
    """Give a user who has none credit."""
    await paid_partly(shop, user, amount)
    assert await credit(shop, user) == {"USD": Decimal(amount)}


async def test_the_next_invoice_asks_for_what_credit_does_not_cover(shop: Shop, user: UserId) -> None:
    await credited(shop, user, "4.10")
    invoice = await shop.open(user, "guardian")
    assert shop.at_btcpay(invoice).price == Decimal("7.90")
    assert (invoice.asked.amount, invoice.credit_used) == (Decimal("7.90"), Decimal("4.10"))
    await shop.lightning(invoice)
    assert await shop.front.statuses(user) == ["active"]
    assert await credit(shop, user) == {}
    assert await events(shop, user) == ["credit.added", "credit.spent"]


async def test_credit_is_reserved_once_and_freed_when_its_invoice_expires(shop: Shop, user: UserId) -> None:
    await credited(shop, user, "4.10")
    asked = [(await shop.open(user, each)).asked.amount for each in ("guardian", "sanctuary")]
    assert asked == [Decimal("7.90"), Decimal(50)]
    await shop.wait(minutes=16)
    assert (await shop.open(user, "sanctuary")).asked.amount == Decimal("45.90")


async def test_credit_stays_reserved_however_long_nobody_could_look(shop: Shop, user: UserId) -> None:
    await credited(shop, user, "4.10")
    confirming = await shop.open(user, "guardian")
    await shop.act(confirming, "pay")
    shop.clock.move(days=31)
    account = await CreditAccounts(pool=shop.front.pool, clock=shop.clock, spends=True).show(user)
    assert [(each.amount, each.reserved) for each in account.balances] == [(Decimal("4.10"), Decimal("4.10"))]
    assert (await shop.open(user, "sanctuary")).asked.amount == Decimal(50)


async def test_two_requests_at_once_never_reserve_the_same_credit(shop: Shop, user: UserId) -> None:
    await credited(shop, user, "4.10")
    opened = await asyncio.gather(
        *(shop.front.open(user, each) for each in ("guardian", "sanctuary", "wanderer"))
    )
    assert sum(invoice.credit_used for invoice, _ in opened) == Decimal("4.10")


async def test_credit_that_covers_the_price_buys_at_once_without_btcpay(shop: Shop, user: UserId) -> None:
    await credited(shop, user, "11.99")
    shop.simulator.set_faults(down=True)
    invoice, is_new = await shop.front.open(user, "wanderer")
    again, _ = await shop.front.open(user, "wanderer")  # a double click
    assert (is_new, invoice.id, invoice.checkout_url) == (True, again.id, None)
    (row,) = await shop.front.subscriptions(user)
    assert (row["status"], row["source"]) == ("active", "credit")
    assert await credit(shop, user) == {"USD": Decimal("6.99")}
    assert (await shop.front.invoicing.show(user, str(invoice.id))).id == invoice.id
    shop.clock.move(minutes=2)
    await shop.front.open(user, "wanderer")
    assert await shop.front.statuses(user) == ["replaced", "active"]
    assert await credit(shop, user) == {"USD": Decimal("1.99")}


async def test_an_invoice_paid_late_does_not_spend_what_was_spent_meanwhile(shop: Shop, user: UserId) -> None:
    await credited(shop, user, "5.00")
    late = await shop.open(user, "guardian")
    await shop.wait(minutes=16)
    await shop.front.open(user, "wanderer")  # its five dollars pay this one
    await shop.act(late, "pay_late", "confirm")
    await shop.wait(minutes=10)
    assert await shop.front.statuses(user) == ["active"]
    assert await credit(shop, user) == {"USD": Decimal("7.00")}
    assert (await shop.front.invoice(late.id))["effect"] == "credited"


async def test_a_balance_below_zero_is_one_case_until_it_is_paid_back_or_evened_out(
    shop: Shop, user: UserId
) -> None:
    async def listed() -> list[tuple[str, Decimal | None, bool]]:
        return [case for case in await shop.front.cases(user) if case[0] == "negative_balance"]

    async def refunded(amount: str) -> None:
        made = shop.simulator.refund(name, refundVariant="Custom", customAmount=amount, customCurrency="USD")
        refunding = Refunding(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock)
        await refunding.record(name, made.id, BY)

    paid = await shop.open(user)
    await shop.lightning(paid, "10.00")
    name = shop.btcpay_id(paid)
    await shop.front.open(user, "wanderer")  # from the five dollars of credit
    assert await listed() == []
    await refunded("5.00")
    assert await credit(shop, user) == {"USD": Decimal("-5.00")}
    assert await listed() == [("negative_balance", Decimal("5.00"), True)]
    await paid_partly(shop, user, "2.00")
    assert await listed() == [("negative_balance", Decimal("3.00"), True)]
    await paid_partly(shop, user, "3.50")
    assert await credit(shop, user) == {"USD": Decimal("0.50")}
    assert await listed() == [("negative_balance", Decimal("3.00"), False)]
    await refunded("1.00")
    assert (await listed())[1:] == [("negative_balance", Decimal("0.50"), True)]
    (row,) = await shop.front.rows("SELECT id FROM attention_cases WHERE closed_at IS NULL")
    await CaseActions(pool=shop.front.pool, clock=shop.clock).close(row["id"], BY)
    assert await credit(shop, user) == {}
    assert (await listed())[1:] == [("negative_balance", Decimal("0.50"), False)]
    (granted,) = await shop.front.rows("SELECT amount, who FROM ledger WHERE kind = 'granted'")
    assert tuple(granted) == (Decimal("0.50"), "eva")


async def test_an_invoice_that_btcpay_rounds_is_refused_and_never_shown(shop: Shop, user: UserId) -> None:
    rounded = plan("guardian", "12.005", 500)  # as from a catalogue of before the check
    await shop.start(catalogue=Catalogue((rounded,)), credit=True)
    with pytest.raises(Unavailable) as refused:
        await shop.front.open(user, "guardian")
    assert refused.value.code == "btcpay_mismatch"
    ((kind, _, is_open),) = await shop.front.cases(user)
    assert (kind, is_open) == ("mismatch", True)
    rows = await shop.front.rows("SELECT checkout_url FROM btcpay_invoices WHERE status = 'new'")
    assert [row["checkout_url"] for row in rows] == [None]


async def test_without_credit_the_case_stays_and_closing_it_writes_the_money_off(
    simulator: Simulator, clock: HandClock, database_url: str, user: UserId
) -> None:
    async with Shop(simulator, clock, database_url) as shop:
        await shop.start(credit=False)
        invoice = await shop.open(user, "guardian")
        await shop.act(invoice, "pay_partial", "confirm", amount="4.10")
        await shop.wait(minutes=16)
        assert await shop.front.cases(user) == [("partial_payment", Decimal("4.10"), True)]
        assert await entries(shop, user) == [("received", "4.1", False)]
        assert await events(shop, user) == []


@pytest.mark.parametrize("change", ["UPDATE ledger SET amount = 1", "DELETE FROM ledger", "TRUNCATE ledger"])
async def test_the_database_refuses_to_change_the_ledger(shop: Shop, user: UserId, change: str) -> None:
    await shop.buy(user)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await shop.front.execute(change)


async def test_credit_that_was_spent_meanwhile_is_granted_to_an_invoice_settled_by_hand(
    shop: Shop, user: UserId
) -> None:
    spare = await shop.open(user, "guardian")
    await shop.act(spare, "pay_partial", "confirm", amount="4.10")
    await shop.wait(minutes=16)
    late = await shop.open(user, "guardian")
    await shop.act(late, "pay_partial", "confirm", amount="2.00")
    await shop.wait(minutes=16)
    await shop.open(user)  # a wanderer, which credit pays
    assert await credit(shop, user) == {"USD": Decimal("1.10")}
    await shop.front.settlement.settle_by_hand(late.id, "a goodwill", also=nothing_more)
    assert await credit(shop, user) == {}
    await shop.act(late, "pay", "confirm", amount="5.90")  # takes the place of as much that was granted
    assert await credit(shop, user) == {}
    await shop.act(late, "mark_settled", "mark_invalid")
    assert await credit(shop, user) == {"USD": Decimal("1.10") - 2}
    await shop.act(late, "mark_settled")
    assert await credit(shop, user) == {}


async def test_a_quote_is_refused_as_opening_an_invoice_is_while_another_is_being_paid(
    shop: Shop, user: UserId
) -> None:
    """Seen to fail: the quote offered what would exceed the cap once both were paid."""
    for _ in range(12):
        await shop.buy(user, "sanctuary")
    sanctuary = BUILT_IN.require("sanctuary")
    quoting = CreditAccounts(pool=shop.front.pool, clock=shop.clock, spends=True)
    assert (await quoting.quote(user, sanctuary)).refusal is None
    await shop.act(await shop.open(user, "sanctuary"), "pay")
    quoted = await quoting.quote(user, sanctuary)
    assert (quoted.refusal, quoted.subscription) == (Refusal.PREPAID_CAP, None)
    with pytest.raises(Conflict, match="400 days"):
        await shop.open(user, "sanctuary")
