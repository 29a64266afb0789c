"""Invoices as we keep them, and as BTCPay shows them."""

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.runtime.records import record

LATE_LIMIT = timedelta(hours=72)
"""R6: a late full payment that settled within this time after expiry is fulfilled."""


class InvoiceStatus(StrEnum):
    """Where our invoice stands. RESERVED has no invoice at BTCPay yet, ABANDONED never got one."""

    RESERVED = "reserved"
    NEW = "new"
    PROCESSING = "processing"
    SETTLED = "settled"
    EXPIRED = "expired"
    INVALID = "invalid"
    ABANDONED = "abandoned"


class Payment(StrEnum):
    """BTCPay's ``additionalStatus``: what is unusual about the payment."""

    NONE = "none"
    PARTIAL = "partial"
    OVER = "over"
    LATE = "late"
    MARKED = "marked"


class Effect(StrEnum):
    """What this invoice did to the user's subscriptions (R1).

    WITHDRAWN and DECLINED are an operator's decision: what was given was taken back, or its case was closed
    and nothing was given. Until an operator decides otherwise, nothing at BTCPay changes that.
    """

    NONE = "none"
    FULFILLED = "fulfilled"
    REVOKED = "revoked"
    WITHDRAWN = "withdrawn"
    DECLINED = "declined"


class CaseKind(StrEnum):
    """Why money needs the operator's decision."""

    LATE_PAYMENT = "late_payment"
    PARTIAL_PAYMENT = "partial_payment"
    OVERPAID = "overpaid"
    MISMATCH = "mismatch"
    PAID_INVALID = "paid_invalid"
    PAID_TWICE = "paid_twice"
    NOT_FULFILLED = "not_fulfilled"


@record(kw_only=True)
class Invoice:
    """Our invoice: what was quoted to whom, and what is known of its payment."""

    id: InvoiceId
    user_id: UserId
    plan: Plan
    status: InvoiceStatus
    created_at: datetime
    btcpay_invoice_id: str | None = None
    payment: Payment = Payment.NONE
    effect: Effect = Effect.NONE
    expires_at: datetime | None = None
    checkout_url: str | None = None
    redirect_url: str | None = None
    paid_amount: Decimal | None = None
    settled_at: datetime | None = None
    late_unconfirmed_at: datetime | None = None


@record(kw_only=True)
class Observation:
    """One invoice as BTCPay shows it. ``confirmed_amount`` is known only where it was asked for:
    the sum of settled payments in the invoice's currency; ``last_received_at`` the newest of them.
    """

    btcpay_invoice_id: str
    store_id: str
    order_id: str | None
    amount: Decimal
    currency: str
    status: InvoiceStatus
    payment: Payment
    expires_at: datetime
    paid_amount: Decimal | None
    checkout_url: str
    confirmed_amount: Decimal | None = None
    last_received_at: datetime | None = None


@record
class Case:
    """A case for the operator; ``amount`` is the money in question where it is known."""

    kind: CaseKind
    detail: str
    amount: Decimal | None


def needs_confirmation(observation: Observation) -> bool:
    """Say whether the payments themselves must be read: late or invalid, with money on it."""
    late = observation.status is InvoiceStatus.EXPIRED and observation.payment is Payment.LATE
    lost = observation.status is InvoiceStatus.INVALID and bool(observation.paid_amount)
    return late or lost


def is_confirming(invoice: Invoice) -> bool:
    """Say whether the money is on its way: seen, and neither final nor of any effect yet (R5, R11)."""
    return invoice.status is InvoiceStatus.PROCESSING and invoice.effect is Effect.NONE
