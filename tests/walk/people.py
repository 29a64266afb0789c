"""Customers who buy, pay in every way there is, and ask again until they are answered.

Now and then what was ordered is not what they pay for: BTCPay's invoice is altered before any payment (R9).
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import aiohttp

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.btcpay.actions import PayerAction, possible_actions
from kosmo_billing_daemon.demo.btcpay.invoices import CURRENCIES, SimulatedInvoice, SimulatedStatus
from tests.walk.town import Town

_ATTEMPT = aiohttp.ClientTimeout(total=4)
_UNTRACKED = timedelta(
    hours=60
)  # reconciliation follows an invoice for 72 h; what comes later needs its hint

Money = tuple[int, Decimal, Decimal]
"""How many payments an invoice had, what counts of them, and what is confirmed of that."""


def money_of(invoice: SimulatedInvoice) -> Money:
    return len(invoice.payments), invoice.paid, invoice.confirmed


@dataclass
class Person:
    """One user; ``chance`` decides what is done, so a seed repeats it."""

    user_id: UUID
    chance: Random
    invoices: list[str] = field(default_factory=list)
    confirmed_after: dict[str, timedelta] = field(default_factory=dict)
    journal: list[str] = field(default_factory=list)
    unheard: set[str] = field(default_factory=set)  # invoices whose hints must be sent again at rest
    altered: set[str] = field(default_factory=set)  # invoices that are not what was quoted
    settled_by_hand: set[str] = field(default_factory=set)
    was_invalid: bool = (
        False  # whether one of the invoices ever was: packs of its plan were credit until it came back
    )
    dismissed: dict[tuple[str, str], Money] = field(default_factory=dict)  # cases closed without rights
    refunded: dict[str, Decimal] = field(default_factory=dict)
    refunded_there: dict[str, Decimal] = field(default_factory=dict)  # in BTCPay's own pages
    quoted: dict[UUID, Decimal] = field(default_factory=dict)  # prices by order
    from_credit: set[UUID] = field(default_factory=set)  # orders that credit paid whole
    may_renew: bool = False  # whether credit ever might renew a plan at its end
    renews: bool = False  # whether it does now, as far as the person was answered
    messages: set[str] = field(default_factory=set)
    joined: int = 0  # the round
    granted: int = 0
    ungranted: int = 0
    cashed: int = 0

    @property
    def all_refunds(self) -> tuple[dict[str, Decimal], ...]:
        return self.refunded, self.refunded_there

    async def live(self, town: Town, steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(self.chance.uniform(0, 1))
            if self.chance.random() < _CHOOSES:
                await self._choose_renewal(town)
            if not self.invoices or self.chance.random() < 0.4:
                await self._buy(town)
            else:
                await self.act(town)

    async def act(self, town: Town) -> None:
        """Do something to one of the last invoices, or remember one that expired, however long ago."""
        invoices = town.world.simulator.invoices
        expired = [known for known in self.invoices if invoices[known].status is SimulatedStatus.EXPIRED]
        remembers = self.chance.random() < _REMEMBERS
        await self._act(town, self.chance.choice((remembers and expired) or self.invoices[-3:]))

    async def _buy(self, town: Town) -> None:
        sold = town.sells.packs if self.chance.random() < _PACKS else town.sells.plans
        plan = self.chance.choice(sold)
        key = str(UUID(int=self.chance.getrandbits(128), version=4))
        order = await self._order(town, plan, key)
        if order is None:
            return
        if self.chance.random() < 0.2:  # the button was pressed twice (R10)
            again = await self._order(town, plan, key)
            assert again == order, f"{self.user_id}: {again} for {order} under one key"
        invoice_id = order["invoice_id"]
        if invoice_id is None:
            self.from_credit.add(UUID(order["order_id"]))
            return
        if invoice_id not in self.invoices:
            self.invoices.append(invoice_id)
            if self.chance.random() < _ALTERED:
                self._alter(town, town.world.simulator.invoices[invoice_id])
        await self._act(town, invoice_id)

    async def _choose_renewal(self, town: Town) -> None:
        """Have credit renew the plan at its end, or not any more; ask until a daemon answers."""
        auto = self.chance.random() < _RENEWS
        self.may_renew |= auto
        self.renews = False  # until it is answered
        house = self.chance.randrange(len(town.houses))
        while True:
            url = f"{town.houses[house].daemon.url}{API}/subscription/renewal"
            headers = {"X-User-ID": str(self.user_id)}
            try:
                async with town.world.http.put(
                    url, json={"auto": auto}, headers=headers, timeout=_ATTEMPT
                ) as response:
                    told: dict[str, Any] = await response.json()
            except (aiohttp.ClientError, TimeoutError):
                pass
            else:
                if response.status == 200:
                    assert told["auto"] is auto, told
                    self.renews = auto
                    return self.note(f"renews from credit: {auto}")
                if told.get("code") == "credit_off":
                    return None
                assert response.status in {409, 502, 503, 504}, told
            await asyncio.sleep(0.1)
            house = (house + 1) % len(town.houses)

    async def _order(self, town: Town, plan: str, key: str) -> dict[str, Any] | None:
        """Ask each daemon in turn until one answers; ``None`` where the rules refuse it (R11, R17)."""
        headers = {"X-User-ID": str(self.user_id), "Idempotency-Key": key}
        wanted = {"pack" if plan in town.sells.packs else "plan_type": plan}
        house = self.chance.randrange(len(town.houses))
        while True:
            url = f"{town.houses[house].daemon.url}{API}/invoices"
            try:
                async with town.world.http.post(
                    url, json=wanted, headers=headers, timeout=_ATTEMPT
                ) as response:
                    told: dict[str, Any] = await response.json()
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.1)
            else:
                if response.status < 300:
                    paid = f"{told['credit_used']} of credit, due {told['amount_due']}"
                    self.note(f"ordered {plan}: {told['invoice_id'] or told['order_id']}, {paid}")
                    self.quoted.setdefault(UUID(told["order_id"]), Decimal(str(told["amount"])))
                    return told
                if told.get("code") in {"prepaid_cap", "no_fitting_plan"}:
                    self.note(f"may not order {plan}")
                    return None
                assert response.status in {409, 502, 503, 504}, told
                await asyncio.sleep(0.1)
            house = (house + 1) % len(town.houses)

    def _alter(self, town: Town, invoice: SimulatedInvoice) -> None:
        """Make of an unpaid invoice what was not quoted, as anybody with BTCPay's key can."""
        match self.chance.choice(["price", "currency", "order"]):
            case "price":
                invoice.price += 1
            case "currency":
                invoice.currency = CURRENCIES["GBP"]
            case _:
                order_id = f"not-{invoice.order_id}"
                town.world.simulator.replace_metadata(invoice.id, invoice.metadata | {"orderId": order_id})
        self.altered.add(invoice.id)
        self.note(f"{invoice.id} is altered: {invoice.order_id}, {invoice.price} {invoice.currency.code}")

    async def _act(self, town: Town, invoice_id: str) -> None:
        """Do one thing to an invoice at BTCPay: as its payer, or as the operator who marks it."""
        invoice = town.world.simulator.invoices[invoice_id]
        possible = possible_actions(invoice)
        if invoice_id in self.settled_by_hand and PayerAction.MARK_INVALID in possible:
            possible.remove(PayerAction.MARK_INVALID)  # both are the operator's decisions, and were made
        amount, method = None, self.chance.choice(["BTC-LN", "BTC-LN", "BTC-CHAIN"])
        if not possible or self.chance.random() < 0.05:
            more = Decimal(self.chance.choice(["0.5", "5", "60"]))  # once more
            action, amount = PayerAction.PAY, more if invoice.currency.digits else 100 * more
        else:
            action = self.chance.choices(possible, [_WEIGHTS.get(known, 1) for known in possible])[0]
        self._look_out(invoice, action)
        await town.world.simulator.act(invoice_id, action, amount, method)
        self.note(
            f"{action} {amount or ''} {method} {invoice_id}: {invoice.status}/{invoice.additional_status}"
        )
        self.was_invalid |= invoice.status is SimulatedStatus.INVALID
        if invoice.status is SimulatedStatus.EXPIRED and invoice.confirmed >= invoice.minimum:
            self.confirmed_after.setdefault(invoice_id, datetime.now(UTC) - invoice.expires)

    def _look_out(self, invoice: SimulatedInvoice, action: PayerAction) -> None:
        """Note whose hint alone can tell: what BTCPay calls final, or old, is not looked at any more."""
        is_final = invoice.status in {SimulatedStatus.SETTLED, SimulatedStatus.INVALID} or (
            invoice.id in self.confirmed_after or invoice.id in self.settled_by_hand
        )
        is_mark = action in {PayerAction.MARK_SETTLED, PayerAction.MARK_INVALID}
        is_tracked = is_mark and invoice.additional_status == "Marked"
        if datetime.now(UTC) - invoice.expires > _UNTRACKED or (is_final and not is_tracked):
            self.unheard.add(invoice.id)

    def note(self, text: str) -> None:
        self.journal.append(f"{datetime.now(UTC):%H:%M:%S.%f} {text}")


_ALTERED = 0.08  # how probable it is of an order
_PACKS = 0.3
_CHOOSES = 0.15  # of a step
_RENEWS = 0.8
_REMEMBERS = 0.3  # how probable it is of an act

_WEIGHTS = {
    PayerAction.PAY: 6,
    PayerAction.PAY_PARTIAL: 2,
    PayerAction.PAY_OVER: 1,
    PayerAction.CONFIRM: 5,
    PayerAction.EXPIRE: 1,
    PayerAction.PAY_LATE: 2,
}
