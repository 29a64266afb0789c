"""What observing an invoice at BTCPay means for the purchase behind it (R3, R6-R9).

BTCPay's answer is the fact; we compare it with what we quoted and with what we did before. The same
observation twice asks for nothing new, so hints may come in any order and number.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import assert_never

from kosmo_billing_daemon.domain.currencies import smallest_unit
from kosmo_billing_daemon.domain.invoices import (
    LATE_LIMIT,
    Case,
    CaseKind,
    Effect,
    Invoice,
    InvoiceStatus,
    Observation,
    Payment,
    is_adopted,
)
from kosmo_billing_daemon.domain.subscriptions import Refusal, Source
from kosmo_billing_daemon.runtime.records import record

_RANK = {
    InvoiceStatus.RESERVED: 0,
    InvoiceStatus.ABANDONED: 0,
    InvoiceStatus.NEW: 1,
    InvoiceStatus.PROCESSING: 1,
    InvoiceStatus.EXPIRED: 2,
    InvoiceStatus.SETTLED: 3,
    InvoiceStatus.INVALID: 3,
}
"""BTCPay never leads back to a lower rank: whoever shows one was fetched earlier and arrived later."""


class Action(StrEnum):
    """What the observation asks of the user's subscriptions."""

    NOTHING = "nothing"
    FULFIL = "fulfil"
    REVOKE = "revoke"
    REINSTATE = "reinstate"


@record
class Verdict:
    """The invoice after an observation, what to do, what to list, and which cases that closes.

    ``credited`` says why money became credit instead of a case.
    """

    invoice: Invoice
    action: Action = Action.NOTHING
    source: Source = Source.BTCPAY
    events: tuple[str, ...] = ()
    cases: tuple[Case, ...] = ()
    closes: tuple[CaseKind, ...] = ()
    credited: CaseKind | None = None


_OF_UNUSED_MONEY = (
    CaseKind.PARTIAL_PAYMENT,
    CaseKind.LATE_PAYMENT,
    CaseKind.PAID_INVALID,
    CaseKind.NOT_FULFILLED,
)
"""Money on an invoice that gave nothing is listed under one of these: what BTCPay shows now."""

_CLOSED_BY_FULFILMENT = (*_OF_UNUSED_MONEY, CaseKind.MISMATCH)


def observe(invoice: Invoice, seen: Observation, now: datetime, *, store_id: str) -> Verdict:
    """Compare the invoice with what BTCPay shows and say what follows."""
    if invoice.btcpay_invoice_id not in (None, seen.btcpay_invoice_id):
        # Another invoice with our order id, as a creation after a timeout can leave: it says nothing of ours.
        detail = f"BTCPay invoice is {seen.btcpay_invoice_id}, created {invoice.btcpay_invoice_id}"
        return Verdict(invoice, cases=(Case(CaseKind.MISMATCH, detail, seen.paid_amount),))
    if _RANK[seen.status] < _RANK[invoice.status]:
        return Verdict(invoice)
    wrong = _mismatches(invoice, seen, store_id)
    # One that does not ask for what was quoted must not be paid (R9).
    link = None if wrong else invoice.checkout_url or seen.checkout_url
    received, adjusted = _booked(invoice, seen)
    seen_invoice = replace(
        invoice,
        status=seen.status,
        payment=seen.payment,
        btcpay_invoice_id=seen.btcpay_invoice_id,
        checkout_url=link,
        expires_at=seen.expires_at,
        paid_amount=seen.paid_amount if seen.paid_amount is not None else invoice.paid_amount,
        effect=Effect.NONE if _is_vouched_anew(invoice, seen) else invoice.effect,
        received=received,
        adjusted=adjusted,
    )
    events = _events(invoice, seen_invoice)
    match seen.status:
        case InvoiceStatus.SETTLED:
            source = Source.MANUAL if seen.payment is Payment.MARKED else Source.BTCPAY
            settled_at, cases = seen_invoice.settled_at or now, _overpaid(seen_invoice)
            verdict = _fulfil(seen_invoice, settled_at, source=source, cases=cases)
        case InvoiceStatus.EXPIRED:
            verdict = _expired(seen_invoice, seen, now)
        case InvoiceStatus.INVALID:
            verdict = _invalid(seen_invoice, seen, known=invoice.status is InvoiceStatus.INVALID)
        case InvoiceStatus.NEW | InvoiceStatus.PROCESSING:
            verdict = Verdict(seen_invoice)
        case InvoiceStatus.RESERVED | InvoiceStatus.ABANDONED:
            raise ValueError(f"BTCPay has no status {seen.status}")
        case _:
            assert_never(seen.status)
    if wrong:
        verdict = _blocked(verdict, wrong, invoice)
    return replace(verdict, events=(*events, *_effects(verdict)))


