"""The state machine of an invoice, as BTCPay Server's invoice watcher runs it.

The rule it keeps: a change of state happens only here, and every function returns the events in the order in
which BTCPay publishes them. A fall back from Processing to New is silent; Settled and Invalid are final
unless somebody marks the invoice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Any

from kosmo_billing_daemon.demo.btcpay.invoices import (
    AdditionalStatus,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedPayment,
    SimulatedStatus,
)
from kosmo_billing_daemon.runtime.records import record

_UNPAID = (SimulatedStatus.NEW, SimulatedStatus.EXPIRED)
_OPEN = (SimulatedStatus.NEW, SimulatedStatus.PROCESSING, SimulatedStatus.EXPIRED)


class EventType(StrEnum):
    """The invoice events a webhook can carry."""

    CREATED = "InvoiceCreated"
    RECEIVED_PAYMENT = "InvoiceReceivedPayment"
    PAYMENT_SETTLED = "InvoicePaymentSettled"
    PROCESSING = "InvoiceProcessing"
    SETTLED = "InvoiceSettled"
    EXPIRED = "InvoiceExpired"
    EXPIRED_PAID_PARTIAL = "InvoiceExpiredPaidPartial"
    PAID_AFTER_EXPIRATION = "InvoicePaidAfterExpiration"
    INVALID = "InvoiceInvalid"
    REFUND = "InvoiceRefund"


@record
class InvoiceEvent:
    """One event, with the fields only its type carries."""

    type: EventType
    fields: dict[str, Any] = field(default_factory=dict)


def watch(invoice: SimulatedInvoice, now: datetime) -> list[InvoiceEvent]:
    """Let the invoice reach the state its payments and the time demand.

    Looks again only after a look that published something, as the watcher does: an invoice that silently fell
    back to New past its expiry stays New until the next payment or timer.
    """
    events: list[InvoiceEvent] = []
    while step := list(_look(invoice, now)):
        events += step
    return events


def _look(invoice: SimulatedInvoice, now: datetime) -> Iterator[InvoiceEvent]:
    if invoice.status is SimulatedStatus.NEW and invoice.expires <= now:
        invoice.status = SimulatedStatus.EXPIRED
        partial = invoice.additional_status is AdditionalStatus.PAID_PARTIAL
        yield InvoiceEvent(EventType.EXPIRED, {"partiallyPaid": partial})
        if partial:
            yield InvoiceEvent(EventType.EXPIRED_PAID_PARTIAL)
    if invoice.status in _UNPAID:
        yield from _look_at_unpaid(invoice)
    if invoice.status is SimulatedStatus.PROCESSING:
        yield from _look_at_processing(invoice, now)


def _look_at_unpaid(invoice: SimulatedInvoice) -> Iterator[InvoiceEvent]:
    has_payment = bool(invoice.counted_payments)
    is_paid = has_payment if invoice.is_unset_top_up else not invoice.is_underpaid
    if is_paid and invoice.status is SimulatedStatus.NEW:
        invoice.status = SimulatedStatus.PROCESSING
        if invoice.is_unset_top_up and has_payment:
            invoice.price = invoice.counted_payments[0].amount
        over = invoice.is_overpaid
        invoice.additional_status = AdditionalStatus.PAID_OVER if over else AdditionalStatus.NONE
        yield InvoiceEvent(EventType.PROCESSING, {"overPaid": over})
    elif is_paid and invoice.additional_status is not AdditionalStatus.PAID_LATE:
        invoice.additional_status = AdditionalStatus.PAID_LATE
        yield InvoiceEvent(EventType.PAID_AFTER_EXPIRATION)
    elif has_payment and invoice.is_underpaid:
        invoice.additional_status = AdditionalStatus.PAID_PARTIAL


def _look_at_processing(invoice: SimulatedInvoice, now: datetime) -> Iterator[InvoiceEvent]:
    if invoice.is_underpaid:
        invoice.status = SimulatedStatus.NEW
        has_payment = bool(invoice.counted_payments)
        invoice.additional_status = AdditionalStatus.PAID_PARTIAL if has_payment else AdditionalStatus.NONE
        return
    over = invoice.is_overpaid
    if over:
        invoice.additional_status = AdditionalStatus.PAID_OVER
    elif invoice.additional_status is AdditionalStatus.PAID_OVER:
        invoice.additional_status = AdditionalStatus.NONE
    if invoice.confirmed >= invoice.minimum:
        invoice.status = SimulatedStatus.SETTLED
        yield InvoiceEvent(EventType.SETTLED, {"manuallyMarked": False, "overPaid": over})
    elif invoice.monitored_until < now:
        invoice.status = SimulatedStatus.INVALID
        yield InvoiceEvent(EventType.INVALID, {"manuallyMarked": False})


def receive(invoice: SimulatedInvoice, payment: SimulatedPayment, now: datetime) -> list[InvoiceEvent]:
    """Record a payment; one that is already settled (Lightning) announces that before its receipt."""
    invoice.payments.append(payment)
    events = [_payment_event(EventType.RECEIVED_PAYMENT, invoice, payment)]
    if payment.status is PaymentStatus.SETTLED:
        events.insert(0, _payment_event(EventType.PAYMENT_SETTLED, invoice, payment))
    return events + watch(invoice, now)


def confirm(
    invoice: SimulatedInvoice, payments: Sequence[SimulatedPayment], now: datetime
) -> list[InvoiceEvent]:
    """Give ``payments`` enough confirmations."""
    events = []
    for payment in payments:
        payment.status = PaymentStatus.SETTLED
        events.append(_payment_event(EventType.PAYMENT_SETTLED, invoice, payment))
    return events + watch(invoice, now)


def drop_payment(payment: SimulatedPayment) -> None:
    """Stop counting a payment that another transaction replaced; no event tells of it."""
    payment.status = PaymentStatus.INVALID


def markable(invoice: SimulatedInvoice) -> tuple[SimulatedStatus, ...]:
    """Return what the invoice may be marked as by hand (``availableStatusesForManualMarking``)."""
    marked = invoice.additional_status is AdditionalStatus.MARKED
    found = []
    if invoice.status is not SimulatedStatus.SETTLED:
        found.append(SimulatedStatus.SETTLED)
    if invoice.status in _OPEN or (marked and invoice.status is not SimulatedStatus.INVALID):
        found.append(SimulatedStatus.INVALID)
    return tuple(found)


def mark(invoice: SimulatedInvoice, status: SimulatedStatus) -> list[InvoiceEvent] | None:
    """Mark the invoice by hand; None when its state does not allow it."""
    if status not in markable(invoice):
        return None
    invoice.status = status
    invoice.additional_status = AdditionalStatus.MARKED
    if status is SimulatedStatus.SETTLED:
        return [InvoiceEvent(EventType.SETTLED, {"manuallyMarked": True, "overPaid": False})]
    return [InvoiceEvent(EventType.INVALID, {"manuallyMarked": True})]


def payment_json(payment: SimulatedPayment) -> dict[str, Any]:
    """Return a payment as the API and the webhooks show it."""
    return {
        "id": payment.id,
        "receivedDate": int(payment.received.timestamp()),
        "value": f"{payment.value:f}",
        "fee": "0",
        "status": payment.status.value,
        "destination": payment.destination,
    }


def _payment_event(kind: EventType, invoice: SimulatedInvoice, payment: SimulatedPayment) -> InvoiceEvent:
    return InvoiceEvent(
        kind,
        {
            "afterExpiration": invoice.status in (SimulatedStatus.EXPIRED, SimulatedStatus.INVALID),
            "paymentMethodId": payment.method.value,
            "payment": payment_json(payment),
        },
    )
