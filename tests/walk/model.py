"""What must stand at rest, from the facts alone; shares no code with the daemon's rules.

A fact is what BTCPay shows of an invoice, what was done to it there, what the operator did, and when a
purchase took effect (R3 makes that time ours, so it is read from the database, as is what had been used when
the next purchase took over).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from kosmo_billing_daemon.demo.btcpay.invoices import (
    AdditionalStatus,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedStatus,
)

PERIOD = timedelta(days=30)
LATE = timedelta(hours=72)
HOLD = timedelta(hours=24)
PLANS: dict[str, tuple[int, int | None]] = {
    "wanderer": (5, 50),
    "guardian": (12, 500),
    "sanctuary": (50, None),
}
"""Price in USD and messages of each plan."""

KINDS = frozenset({"partial_payment", "late_payment", "overpaid", "paid_invalid", "mismatch"})
"""Of cases that ask for the operator's decision."""

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Purchase:
    """A purchase that stands, in the order of fulfilment; ``used`` when the next one took over."""

    plan: str
    at: datetime
    used: int


@dataclass(frozen=True)
class Terms:
    """The end and the messages of a purchase; ``None`` is unlimited."""

    until: datetime
    limit: int | None


@dataclass(frozen=True)
class Fate:
    """Whether an invoice gives rights (``None``: either is right), and the cases open for it."""

    stands: bool | None
    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()


def terms(purchases: Sequence[Purchase]) -> list[Terms]:
    """R2 for each purchase: a period and a quota of its own, and what its predecessor had left."""
    found: list[Terms] = []
    for place, purchase in enumerate(purchases):
        time, messages = (
            _rest(purchases[place - 1], found[place - 1], purchase) if place else (timedelta(0), 0)
        )
        quota = PLANS[purchase.plan][1]
        found.append(Terms(purchase.at + PERIOD + time, None if quota is None else quota + messages))
    return found


def _rest(old: Purchase, had: Terms, new: Purchase) -> tuple[timedelta, int]:
    left = had.until - new.at
    if left <= timedelta(0):
        return timedelta(0), 0
    messages = None if had.limit is None else max(0, had.limit - old.used)
    if old.plan == new.plan:
        return left, messages or 0
    (old_price, old_quota), (new_price, new_quota) = PLANS[old.plan], PLANS[new.plan]
    share = Fraction(left // _MICROSECOND, PERIOD // _MICROSECOND)
    if messages is not None and old_quota is not None:
        share = min(share, Fraction(messages, old_quota))
    extra = share * old_price / new_price
    time = -(-extra * (PERIOD // _MICROSECOND) // 1) * _MICROSECOND
    return time, 0 if new_quota is None else int(extra * new_quota)


def standings(until: datetime, now: datetime, *, holding: bool) -> set[str]:
    """How the last purchase may stand: who lapsed before the hold began stays lapsed (R4, R5)."""
    if now < until:
        return {"active"}
    return {"grace", "expired"} if holding and now < until + HOLD else {"expired"}


def fate(
    invoice: SimulatedInvoice,
    confirmed_after: timedelta | None,
    *,
    had_effect: bool,
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
    right = _as_btcpay_says(invoice, confirmed_after, had_effect=had_effect)
    if not is_declined or right.stands is False:
        return right
    listed = frozenset({"late_payment"})
    return Fate(
        stands=False, must=listed if right.stands else frozenset(), may=right.must | right.may | listed
    )


def _as_btcpay_says(
    invoice: SimulatedInvoice, confirmed_after: timedelta | None, *, had_effect: bool
) -> Fate:
    if invoice.status is SimulatedStatus.SETTLED:
        return _settled(invoice)
    if invoice.status is SimulatedStatus.INVALID:
        is_case = invoice.confirmed > 0 and not had_effect
        return Fate(
            stands=False,
            must=frozenset({"paid_invalid"} if is_case else ()),
            may=frozenset({"partial_payment", "late_payment", "overpaid"}),
        )
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