def _is_vouched_anew(invoice: Invoice, seen: Observation) -> bool:
    """Say whether somebody marked as settled what had become credit (R8, R14).

    That decides as settling by hand does: the plan is given, and paid with the credit. A mark that is seen
    again decides nothing.
    """
    before, mark = (invoice.status, invoice.payment), (InvoiceStatus.SETTLED, Payment.MARKED)
    return invoice.effect is Effect.CREDITED and before != mark == (seen.status, seen.payment)


def settle_by_hand(invoice: Invoice, now: datetime) -> Verdict:
    """Fulfil an invoice because the operator says so (R6); repeats change nothing."""
    lifted = {
        Effect.WITHDRAWN: Effect.REVOKED,
        Effect.DECLINED: Effect.NONE,
        Effect.CREDITED: Effect.NONE,
    }
    invoice = replace(invoice, effect=lifted.get(invoice.effect, invoice.effect))
    closes = tuple(kind for kind in CaseKind if kind is not CaseKind.OVERPAID)
    verdict = _fulfil(invoice, invoice.settled_at or now, source=Source.MANUAL, closes=closes)
    return replace(verdict, events=_effects(verdict))


def refused(verdict: Verdict, why: Refusal) -> Verdict:
    """Turn a fulfilment into a case: what is refused when an invoice opens is refused when it is paid."""
    match why:
        case Refusal.PREPAID_CAP:
            detail = "paid, but it would carry the plan more than 400 days ahead"
        case Refusal.NO_FITTING_PLAN:
            detail = "paid, but there is no current plan that it fits"
        case Refusal.CREDIT_SPENT:
            detail = "paid late, and the credit that it counted on was spent meanwhile"
        case _:
            assert_never(why)
    effect, adjusted = Effect.NONE, min(verdict.invoice.adjusted, Decimal(0))
    if verdict.action is Action.REINSTATE and not verdict.invoice.plan.is_pack:
        effect, adjusted = Effect.REVOKED, verdict.invoice.adjusted  # its subscription is there all the same
    listed = _unused(
        replace(verdict.invoice, effect=effect, adjusted=adjusted),
        Case(CaseKind.NOT_FULFILLED, detail, verdict.invoice.paid_amount),
        *verdict.cases,
    )
    return replace(
        listed,
        source=verdict.source,
        events=tuple(name for name in verdict.events if name != "invoice.settled"),
    )


_CREDITED_KINDS = (*_OF_UNUSED_MONEY, CaseKind.OVERPAID)


def as_credit(verdict: Verdict) -> Verdict:
    """Let money that bought nothing be the user's credit instead of a case (R14).

    What was not booked as received stays a case: it is not confirmed, BTCPay calls the invoice invalid, or it
    is not what was quoted. So does a mark that could not take effect: whoever made it expects that it did.
    """
    invoice = verdict.invoice
    listed = next((case for case in verdict.cases if case.kind in _CREDITED_KINDS), None)
    if listed is None:
        return verdict
    why = listed.kind
    shown = listed.amount if why is CaseKind.PAID_INVALID else invoice.paid_amount
    if (shown or Decimal(0)) - invoice.received >= smallest_unit(invoice.plan.price.currency):
        return verdict
    credited: tuple[CaseKind, ...] = (why,) if why is CaseKind.OVERPAID else _CREDITED_KINDS
    if why is CaseKind.NOT_FULFILLED and invoice.effect is not Effect.REVOKED:
        invoice = replace(invoice, effect=Effect.CREDITED)
        if verdict.source is Source.MANUAL:
            credited = tuple(kind for kind in _CREDITED_KINDS if kind is not why)
    kept = tuple(case for case in verdict.cases if case.kind not in credited)
    closes = (*verdict.closes, *(kind for kind in credited if kind not in verdict.closes))
    return replace(verdict, invoice=invoice, cases=kept, closes=closes, credited=why if shown else None)


