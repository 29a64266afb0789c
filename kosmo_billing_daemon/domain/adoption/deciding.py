"""What becomes of all that one user had in v0.1.

- An active row whose end is ahead is the user's subscription: the same end, limit and use.
- Of several, the one that ends last is kept. What the others to the same plan had left in messages is added
  to it. Those to another plan end now; what is left of what was paid for them becomes credit.
- Everything else is history. It ends where it ended, or where the next began, so that nothing is carried
  over from it when a history is folded again; what was switched off before its end counts as revoked.
- An invoice is the same invoice. What was settled is booked as received and sold. It paid for the row of its
  plan that began at its time, at most once; a row of which no payment is known was paid with nothing, so it
  is added to the same plan, and converts into nothing (R2), like a grant.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Self
from uuid import UUID, uuid4

from kosmo_billing_daemon.domain import lots
from kosmo_billing_daemon.domain.adoption.reading import OldInvoice, OldSubscription, user_id
from kosmo_billing_daemon.domain.invoices import LATE_LIMIT, Effect, Invoice, InvoiceStatus, adopted_id
from kosmo_billing_daemon.domain.ledger import EntryKind, Posting
from kosmo_billing_daemon.domain.lots import Lot
from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.domain.subscriptions import (
    Source,
    Status,
    Subscription,
    SubscriptionId,
    UserId,
)
from kosmo_billing_daemon.runtime.records import record

PAID_BEFORE: Final = timedelta(days=4)
"""How long before a row begins its invoice may have been made: it is open for a while, and paid late."""

FOLLOWED_FOR: Final = LATE_LIMIT + timedelta(days=2)
"""How long after its creation an expired invoice may still be paid late."""


_NOTHING = Decimal(0)


@dataclass(slots=True)
class AdoptedUser:
    """What one user gets. ``places`` says which old row a subscription or an invoice comes from; ``merged``
    which old rows another one took over, ``dropped`` which subscriptions ended beside another one.
    """

    user_id: UserId
    old_id: str
    subscriptions: list[Subscription] = field(default_factory=list)
    invoices: list[Invoice] = field(default_factory=list)
    postings: list[Posting] = field(default_factory=list)
    places: dict[UUID, int] = field(default_factory=dict)
    merged: set[int] = field(default_factory=set)
    dropped: set[UUID] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def decide(
    old_id: str, rows: Iterable[OldSubscription], bills: Iterable[OldInvoice], now: datetime, *, who: str
) -> AdoptedUser:
    """Return what becomes of one user's rows; ``who`` orders it."""
    user = AdoptedUser(UserId(user_id(old_id)), old_id)
    for bill in bills:
        user.invoices.append(invoice := _invoice(user.user_id, bill))
        user.places[invoice.id] = bill.place
    sold = [_Sold(row, row.plan, _start(row, row.plan, now)) for row in rows if row.plan is not None]
    current = [one for one in sold if one.row.is_active and one.row.valid_until > now]
    kept = max(current, key=lambda one: (one.row.valid_until, one.start, -one.row.place), default=None)
    alike = [] if kept is None else [one for one in current if one.is_alike(kept)]
    made = [] if kept is None else [_kept(user, kept, alike, current, now)]
    dropped = [_revoked(user, one, now) for one in current if one not in alike]
    user.dropped = {row.id for row in dropped}
    history = [one for one in sold if one not in current]
    made += dropped
    made += [_revoked(user, one, now) for one in history if one.row.valid_until > now]
    made += _expired(
        user, [one for one in history if one.row.valid_until <= now], made[0] if current else None
    )
    paid = [_paid(user, row) for row in made]
    user.invoices = [_without_row(invoice) for invoice in user.invoices]
    user.subscriptions = sorted(paid, key=lambda row: (row.status is Status.ACTIVE, row.valid_from))
    user.postings = [posting for invoice in user.invoices for posting in _booked(invoice)]
    for row in paid:
        if row.id in user.dropped:
            user.postings += _credited(row, now, who=who)
    if len(current) > 1:
        user.notes.append(_note(user, current))
    return user


def is_followed(invoice: Invoice, now: datetime) -> bool:
    """Say whether BTCPay is asked about an adopted invoice: it is open, or may be paid late."""
    if invoice.status in (InvoiceStatus.NEW, InvoiceStatus.PROCESSING):
        return True
    return invoice.status is InvoiceStatus.EXPIRED and invoice.created_at > now - FOLLOWED_FOR


@record
class _Sold:
    """A row that gives something, and when it began."""

    row: OldSubscription
    plan: Plan
    start: datetime

    def is_alike(self, other: Self) -> bool:
        """Say whether messages of both can be added up."""
        is_unlimited = self.row.limit is None
        return self.plan.plan_type == other.plan.plan_type and is_unlimited == (other.row.limit is None)


def _start(row: OldSubscription, plan: Plan, now: datetime) -> datetime:
    """Return when a row began; where no column says it, a period before its end."""
    return row.valid_from or min(now, row.valid_until - plan.period)


def _kept(
    user: AdoptedUser, kept: _Sold, alike: Sequence[_Sold], current: Sequence[_Sold], now: datetime
) -> Subscription:
    """Make the current subscription: to the end of the last row, with all messages that were left."""
    start = min(one.start for one in alike)
    if start > now:  # bought ahead, behind a row of another plan
        start = min(one.start for one in current)
    limit = kept.row.limit
    if limit is not None:
        others = [one.row for one in alike if one is not kept]
        limit += sum(max(0, (row.limit or 0) - row.used) for row in others)
    user.merged |= {one.row.place for one in alike if one is not kept}
    return _made(user, kept, start, kept.row.valid_until, limit)


