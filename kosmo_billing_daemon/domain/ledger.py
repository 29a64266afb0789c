"""Where every cent is: what came in, what it bought, and what is left as credit (R13-R15).

The ledger is append-only. Each change of an invoice books the difference that it makes (``of_invoice``), so
whatever comes twice or in another order books the same in the end; what is taken back is booked as the
reversal of what it takes back. The user's credit is the sum of all postings, in each currency:

    received + granted = sold + refunded + written off + credit

Postings are exact. Only what is asked for is rounded, up to the smallest unit of the currency.
"""

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal
from enum import StrEnum
from uuid import UUID

from kosmo_billing_daemon.domain.currencies import rounded_up
from kosmo_billing_daemon.domain.invoices import Effect, Invoice
from kosmo_billing_daemon.domain.lots import Released
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, Subscription, UserId
from kosmo_billing_daemon.runtime.records import record

_EXACT = Context(prec=200)
_NOTHING = Decimal(0)


_SALES = (Effect.FULFILLED, Effect.WITHDRAWN)
"""What an operator withdrew was sold all the same: taking rights back gives no money back."""


class EntryKind(StrEnum):
    """What happened to money. RECEIVED and GRANTED raise a user's credit, the others lower it."""

    RECEIVED = "received"
    GRANTED = "granted"
    SOLD = "sold"
    REFUNDED = "refunded"
    WRITTEN_OFF = "written_off"

    @property
    def sign(self) -> int:
        return 1 if self in (EntryKind.RECEIVED, EntryKind.GRANTED) else -1


@record(kw_only=True)
class Posting:
    """One entry: ``amount`` is what it does to the user's credit.

    ``purchase`` names the subscription or pack whose sale it takes back in part.
    """

    user_id: UserId
    kind: EntryKind
    amount: Decimal
    currency: str
    invoice_id: InvoiceId | None = None
    purchase: UUID | None = None
    who: str | None = None
    reason: str | None = None

    @property
    def is_reversal(self) -> bool:
        """Say whether it takes back an earlier entry of its kind."""
        return (self.amount < 0) == (self.kind.sign > 0)


def of_invoice(
    before: Invoice, after: Invoice, *, who: str | None = None, reason: str | None = None
) -> list[Posting]:
    """Return what a change of an invoice books (R13)."""
    if (before.effect, before.received, before.adjusted) == (after.effect, after.received, after.adjusted):
        return []
    was, now = _books(before), _books(after)
    return [
        Posting(
            user_id=after.user_id,
            kind=kind,
            amount=amount,
            currency=after.plan.price.currency,
            invoice_id=after.id,
            who=who,
            reason=reason,
        )
        for kind in EntryKind
        if (amount := _EXACT.subtract(now.get(kind, _NOTHING), was.get(kind, _NOTHING)))
    ]


def _books(invoice: Invoice) -> Mapping[EntryKind, Decimal]:
    """Return what an invoice, as it stands, has in the ledger; of one without effect, only what came in.

    What somebody vouched for or wrote off does not count while the invoice is revoked, and again once it is
    reinstated.
    """
    adjusted = _NOTHING if invoice.effect is Effect.REVOKED else invoice.adjusted
    return {
        EntryKind.RECEIVED: invoice.received,
        EntryKind.GRANTED: max(_NOTHING, adjusted),
        EntryKind.WRITTEN_OFF: min(_NOTHING, adjusted),
        EntryKind.SOLD: -invoice.plan.price.amount if invoice.effect in _SALES else _NOTHING,
    }


def unused(invoice: Invoice) -> Decimal:
    """Return what an invoice brought into the ledger beyond what it asked for and gave."""
    bought = invoice.asked.amount if invoice.effect in _SALES else _NOTHING
    return _EXACT.subtract(_EXACT.add(invoice.received, min(invoice.adjusted, _NOTHING)), bought)


def of_releases(before: Iterable[Subscription], after: Iterable[Subscription]) -> list[Posting]:
    """Return what worth that was released, or is not any more, books: a sale is taken back in part (R2)."""
    was = {row.id: row.carried.released for row in before}
    found: list[Posting] = []
    for row in after:
        known = was.get(row.id, ())
        if known == row.carried.released:
            continue
        sums: dict[tuple[UUID, str], Decimal] = {}
        for sign, each in [*((-1, one) for one in known), *((1, one) for one in row.carried.released)]:
            key = (each.purchase, each.worth.currency)
            sums[key] = _EXACT.add(sums.get(key, _NOTHING), sign * each.worth.amount)
        found += [
            Posting(
                user_id=row.user_id, kind=EntryKind.SOLD, amount=amount, currency=currency, purchase=purchase
            )
            for (purchase, currency), amount in sums.items()
            if amount
        ]
    return found


@record
class Due:
    """What an invoice asks for, and how much credit it reserves beside it; together they are the price."""

    amount: Decimal
    credit: Decimal


def due(price: Price, available: Decimal) -> Due:
    """Spend credit first (R15). What is asked for is rounded up, so a fraction of credit may remain."""
    if available <= 0:
        return Due(price.amount, _NOTHING)
    missing = rounded_up(max(_NOTHING, _EXACT.subtract(price.amount, available)), price.currency)
    return Due(missing, _EXACT.subtract(price.amount, missing))


def released_worth(released: Iterable[Released]) -> dict[str, Decimal]:
    """Return what was released in each currency."""
    found: dict[str, Decimal] = {}
    for each in released:
        found[each.worth.currency] = _EXACT.add(found.get(each.worth.currency, _NOTHING), each.worth.amount)
    return found
