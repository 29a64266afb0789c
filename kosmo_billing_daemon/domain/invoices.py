"""Invoices as we keep them, and as BTCPay shows them."""

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID, uuid5

from kosmo_billing_daemon.domain.currencies import smallest_unit
from kosmo_billing_daemon.domain.plans import Plan, Price
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

    CREDITED: it could not take effect when it was paid, and its money became credit. Marking it settled at
    BTCPay afterwards gives the plan all the same.
    WITHDRAWN and DECLINED are an operator's decision: what was given was taken back, or its case was closed
    and nothing was given. Until an operator decides otherwise, nothing at BTCPay changes that.
    """

    NONE = "none"
    FULFILLED = "fulfilled"
    REVOKED = "revoked"
    CREDITED = "credited"
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
    UNKNOWN_ORDER = "unknown_order"
    NEGATIVE_BALANCE = "negative_balance"


@record(kw_only=True)
class Invoice:
    """Our invoice: what was quoted to whom, and what is known of its payment.

    ``credit_used`` is the part of the price that is not asked for, because credit is reserved for it (R15).
    ``received`` and ``adjusted`` are what it has in the ledger: confirmed money, and what the operator
    granted (positive) or wrote off (negative).
    """

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
    credit_used: Decimal = Decimal(0)
    received: Decimal = Decimal(0)
    adjusted: Decimal = Decimal(0)

    @property
    def asked(self) -> Price:
        """What BTCPay asks the payer for."""
        price = self.plan.price
        return Price(price.amount - self.credit_used, price.currency) if self.credit_used else price


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
    """A case for the operator; ``amount`` is the money in question where it is known.

    ``is_final`` says that all of it is confirmed, though it is in no ledger yet.
    """

    kind: CaseKind
    detail: str
    amount: Decimal | None
    is_final: bool = False


def needs_confirmation(observation: Observation) -> bool:
    """Say whether the payments themselves must be read, because BTCPay's total may hold unconfirmed money."""
    if not observation.paid_amount:
        return False
    if observation.status is InvoiceStatus.SETTLED:
        is_over = observation.paid_amount - observation.amount >= smallest_unit(observation.currency)
        return is_over or observation.payment in (Payment.OVER, Payment.MARKED)
    return observation.status in (InvoiceStatus.EXPIRED, InvoiceStatus.INVALID)


def is_confirming(invoice: Invoice) -> bool:
    """Say whether the money is on its way: seen, and neither final nor of any effect yet (R5, R11)."""
    return invoice.status is InvoiceStatus.PROCESSING and invoice.effect is Effect.NONE


def reserves_credit(invoice: Invoice) -> bool:
    """Say whether the credit it counts on is kept for it (R15): as long as it is open."""
    return invoice.effect is Effect.NONE and invoice.status in (
        InvoiceStatus.RESERVED,
        InvoiceStatus.NEW,
        InvoiceStatus.PROCESSING,
    )


ADOPTED = UUID("b6a3d6c4-0d5b-5e0a-8a4e-7c1f0e2d9b55")
"""Namespace of invoices that v0.1 opened. Their id is the UUIDv5 of BTCPay's in it, ours are random."""


def adopted_id(btcpay_invoice_id: str) -> InvoiceId:
    """Return our id of an invoice that v0.1 opened."""
    return InvoiceId(uuid5(ADOPTED, btcpay_invoice_id))


def is_adopted(invoice: Invoice) -> bool:
    """Say whether v0.1 opened the invoice, which its id alone tells."""
    return invoice.btcpay_invoice_id is not None and invoice.id == adopted_id(invoice.btcpay_invoice_id)
