"""What verdicts on invoices do to the subscriptions of their users, in the order of the verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from uuid import uuid4

from kosmo_billing_daemon.domain import history as periods
from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain import verdicts as rules
from kosmo_billing_daemon.domain.currencies import smallest_unit
from kosmo_billing_daemon.domain.invoices import Effect, InvoiceStatus, is_confirming, reserves_credit
from kosmo_billing_daemon.domain.subscriptions import (
    InvoiceId,
    Outcome,
    Refusal,
    Source,
    Subscription,
    SubscriptionId,
    UserId,
)
from kosmo_billing_daemon.domain.verdicts import Action, Verdict
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.store import invoices, ledger, subscriptions
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.purchases import Purchase


@record
class Evaluation:
    """An invoice with what its user has, the verdict on it, and the observation's number, if it has one."""

    purchase: Purchase
    verdict: Verdict
    number: int | None

    @property
    def touches_periods(self) -> bool:
        """Say whether its user's subscriptions change: by an action, or by a hold begun or ended (R5)."""
        before, after = self.purchase.invoice.status, self.verdict.invoice.status
        held = (before is InvoiceStatus.PROCESSING) != (after is InvoiceStatus.PROCESSING)
        return held or self.verdict.action is not Action.NOTHING


async def affordable(connection: Connection, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Refuse fulfilments that count on money which was spent elsewhere meanwhile (R15).

    Such an invoice was paid late: its reservation has ended, or what it had received before became credit.
    Where somebody vouches for the invoice, what of it was spent is granted instead: it must not be owed.
    What the user owes for other reasons stays owed.
    """
    late = [one for one in evaluations if _counts_on(one)]
    if not late:
        return list(evaluations)
    users = {one.purchase.invoice.user_id for one in late}
    balances = await ledger.load_balances(connection, users)
    reserved = await invoices.load_reserved_credit(connection, users)
    refused: dict[InvoiceId, Refusal] = {}
    granted: dict[InvoiceId, Evaluation] = {}
    for one in late:
        after = one.verdict.invoice
        currency = after.plan.price.currency
        key = (after.user_id, currency)
        left = balances.get(key, Decimal(0)) + _books(one)
        missing = reserved.get(key, Decimal(0)) - left
        if missing < smallest_unit(currency):
            balances[key] = left
        elif one.verdict.source is Source.MANUAL:
            given = min(missing, _counts_on(one))
            balances[key] = left + given
            vouched = replace(after, adjusted=after.adjusted + given)
            granted[after.id] = replace(one, verdict=replace(one.verdict, invoice=vouched))
        else:
            refused[after.id] = Refusal.CREDIT_SPENT
            balances[key] = left + after.plan.price.amount
    return [_as_refused(granted.get(one.verdict.invoice.id, one), refused) for one in evaluations]


def _counts_on(one: Evaluation) -> Decimal:
    """Return how much a fulfilment counts on that was the user's credit before, and may be spent."""
    before = one.purchase.invoice
    if one.verdict.action not in (Action.FULFIL, Action.REINSTATE) or before.effect is Effect.WITHDRAWN:
        return Decimal(0)
    return before.received + (Decimal(0) if reserves_credit(before) else before.credit_used)


def _books(one: Evaluation) -> Decimal:
    """Return what an evaluation does to the user's credit."""
    booked = books.of_invoice(one.purchase.invoice, one.verdict.invoice)
    return sum((each.amount for each in booked), Decimal(0))


async def change_periods(
    connection: Connection, evaluations: Sequence[Evaluation], now: datetime
) -> tuple[list[Evaluation], list[Change], dict[InvoiceId, list[Event]]]:
    """Apply verdicts to their users' subscriptions.

    Returns the evaluations as they turned out, since what cannot take effect any more is refused (R11), what
    changed, and the events by the invoice that made them.
    """
    refused: dict[InvoiceId, Refusal] = {}
    changes: list[Change] = []
    new_events: dict[InvoiceId, list[Event]] = {}
    of_users: dict[UserId, list[Evaluation]] = {}
    for one in evaluations:
        of_users.setdefault(one.purchase.invoice.user_id, []).append(one)
    for user_id, each in of_users.items():
        touching = [one for one in each if one.touches_periods]
        if not touching:
            continue
        current = each[0].purchase.current
        before: tuple[Subscription, ...] = () if current is None else (current,)
        if any(one.verdict.action in (Action.REVOKE, Action.REINSTATE) for one in touching):
            before = await subscriptions.lock_history(connection, user_id)
        holding = _is_confirming(each)
        rows = before
        for one in touching:
            outcome = _change(rows, one.verdict, now, holding=holding)
            if outcome.refusal is not None:
                refused[one.verdict.invoice.id] = outcome.refusal
            new_events[one.verdict.invoice.id] = (
                fulfilment.purchase_events(rows, outcome, one.verdict.invoice, now)
                if one.verdict.action is Action.FULFIL
                else [
                    fulfilment.subscription_event(each, outcome.history, now) for each in outcome.happenings
                ]
            )
            rows = outcome.history
        changes.append(Change(before, rows))
    return [_as_refused(one, refused) for one in evaluations], changes, new_events


def _as_refused(one: Evaluation, refused: Mapping[InvoiceId, Refusal]) -> Evaluation:
    refusal = refused.get(one.verdict.invoice.id)
    return one if refusal is None else replace(one, verdict=rules.refused(one.verdict, refusal))


def _is_confirming(of_user: Sequence[Evaluation]) -> bool:
    """Say whether any invoice of the user is confirming after these verdicts (R5)."""
    known = {one.verdict.invoice.id for one in of_user}
    return any(is_confirming(one.verdict.invoice) for one in of_user) or any(
        invoice_id not in known for invoice_id in of_user[0].purchase.confirming
    )


def _change(rows: tuple[Subscription, ...], verdict: Verdict, now: datetime, *, holding: bool) -> Outcome:
    invoice = verdict.invoice
    action = verdict.action
    if invoice.plan.is_pack and action is Action.REVOKE:
        return periods.withdraw_pack(rows, invoice.id, now, reason="invoice_invalid", holding=holding)
    if invoice.plan.is_pack and action is Action.REINSTATE:
        action = Action.FULFIL  # it is added to what is current now
    if action is Action.REINSTATE and all(row.invoice_id != invoice.id for row in rows):
        action = Action.FULFIL  # moved in, and nobody knows which row of v0.1 it paid for
    match action:
        case Action.FULFIL:
            return periods.purchase(
                rows,
                subscription_id=SubscriptionId(uuid4()),
                user_id=invoice.user_id,
                invoice_id=invoice.id,
                source=verdict.source,
                plan=invoice.plan,
                now=now,
                holding=holding,
            )
        case Action.REVOKE:
            bought = _bought(rows, invoice.id)
            return periods.revoke(rows, bought, now, reason="invoice_invalid", holding=holding)
        case Action.REINSTATE:
            bought = _bought(rows, invoice.id)
            return periods.reinstate(rows, bought, now, reason="invoice_settled_again", holding=holding)
        case Action.NOTHING:
            return periods.advance(rows, now, holding=holding)


def _bought(rows: Sequence[Subscription], invoice_id: InvoiceId) -> SubscriptionId:
    return next(row.id for row in rows if row.invoice_id == invoice_id)
