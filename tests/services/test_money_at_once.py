"""Customers, operators and BTCPay act on one user's money at the same moment, through two daemons (R13)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.books import Difference, compare
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.admin.subjects import DataSubjects
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.demo.btcpay.actions import PayerAction, possible_actions
from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldRefused
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.errors import Conflict, KosmoError
from tests.demo.btcpay.conftest import HandClock
from tests.domain.builders import WITH_PACK
from tests.services.conftest import Daemon, Shop, nothing_more
from tests.services.test_decisions import operations
from tests.services.test_inquiries import inquire

BY = OperatorAction("eva", "ticket 7")
PLANS = [plan.plan_type for plan in WITH_PACK.plans]
TRACKED = timedelta(hours=60)  # for so long after its end an invoice is followed without a webhook


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    """A shop that gives credit and sells a pack."""
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(credit=True, catalogue=WITH_PACK)
        yield opened


@dataclass
class Customer:
    """One user, and the invoices that BTCPay has for them."""

    shop: Shop
    daemons: list[Daemon]
    chance: Random
    user: UserId
    invoices: list[tuple[str, InvoiceId]] = field(default_factory=list)

    async def act(self) -> None:
        """Do one thing, which the rules or BTCPay may refuse."""
        daemon, chance = self.chance.choice(self.daemons), self.chance
        what = chance.choice([self._buy, *[self._pay] * 3, self._use, self._operate, self._refund])
        with suppress(KosmoError, GreenfieldRefused):
            await what(daemon, chance)

    async def _buy(self, daemon: Daemon, chance: Random) -> None:
        if chance.random() < 0.3:
            await daemon.renewals.choose(self.user, auto=chance.random() < 0.8)
        wanted = WITH_PACK.packs[0] if chance.random() < 0.3 else WITH_PACK.require(chance.choice(PLANS))
        invoice = (await daemon.invoicing.open(self.user, wanted, None)).invoice
        if invoice.btcpay_invoice_id is not None:
            self.invoices.append((invoice.btcpay_invoice_id, invoice.id))

    async def _pay(self, _: Daemon, chance: Random) -> None:
        if not self.invoices:
            return
        name = chance.choice(self.invoices[-4:])[0]
        invoice = self.shop.simulator.invoices[name]
        actions = [one for one in possible_actions(invoice) if one is not PayerAction.REPLACE_PAYMENT]
        if actions and invoice.expires + TRACKED > self.shop.clock():
            method = chance.choice(["BTC-LN", "BTC-CHAIN"])
            await self.shop.simulator.act(name, chance.choice(actions), None, method)

    async def _use(self, daemon: Daemon, chance: Random) -> None:
        """Report messages of any of the last subscriptions, late ones too."""
        rows = await daemon.subscriptions(self.user)
        if rows:
            number = chance.choice([5, 30, 400])
            count = "UPDATE subscriptions SET messages_used = messages_used + $2 WHERE id = $1"
            await daemon.execute(count, chance.choice(rows[-3:])["id"], number)
            await daemon.recounting.run_once()

    async def _operate(self, daemon: Daemon, chance: Random) -> None:
        by = operations(daemon, self.shop)
        match chance.choice(["grant", "revoke", "cash", "settle", "close", "expire"]):
            case "grant":
                await by.grant(self.user, chance.choice(PLANS), BY)
            case "revoke":
                await by.revoke(self.user, None, BY)
            case "cash":
                await by.cash(self.user, BY)
            case "settle" if self.invoices:
                invoice_id = chance.choice(self.invoices)[1]
                await daemon.settlement.settle_by_hand(invoice_id, "a goodwill", also=nothing_more)
            case "close":
                cases = await daemon.rows(
                    "SELECT id FROM attention_cases WHERE user_id = $1 AND closed_at IS NULL", self.user
                )
                for case in cases:
                    await CaseActions(pool=daemon.pool, clock=self.shop.clock).close(case["id"], BY)
            case _:
                await daemon.expire()

    async def _refund(self, daemon: Daemon, chance: Random) -> None:
        refunding = Refunding(pool=daemon.pool, btcpay=daemon.btcpay, clock=self.shop.clock)
        name = chance.choice(self.invoices)[0] if self.invoices else ""
        match chance.choice(["user", "invoice", "cancel", "pages"]):
            case "user":
                await refunding.refund_all(self.user, None, BY)
            case "invoice" if name:
                await refunding.refund(name, Decimal("0.50"), BY)
            case "cancel" if name:
                await refunding.cancel(name, BY)
            case "pages" if name:
                self.shop.simulator.refund(
                    name, refundVariant="Custom", customAmount="0.40", customCurrency="USD"
                )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 22))])
async def test_every_cent_has_a_place_whatever_happens_at_once(shop: Shop, seed: int) -> None:
    chance = Random(seed)
    daemons = [shop.front, await shop.start(credit=True, catalogue=WITH_PACK)]
    customers = [
        Customer(
            shop, daemons, Random(f"{seed} {number}"), UserId(UUID(int=chance.getrandbits(128), version=4))
        )
        for number in range(3)
    ]
    began = shop.clock()
    for _ in range(12):
        acts = [one.act() for one in customers for _ in range(4)]
        await asyncio.gather(*acts, *(daemon.settle() for daemon in daemons), inquire(shop))
        await asyncio.gather(shop.told(), *(daemon.settle() for daemon in daemons))
        shop.clock.move(minutes=chance.choice([1, 20, 600, 60 * 24 * 12]))
        await asyncio.gather(*(daemon.expire() for daemon in daemons))
    await shop.wait(minutes=2)
    while await inquire(shop):
        pass
    assert await differences(shop, began) == []
    twice = await shop.front.rows(
        "SELECT user_id FROM subscriptions WHERE status IN ('active', 'grace') GROUP BY 1 HAVING count(*) > 1"
    )
    assert twice == []
    out = {name: made.amount for name, made in shop.simulator.pull_payments.items() if not made.archived}
    booked = await shop.front.rows("SELECT pull_payment_id, amount FROM refunds WHERE cancelled_at IS NULL")
    assert {row["pull_payment_id"]: row["amount"] for row in booked} == out
    subjects = DataSubjects(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock)
    for each in customers:
        with suppress(Conflict):  # while a refund is open
            await subjects.erase(each.user, BY, forfeit=True)
        await asyncio.gather(each.act(), each.act(), shop.told())
    await asyncio.gather(shop.told(), inquire(shop))
    assert await differences(shop, began) == []


async def differences(shop: Shop, began: datetime) -> list[Difference]:
    """Where the ledger disagrees with BTCPay, or with our own rows.

    Without money on invoices that BTCPay calls invalid: that is in no ledger, but in a case (R8).
    """
    period = began - timedelta(days=1), shop.clock() + timedelta(days=1)
    found = await compare(shop.front.pool, shop.front.btcpay, *period)
    listed = await shop.front.rows(
        "SELECT i.btcpay_invoice_id, c.amount FROM attention_cases AS c"
        " JOIN btcpay_invoices AS i ON i.id = c.invoice_id WHERE c.kind = 'paid_invalid'"
    )
    known = {(row["btcpay_invoice_id"], row["amount"]) for row in listed}
    return [one for one in found if (one.invoice_id, one.amount) not in known]
