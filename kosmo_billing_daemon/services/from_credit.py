"""Fulfils what credit has paid, without BTCPay (R15); the caller holds the locks of the users."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from uuid import uuid4

from kosmo_billing_daemon.domain.history import purchase
from kosmo_billing_daemon.domain.invoices import Effect, Invoice
from kosmo_billing_daemon.domain.ledger import Posting, of_invoice
from kosmo_billing_daemon.domain.subscriptions import Source, Subscription, SubscriptionId, UserId
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.store import invoices, subscriptions
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection

_EVENTS = ("invoice.created", "invoice.settled")


async def fulfil(
    connection: Connection,
    paid: Sequence[Invoice],
    now: datetime,
    *,
    renewing: Mapping[UserId, tuple[Subscription, datetime]] = MappingProxyType({}),
) -> None:
    """Write what new invoices buy that credit pays; that the rules allow it was found before.

    ``renewing`` names subscriptions, running or lapsed, that are renewed, and as of when.
    """
    users = {invoice.user_id for invoice in paid}
    found = await subscriptions.lock_current(connection, users)
    confirming = await invoices.load_processing(connection, users, now)
    found |= {user_id: row for user_id, (row, _) in renewing.items()}
    before: dict[UserId, tuple[Subscription, ...]] = {
        user_id: (found[user_id],) if user_id in found else () for user_id in users
    }
    rows = dict(before)
    new_events: list[Event] = []
    postings: list[Posting] = []
    for invoice in paid:
        outcome = purchase(
            rows[invoice.user_id],
            subscription_id=SubscriptionId(uuid4()),
            user_id=invoice.user_id,
            invoice_id=invoice.id,
            source=Source.CREDIT,
            plan=invoice.plan,
            now=renewing[invoice.user_id][1] if invoice.user_id in renewing else now,
            holding=invoice.user_id in confirming,
        )
        booked = of_invoice(replace(invoice, effect=Effect.NONE), invoice)
        postings += booked
        new_events += [fulfilment.invoice_event(name, invoice, now) for name in _EVENTS]
        new_events += fulfilment.purchase_events(rows[invoice.user_id], outcome, invoice, now)
        new_events += [fulfilment.credit_event(one, "purchase", now) for one in booked]
        rows[invoice.user_id] = outcome.history
    changes = [Change(before[user_id], rows[user_id]) for user_id in sorted(users)]
    await fulfilment.write(connection, changes, new_events, now, postings=postings)