def _booked(invoice: Invoice, seen: Observation) -> tuple[Decimal, Decimal]:
    """Return what is ``received`` and ``adjusted`` now: what is confirmed came in (R13).

    An invoice that is still open brings in nothing yet. One that turns invalid brings in nothing more, and
    what gave a plan nothing at all, unless an operator gave the plan when it was invalid already.
    """
    known = invoice.received, invoice.adjusted
    if seen.status in (InvoiceStatus.NEW, InvoiceStatus.PROCESSING):
        return known
    asked = invoice.asked.amount
    received = seen.confirmed_amount or Decimal(0)
    if seen.status is InvoiceStatus.SETTLED and seen.payment is not Payment.MARKED:
        received = max(asked, received)
    elif seen.status is InvoiceStatus.INVALID:
        is_decided = invoice.effect is Effect.FULFILLED and invoice.status is InvoiceStatus.INVALID
        is_taken = invoice.effect in (Effect.FULFILLED, Effect.REVOKED) and not is_decided
        received = Decimal(0) if is_taken else invoice.received
    if abs(received - asked) < smallest_unit(invoice.plan.price.currency):
        received = asked  # converted from bitcoin: that is rounding
    adjusted = invoice.adjusted
    if adjusted > 0:  # what comes in takes the place of what somebody vouched for
        adjusted = max(Decimal(0), adjusted - (received - invoice.received))
    return known if (received, adjusted) == known else (received, adjusted)  # with the digits it had


def _events(before: Invoice, after: Invoice) -> tuple[str, ...]:
    """Name the events of a status that was not seen before; falling back to New is none."""
    created = ("invoice.created",) if before.status is InvoiceStatus.RESERVED else ()
    if before.status is after.status or after.status in (InvoiceStatus.NEW, InvoiceStatus.SETTLED):
        return created
    return (*created, f"invoice.{after.status}")


def _effects(verdict: Verdict) -> tuple[str, ...]:
    """Tell that an invoice settled when that has its effect, once, whatever BTCPay calls its status."""
    return ("invoice.settled",) if verdict.action in (Action.FULFIL, Action.REINSTATE) else ()


def _mismatches(invoice: Invoice, seen: Observation, store_id: str) -> list[str]:
    """R9: what the fetched invoice must carry, and does not. What v0.1 opened has an order id of v0.1."""
    wrong = []
    if seen.store_id != store_id:
        wrong.append(f"store is {seen.store_id}, ours is {store_id}")
    if seen.order_id != str(invoice.id) and not is_adopted(invoice):
        wrong.append(f"order id is {seen.order_id}, quoted for {invoice.id}")
    quoted = invoice.asked
    if (seen.amount, seen.currency) != (quoted.amount, quoted.currency):
        wrong.append(f"price is {seen.amount} {seen.currency}, quoted {quoted.amount} {quoted.currency}")
    return wrong


def _blocked(verdict: Verdict, wrong: Sequence[str], before: Invoice) -> Verdict:
    """Keep a mismatching invoice from giving rights or credit; taking rights back needs no match."""
    case = Case(CaseKind.MISMATCH, "; ".join(wrong), verdict.invoice.paid_amount)
    if verdict.action is not Action.REVOKE:
        as_before = replace(verdict.invoice, received=before.received, adjusted=before.adjusted)
        verdict = replace(verdict, invoice=as_before)
    if verdict.action in (Action.FULFIL, Action.REINSTATE):
        invoice = replace(verdict.invoice, effect=before.effect)
        return replace(verdict, invoice=invoice, action=Action.NOTHING, events=(), cases=(case,), closes=())
    return replace(verdict, cases=(*verdict.cases, case))


def _fulfil(
    invoice: Invoice,
    settled_at: datetime,
    *,
    source: Source,
    cases: tuple[Case, ...] = (),
    closes: tuple[CaseKind, ...] = _CLOSED_BY_FULFILMENT,
) -> Verdict:
    match invoice.effect:
        case Effect.NONE:
            action = Action.FULFIL
        case Effect.REVOKED:
            action = Action.REINSTATE
        case Effect.FULFILLED:
            action = Action.NOTHING
        case Effect.WITHDRAWN | Effect.CREDITED:
            return Verdict(invoice, cases=cases)
        case Effect.DECLINED:
            detail = f"paid {invoice.paid_amount} after its case was closed without giving any rights"
            return _unused(invoice, Case(CaseKind.LATE_PAYMENT, detail, invoice.paid_amount), *cases)
        case _:
            assert_never(invoice.effect)
    settled = replace(invoice, effect=Effect.FULFILLED, settled_at=settled_at)
    if source is Source.MANUAL and action is not Action.NOTHING:
        # Somebody vouches for what is missing; what was vouched for before a revocation stands again.
        missing = invoice.asked.amount - invoice.received
        settled = replace(settled, adjusted=max(missing, invoice.adjusted))
    return Verdict(settled, action=action, source=source, cases=cases, closes=closes)


