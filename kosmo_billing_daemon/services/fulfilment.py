"""Writes what the rules decided: subscriptions, events and cases, in the caller's transaction."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import rfc3339
from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain.folding import own_packs
from kosmo_billing_daemon.domain.invoices import Case, Invoice
from kosmo_billing_daemon.domain.ledger import EntryKind, Posting
from kosmo_billing_daemon.domain.metering import ends_shortage
from kosmo_billing_daemon.domain.quoting import Quote
from kosmo_billing_daemon.domain.subscriptions import Happening, Outcome, Subscription, current
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import events, ledger, recounts, subscriptions, top_ups
from kosmo_billing_daemon.store.combining import Statement, combine
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection

BTCPAY: Final = "BTCPay"
"""Who did what was done at BTCPay: which of its users is not said."""


@record
class Change:
    """A user's rows as they were loaded, and as the rules want them."""

    before: tuple[Subscription, ...]
    after: tuple[Subscription, ...]


async def write(
    connection: Connection,
    changes: Sequence[Change],
    new_events: Sequence[Event],
    now: datetime,
    *,
    postings: Sequence[Posting] = (),
    beside: Iterable[Statement | None] = (),
) -> None:
    """Save the rows that differ, append the new ones, events and postings, and carry out what is ``beside``.

    Worth that the changes release, or do not release any more, is booked with them (R2). Rows that stop
    being current go first: at most one is, at every moment (R12).
    """
    released = [one for change in changes for one in books.of_releases(change.before, change.after)]
    new_events = [*new_events, *(credit_event(one, "released", now) for one in released)]
    ended: list[Subscription] = []
    current: list[Subscription] = []
    new: list[Subscription] = []
    for change in changes:
        known = {row.id: row for row in change.before}
        for row in change.after:
            if row.id not in known:
                new.append(row)
            elif row != known[row.id]:
                (current if row.status.is_current else ended).append(row)
    # A report that is being counted may have used a lease up since it was read.
    leased = [row.user_id for row in ended if row.messages_leased]
    rest = [
        recounts.append_statement(sorted(set(leased))),
        subscriptions.save_statement(current),
        subscriptions.append_statement(new),
        events.append_statement(new_events),
        *ledger.append_statements([*postings, *released], now),
        *_top_ups(changes, now),
        *beside,
    ]
    if current or new:
        await combine(connection, [subscriptions.save_statement(ended)])
    else:
        rest.append(subscriptions.save_statement(ended))
    await combine(connection, rest)


def _top_ups(changes: Iterable[Change], now: datetime) -> list[Statement | None]:
    """Note the packs that the changes add to subscriptions, and those that they take back (R17)."""
    was = {pack for change in changes for pack in _packs(change.before)}
    will_be = {pack for change in changes for pack in _packs(change.after)}
    return [
        top_ups.revoke_statement(sorted(pack for pack, _ in was - will_be), now),
        top_ups.append_statement(sorted(will_be - was), now),
    ]


def _packs(rows: Iterable[Subscription]) -> Iterator[tuple[UUID, UUID]]:
    """Give each pack with the subscription that it was added to."""
    for row in rows:
        if row.lots[-1].purchase != row.id:  # its own lot comes last, but for packs
            yield from ((lot.purchase, row.id) for lot in own_packs(row))


def subscription_event(happening: Happening, rows: Sequence[Subscription], now: datetime) -> Event:
    """Tell what happened to a subscription; ``rows`` are the user's after the change."""
    row = next(row for row in rows if row.id == happening.subscription_id)
    return Event(
        type=f"subscription.{happening.event}",
        user_id=row.user_id,
        data=subscription_facts(row) | {"reason": happening.reason},
        occurred_at=now,
    )


def renewing_event(row: Subscription, quoted: Quote, hours_left: int, now: datetime) -> Event:
    """Tell that credit will renew a subscription at its end."""
    price = quoted.plan.price
    facts = subscription_facts(row) | {
        "hours_left": hours_left,
        "amount": str(price.amount),
        "currency": price.currency,
    }
    return Event(type="subscription.renewing", user_id=row.user_id, data=facts, occurred_at=now)


