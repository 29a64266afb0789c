"""Every cent of a town at rest has its place (R13 to R15); yields what differs from what BTCPay has."""

import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.btcpay.invoices import AdditionalStatus, SimulatedInvoice, SimulatedStatus
from tests.walk.catalogue import Offer
from tests.walk.model import received
from tests.walk.people import Person
from tests.walk.town import Town

_NOTHING = Decimal(0)
_ROUNDING = Decimal("1e-6")

_BOOKED = """
SELECT i.user_id, i.id, i.btcpay_invoice_id, i.credit_used, q.plan_type, q.amount, q.currency, q.quota,
    q.period, q.fits,
    coalesce(s.status <> 'revoked', false)
        OR EXISTS (SELECT FROM top_ups WHERE invoice_id = i.id AND revoked_at IS NULL) AS stands,
    (SELECT jsonb_object_agg(kind, amount) FROM (
        SELECT kind, sum(amount)::text AS amount FROM ledger WHERE invoice_id = i.id GROUP BY kind
    ) AS l)::text AS booked
FROM btcpay_invoices AS i JOIN quotes AS q ON q.id = i.quote_id
LEFT JOIN subscriptions AS s ON s.invoice_id = i.id
WHERE i.user_id = ANY ($1)
"""

_ACCOUNTS = """
SELECT user_id, currency, coalesce(sum(amount) FILTER (WHERE kind IN ('received', 'granted')), 0) AS came,
    coalesce(-sum(amount) FILTER (WHERE kind NOT IN ('received', 'granted')), 0) AS went,
    coalesce(sum(amount) FILTER (WHERE invoice_id IS NULL), 0) AS released
FROM ledger WHERE user_id = ANY ($1) GROUP BY user_id, currency
"""

_DECIMALS = partial(json.loads, parse_float=Decimal)


@dataclass(frozen=True)
class Booked:
    """One of our invoices: what it asked for, and its sums in the ledger."""

    order_id: UUID
    invoice_id: str | None
    offer: Offer
    credit_used: Decimal
    stands: bool
    sums: Mapping[str, Decimal]

    @property
    def price(self) -> Decimal:
        return self.offer.price

    def sum(self, kind: str) -> Decimal:
        return self.sums.get(kind, _NOTHING)


async def load(connection: "asyncpg.Connection[Any]", people: Sequence[Person]) -> dict[UUID, list[Booked]]:
    """Return the invoices of people."""
    found: dict[UUID, list[Booked]] = {person.user_id: [] for person in people}
    for row in await connection.fetch(_BOOKED, list(found)):
        found[row["user_id"]].append(
            Booked(
                row["id"],
                row["btcpay_invoice_id"],
                Offer.of(row),
                row["credit_used"],
                row["stands"],
                {kind: Decimal(amount) for kind, amount in json.loads(row["booked"] or "{}").items()},
            )
        )
    return found


async def complaints(
    town: Town,
    connection: "asyncpg.Connection[Any]",
    people: Sequence[Person],
    booked: Mapping[UUID, Sequence[Booked]],
    released: Mapping[UUID, Mapping[str, Decimal]],
) -> AsyncGenerator[str, None]:
    """Yield what is booked wrongly; ``released`` is what of each user's worth must have become credit."""
    rows = await connection.fetch(_ACCOUNTS, [person.user_id for person in people])
    accounts = {(row["user_id"], row["currency"]): row for row in rows}
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for person in people:
        invoices = town.world.simulator.invoices
        for one in booked[person.user_id]:
            invoice = None if one.invoice_id is None else invoices[one.invoice_id]
            for complaint in _of_invoice(invoice, one, person):
                yield f"{person.user_id}: {one.invoice_id or one.order_id} {complaint}"
        shown = await balances(town, person)
        known = {currency for user_id, currency in accounts if user_id == person.user_id}
        if not shown.keys() <= known:
            yield f"{person.user_id}: a credit of {shown} without entries"
        for currency in known:
            account = accounts[person.user_id, currency]
            credit, reserved = shown.get(currency, (_NOTHING, _NOTHING))
            totals[currency] += account["came"] - account["went"] - credit
            right = released[person.user_id].get(currency, _NOTHING)
            who = f"{person.user_id}, {currency}"
            if account["came"] != account["went"] + credit:
                yield f"{who}: {account['came']} came, {account['went']} went, {credit} is left"
            if abs(account["released"] - right) > _ROUNDING:
                yield f"{who}: released {account['released']}, not {right}"
            # What was spent and is taken back is owed: refunded elsewhere, marked invalid, or used before.
            if reserved > credit and not (right or person.refunded_there or person.was_invalid):
                yield f"{who}: a credit of {credit}, {reserved} of it reserved"
    if any(totals.values()):
        yield f"in total, what came is not what went and what is left: {totals}"


def _of_invoice(invoice: SimulatedInvoice | None, one: Booked, person: Person) -> Iterator[str]:
    """R13 for one invoice; without one at BTCPay, credit paid it all, or it was given up."""
    got, asked = one.sum("received"), one.price - one.credit_used
    least = most = _NOTHING
    is_vouched = False
    dismissed, confirmed = False, _NOTHING
    if invoice is not None:
        confirmed = invoice.confirmed
        dismissed = any(key == invoice.id for key, _ in person.dismissed)
        by_hand = invoice.id in person.settled_by_hand
        least, most = received(invoice, is_altered=invoice.id in person.altered)
        is_marked = invoice.status is SimulatedStatus.SETTLED and (
            invoice.additional_status is AdditionalStatus.MARKED
        )
        is_vouched = by_hand or is_marked
    if not least <= got <= most:
        yield f"received {got}, must be from {least} to {most}"
    if one.sum("sold") != (-one.price if one.stands else _NOTHING):
        yield f"sold {one.sum('sold')} of {one.price}, stands: {one.stands}"
    vouched = one.stands and is_vouched
    # Money that it counted on may have been spent meanwhile; then that is granted too.
    most_granted = one.price if vouched and (one.credit_used or got) else asked - got if vouched else _NOTHING
    if not (max(_NOTHING, asked - got) if vouched else _NOTHING) <= one.sum("granted") <= most_granted:
        yield f"granted {one.sum('granted')} of {asked}, vouched for: {vouched}"
    if not (-confirmed if dismissed else _NOTHING) <= one.sum("written_off") <= 0:
        yield f"written off {one.sum('written_off')} of {confirmed}"
    refunded = sum((each.get(one.invoice_id or "", _NOTHING) for each in person.all_refunds), _NOTHING)
    if one.sum("refunded") != -refunded:
        yield f"refunded {one.sum('refunded')}, must be {refunded}"


async def balances(town: Town, person: Person) -> dict[str, tuple[Decimal, Decimal]]:
    """What the user is shown in each currency: credit, and how much of it is reserved."""
    url = f"{town.houses[0].daemon.url}{API}/credit"
    async with town.world.http.get(url, headers={"X-User-ID": str(person.user_id)}) as response:
        shown = (await response.json(loads=_DECIMALS))["balances"]
    return {one["currency"]: (Decimal(one["amount"]), Decimal(one["reserved"])) for one in shown}