def _unused(invoice: Invoice, case: Case, *more: Case) -> Verdict:
    """List money that gives nothing; what it was listed as before is outdated."""
    others = tuple(kind for kind in _OF_UNUSED_MONEY if kind is not case.kind)
    return Verdict(invoice, cases=(case, *more), closes=others)


def _overpaid(invoice: Invoice) -> tuple[Case, ...]:
    """R7: list what was paid too much.

    BTCPay does not round ``paidAmount``: a price paid to the satoshi shows up as a fraction of a cent
    more. Less than the smallest unit of the currency is that rounding, unless BTCPay says PaidOver.
    """
    price = invoice.asked
    excess = (invoice.paid_amount or Decimal(0)) - price.amount
    if excess <= 0 or (excess < smallest_unit(price.currency) and invoice.payment is not Payment.OVER):
        return ()
    return (Case(CaseKind.OVERPAID, f"paid {excess} {price.currency} too much", excess),)


def _expired(invoice: Invoice, seen: Observation, now: datetime) -> Verdict:
    paid = invoice.paid_amount
    if invoice.effect not in (Effect.NONE, Effect.DECLINED):
        return Verdict(invoice, cases=_overpaid(invoice))
    if invoice.payment is Payment.PARTIAL:
        detail = f"paid {paid} of {invoice.asked.amount} {invoice.asked.currency}, then it expired"
        return _unused(invoice, Case(CaseKind.PARTIAL_PAYMENT, detail, paid))
    if invoice.payment is not Payment.LATE:
        return Verdict(invoice)
    deadline = seen.expires_at + LATE_LIMIT
    # The sum is converted from bitcoin: less than the smallest unit missing is rounding.
    enough = invoice.asked.amount - smallest_unit(invoice.asked.currency)
    confirmed = seen.confirmed_amount is not None and seen.confirmed_amount > enough
    if not confirmed:
        waiting = replace(invoice, late_unconfirmed_at=now)
        if now <= deadline:
            return Verdict(waiting)
        detail = f"paid after expiry and not confirmed by {deadline:%Y-%m-%d %H:%M} UTC"
        return _unused(waiting, Case(CaseKind.LATE_PAYMENT, detail, paid))
    # When it settled is not told by BTCPay: not before it was received, nor before we last saw it
    # unconfirmed. Doubt that an outage of ours left is the customer's (R3).
    earliest = max(t for t in (seen.expires_at, seen.last_received_at, invoice.late_unconfirmed_at) if t)
    if min(earliest, now) > deadline:
        detail = f"paid in full, but settled later than {deadline:%Y-%m-%d %H:%M} UTC"
        return _unused(invoice, Case(CaseKind.LATE_PAYMENT, detail, paid))
    return _fulfil(invoice, now, source=Source.BTCPAY, cases=_overpaid(invoice))


def _invalid(invoice: Invoice, seen: Observation, *, known: bool) -> Verdict:
    """Take back what was given (R8), and list what is confirmed all the same, unless it is credit already."""
    if invoice.effect is Effect.WITHDRAWN or (known and invoice.effect is Effect.FULFILLED):
        return Verdict(invoice)  # decided by an operator, who may give a plan although it is invalid
    was_given = invoice.effect is Effect.FULFILLED
    invoice = replace(invoice, effect=Effect.REVOKED if was_given else invoice.effect)
    verdict = Verdict(invoice, closes=_CREDITED_KINDS)
    if seen.confirmed_amount:
        currency = invoice.plan.price.currency
        detail = f"received {seen.confirmed_amount} {currency}, but BTCPay calls the invoice invalid"
        verdict = _unused(invoice, Case(CaseKind.PAID_INVALID, detail, seen.confirmed_amount))
        verdict = replace(verdict, closes=(*verdict.closes, CaseKind.OVERPAID))
    return replace(verdict, action=Action.REVOKE if was_given else Action.NOTHING)