def quota_events(
    before: Sequence[Subscription], after: Sequence[Subscription], now: datetime
) -> tuple[Event, ...]:
    """Tell that a purchase gave a user whose quota was short an ample one."""
    row = current(after)
    if row is None or not ends_shortage(before, after):
        return ()
    return (Event(type="quota.reset", user_id=row.user_id, data=quota_facts(row), occurred_at=now),)


def purchase_events(
    before: Sequence[Subscription], outcome: Outcome, invoice: Invoice, now: datetime
) -> list[Event]:
    """Tell what a purchase did to its user's rights."""
    told = [subscription_event(each, outcome.history, now) for each in outcome.happenings]
    row = current(outcome.history)
    if outcome.refusal is None and row is not None and invoice.plan.is_pack:
        facts = quota_facts(row) | {
            "order_id": str(invoice.id),
            "pack": invoice.plan.plan_type,
            "messages": invoice.plan.quota,
        }
        told.append(Event(type="quota.topped_up", user_id=row.user_id, data=facts, occurred_at=now))
    return [*told, *quota_events(before, outcome.history, now)]


def quota_facts(row: Subscription) -> dict[str, Any]:
    """Describe how far a subscription is used."""
    return {
        "subscription_id": str(row.id),
        "plan_type": row.plan.plan_type,
        "messages_used": row.messages_used,
        "messages_limit": row.messages_limit,
    }


def subscription_facts(row: Subscription) -> dict[str, Any]:
    """Describe a subscription for an event."""
    return {
        "subscription_id": str(row.id),
        "order_id": None if row.invoice_id is None else str(row.invoice_id),
        "plan_type": row.plan.plan_type,
        "source": row.source,
        "valid_from": rfc3339(row.valid_from),
        "valid_until": rfc3339(row.valid_until),
        "messages_limit": row.messages_limit,
        "carried": {
            "rule": row.carried.rule,
            "seconds": row.carried.time.total_seconds(),
            "messages": row.carried.messages,
        },
    }


def invoice_event(name: str, invoice: Invoice, now: datetime, **more: Any) -> Event:
    """Tell what happened to an invoice."""
    return Event(type=name, user_id=invoice.user_id, data=invoice_facts(invoice) | more, occurred_at=now)


def invoice_facts(invoice: Invoice) -> dict[str, Any]:
    """Describe an invoice for an event; amounts are texts, as exact as they are."""
    return {
        "invoice_id": invoice.btcpay_invoice_id,
        "order_id": str(invoice.id),
        "plan_type": None if invoice.plan.is_pack else invoice.plan.plan_type,
        "pack": invoice.plan.plan_type if invoice.plan.is_pack else None,
        "amount": str(invoice.plan.price.amount),
        "currency": invoice.plan.price.currency,
        "status": invoice.status,
        "payment": invoice.payment,
        "paid_amount": None if invoice.paid_amount is None else str(invoice.paid_amount),
    }


def credit_event(posting: Posting, reason: str, now: datetime) -> Event:
    """Tell that money became credit, or was taken from it."""
    facts = {
        "amount": f"{abs(posting.amount):f}",
        "currency": posting.currency,
        "order_id": None if posting.invoice_id is None else str(posting.invoice_id),
        "reason": reason,
    }
    name = "credit.added" if posting.amount > 0 else "credit.spent"
    if posting.kind is EntryKind.REFUNDED and posting.amount < 0:
        name = "credit.refunded"
    return Event(type=name, user_id=posting.user_id, data=facts, occurred_at=now)


def case_event(invoice: Invoice, case: Case, now: datetime) -> Event:
    """Tell that money needs a decision."""
    return invoice_event("invoice.needs_attention", invoice, now, kind=case.kind, detail=case.detail)
