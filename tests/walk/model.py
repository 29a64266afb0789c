"""What must stand at rest, from the facts alone; shares no code with the daemon's rules.

A fact is what BTCPay shows of an invoice, what was done to it there, what the operator did, and when a
purchase took effect (R3 makes that time ours, so it is read from the database, as is what had been used when
the next purchase took over).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from kosmo_billing_daemon.demo.btcpay.invoices import (
    AdditionalStatus,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedStatus,
)

LATE = timedelta(hours=72)
HOLD = timedelta(hours=24)
UNUSED = frozenset({"partial_payment", "late_payment", "overpaid", "paid_invalid", "not_fulfilled"})
"""Cases about money that bought nothing, which becomes credit where credit is kept (R14)."""

KINDS = UNUSED | {"mismatch"}
"""Of cases that ask for the operator's decision."""


@dataclass(frozen=True)
class Fate:
    """Whether an invoice gives rights (``None``: either is right), and the cases open for it."""

    stands: bool | None
    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()


def standings(until: datetime, now: datetime, *, holding: bool) -> set[str]:
    """How the last purchase may stand: who lapsed before the hold began stays lapsed (R4, R5)."""
    if now < until:
        return {"active"}
    return {"grace", "expired"} if holding and now < until + HOLD else {"expired"}


def fate(
    invoice: SimulatedInvoice,
    confirmed_after: timedelta | None,
    *,
    is_altered: bool,
    is_settled_by_hand: bool,
    is_declined: bool,
) -> Fate:
    """R6 to R9. ``confirmed_after``: how long after expiry a late payment was confirmed in full.

    ``is_altered``: it is not what was quoted any more. What was settled by hand is never marked invalid.
    ``is_declined``: a case of it was closed when it gave nothing; that holds whatever comes later.
    """
    if is_settled_by_hand:
        return Fate(stands=True, may=frozenset({"overpaid", "mismatch"} if is_altered else {"overpaid"}))
    if is_altered:
        is_touched = invoice.status is not SimulatedStatus.NEW
        return Fate(stands=False, must=frozenset({"mismatch"} if is_touched else ()), may=KINDS)
    right = _as_btcpay_says(invoice, confirmed_after)
    if not is_declined or right.stands is False:
        return right
    listed = frozenset({"late_payment"})
    return Fate(
        stands=False, must=listed if right.stands else frozenset(), may=right.must | right.may | listed
    )


def _as_btcpay_says(invoice: SimulatedInvoice, confirmed_after: timedelta | None) -> Fate:
    if invoice.status is SimulatedStatus.SETTLED:
        return _settled(invoice)
    if invoice.status is SimulatedStatus.INVALID:
        return Fate(stands=False, must=frozenset({"paid_invalid"} if invoice.confirmed > 0 else ()))
    if invoice.status is not SimulatedStatus.EXPIRED:
        return Fate(stands=False)
    if invoice.additional_status is AdditionalStatus.PAID_PARTIAL:
        was_more = any(payment.status is PaymentStatus.INVALID for payment in invoice.payments)  # replaced
        may = frozenset({"late_payment"} if was_more else ())
        return Fate(stands=False, must=frozenset({"partial_payment"}), may=may)
    if invoice.additional_status is not AdditionalStatus.PAID_LATE:
        return Fate(stands=False)
    return _late(invoice, confirmed_after)


def _settled(invoice: SimulatedInvoice) -> Fate:
    over = frozenset({"overpaid"})
    if invoice.additional_status is AdditionalStatus.PAID_OVER:
        return Fate(stands=True, must=over)
    return Fate(stands=True, may=over if invoice.paid > invoice.price else frozenset())


def _late(invoice: SimulatedInvoice, confirmed_after: timedelta | None) -> Fate:
    cases = frozenset({"late_payment", "partial_payment"})
    over = frozenset({"overpaid"} if invoice.paid > invoice.price else ())
    if confirmed_after is None:
        return Fate(stands=False, may=cases)
    if confirmed_after <= LATE:
        return Fate(stands=True, may=over)
    received_after = max(payment.received for payment in invoice.payments) - invoice.expires
    if received_after <= LATE:  # when it settled is not told by BTCPay; the doubt is the customer's
        return Fate(stands=None, may=cases | over)
    return Fate(stands=False, must=frozenset({"late_payment"}), may=cases)


def received(invoice: SimulatedInvoice, *, is_altered: bool) -> tuple[Decimal, Decimal]:
    """R13: the least and the most that may be booked as received of what BTCPay shows now.

    Only confirmed money is, but for what BTCPay settles by its own rules, and none of what is still open. Of
    an invoice that turned invalid stays what was credit before.
    """
    if is_altered or invoice.status in {SimulatedStatus.NEW, SimulatedStatus.PROCESSING}:
        return Decimal(0), Decimal(0)
    is_plain = invoice.additional_status is not AdditionalStatus.MARKED
    if invoice.status is SimulatedStatus.SETTLED and is_plain:
        right = max(invoice.price, invoice.confirmed)
        return right, right
    return Decimal(0) if invoice.status is SimulatedStatus.INVALID else invoice.confirmed, invoice.confirmed