def _revoked(user: AdoptedUser, one: _Sold, now: datetime) -> Subscription:
    """Make a row that ended before its end: no fold of the history brings it back."""
    row = _made(user, one, one.start, one.row.valid_until, one.row.limit)
    at = max(now, one.start)
    return replace(row, status=Status.REVOKED, revoked_at=at, ended_at=at)


def _expired(user: AdoptedUser, history: Sequence[_Sold], current: Subscription | None) -> list[Subscription]:
    """Make rows that are over, each ending when the next begins at the latest."""
    made: list[Subscription] = []
    before = None if current is None else current.valid_from
    for one in sorted(history, key=lambda one: (one.start, one.row.place), reverse=True):
        end = one.row.valid_until if before is None else min(before, one.row.valid_until)
        if end > one.start:
            row = _made(user, one, one.start, end, one.row.limit)
            made.append(replace(row, status=Status.EXPIRED, ended_at=end))
            before = one.start
    return made


def _made(user: AdoptedUser, one: _Sold, start: datetime, end: datetime, limit: int | None) -> Subscription:
    row_id = SubscriptionId(uuid4())
    user.places[row_id] = one.row.place
    messages = None if limit is None else Decimal(limit)
    lot = Lot(
        purchase=row_id,
        paid=Price(_NOTHING, one.plan.price.currency),
        period=end - start,
        messages=messages,
        time_left=end - start,
        messages_left=messages,
    )
    return Subscription(
        id=row_id,
        user_id=user.user_id,
        invoice_id=None,
        source=Source.ADOPTED,
        plan=one.plan,
        status=Status.ACTIVE,
        valid_from=start,
        valid_until=end,
        messages_limit=limit,
        messages_used=one.row.used,
        lots=(lot,),
    )


def _paid(user: AdoptedUser, row: Subscription) -> Subscription:
    """Find what was paid for a row: all settled invoices of its time and plan that paid for no other."""
    found = [
        (place, invoice)
        for place, invoice in enumerate(user.invoices)
        if invoice.status is InvoiceStatus.SETTLED
        and invoice.effect is Effect.NONE
        and invoice.plan.plan_type == row.plan.plan_type
        and row.valid_from - PAID_BEFORE <= invoice.created_at < row.valid_until
    ]
    found = [one for one in found if one[1].plan.price.currency == found[0][1].plan.price.currency]
    for place, invoice in found:
        # Only what alone paid for a row can take it back.
        effect = Effect.FULFILLED if len(found) == 1 else Effect.WITHDRAWN
        user.invoices[place] = replace(invoice, effect=effect)
    if not found:
        return row
    total = sum((invoice.plan.price.amount for _, invoice in found), _NOTHING)
    lot = replace(row.lots[0], paid=Price(total, found[0][1].plan.price.currency))
    return replace(row, lots=(lot,), invoice_id=found[0][1].id if len(found) == 1 else None)


def _invoice(user_id: UserId, bill: OldInvoice) -> Invoice:
    is_settled = bill.status is InvoiceStatus.SETTLED
    amount = bill.plan.price.amount if is_settled else _NOTHING
    return Invoice(
        id=adopted_id(bill.btcpay_invoice_id),
        user_id=user_id,
        plan=bill.plan,
        status=bill.status,
        created_at=bill.created_at,
        btcpay_invoice_id=bill.btcpay_invoice_id,
        expires_at=bill.expires_at,
        checkout_url=bill.checkout_url,
        paid_amount=amount if is_settled else None,
        settled_at=(bill.settled_at or bill.created_at) if is_settled else None,
        received=amount,
    )


def _without_row(invoice: Invoice) -> Invoice:
    """Give an invoice of which no row is known the effect of one whose rights are gone: it was sold."""
    if invoice.status is InvoiceStatus.SETTLED and invoice.effect is Effect.NONE:
        return replace(invoice, effect=Effect.WITHDRAWN)
    return invoice


def _booked(invoice: Invoice) -> list[Posting]:
    if not invoice.received:
        return []
    return [
        Posting(
            user_id=invoice.user_id,
            kind=kind,
            amount=kind.sign * invoice.received,
            currency=invoice.plan.price.currency,
            invoice_id=invoice.id,
        )
        for kind in (EntryKind.RECEIVED, EntryKind.SOLD)
    ]


def _credited(row: Subscription, now: datetime, *, who: str) -> list[Posting]:
    """Turn what is left of the payment for a plan into credit, since a later one to another plan counts."""
    left = lots.consumed(row.lots, max(now - row.valid_from, timedelta(0)), row.messages_used)
    return [
        Posting(
            user_id=row.user_id,
            kind=EntryKind.GRANTED,
            amount=amount,
            currency=currency,
            purchase=row.id,
            who=who,
            reason=f"moved in: a {row.plan.plan_type} plan beside one that ends later",
        )
        for currency, amount in lots.worth(left).items()
    ]


def _note(user: AdoptedUser, current: Sequence[_Sold]) -> str:
    credit = {one.currency: one.amount for one in user.postings if one.kind is EntryKind.GRANTED}
    told = "".join(f"; {amount:f} {currency} become credit" for currency, amount in credit.items())
    plans = ", ".join(f"{one.plan.plan_type} until {one.row.valid_until:%Y-%m-%d %H:%M}" for one in current)
    return f"user {user.old_id} has {len(current)} active rows ({plans}): the last to end is kept{told}"
