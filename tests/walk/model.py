"""What must stand at rest, from the facts alone; shares no code with the daemon's rules.

A fact is what BTCPay shows of an invoice, what was done to it there, what the operator did, and when a
purchase took effect (R3 makes that time ours, so it is read from the database, as is what had been used when
the next purchase took over).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from kosmo_billing_daemon.demo.btcpay.invoices import (
    AdditionalStatus,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedStatus,
)

PERIOD = timedelta(days=30)
LATE = timedelta(hours=72)
HOLD = timedelta(hours=24)
CAP = timedelta(days=400)
PLANS: dict[str, tuple[int, int | None]] = {
    "wanderer": (5, 50),
    "guardian": (12, 500),
    "sanctuary": (50, None),
}
"""Price in USD and messages of each plan."""

UNUSED = frozenset({"partial_payment", "late_payment", "overpaid", "paid_invalid", "not_fulfilled"})
"""Cases about money that bought nothing, which becomes credit where credit is kept (R14)."""

KINDS = UNUSED | {"mismatch"}
"""Of cases that ask for the operator's decision."""

_MICROSECOND = timedelta(microseconds=1)
_PERIOD = Fraction(PERIOD // _MICROSECOND)
_ROUNDING = Fraction(1, 100_000)  # of a message


@dataclass(frozen=True)
class Purchase:
    """A purchase that stands, in the order of fulfilment; ``used`` when the next one took over.

    A grant is one for which nothing was paid.
    """

    plan: str
    at: datetime
    used: int
    is_grant: bool = False


@dataclass(frozen=True)
class Terms:
    """The end and the messages of a purchase; ``None`` is unlimited. ``messages`` counts their fractions.

    ``released`` is worth that could not be taken over.
    """

    until: datetime
    messages: Fraction | None
    released: Fraction

    def allows(self, limit: int | None) -> bool:
        """Whether ``limit`` is right; rounding may not cost a message."""
        if self.messages is None or limit is None:
            return self.messages is None and limit is None
        return limit in {int(self.messages), int(self.messages + _ROUNDING)}


@dataclass(frozen=True)
class _Lot:
    """What was paid, and which part of the time (in microseconds) and messages that it bought is left."""

    paid: Fraction
    period: Fraction
    quota: Fraction | None
    time: Fraction
    messages: Fraction | None

    @property
    def worth(self) -> Fraction:
        share = self.time / self.period
        return self.paid * (
            share if not self.quota or self.messages is None else min(share, self.messages / self.quota)
        )


@dataclass(frozen=True)
class Fate:
    """Whether an invoice gives rights (``None``: either is right), and the cases open for it."""

    stands: bool | None
    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()


def terms(purchases: Sequence[Purchase]) -> list[Terms]:
    """R2 for each purchase: a period and a quota of its own, and what its predecessor's lots had left.

    No more than 400 days are kept (R11).
    """
    found: list[Terms] = []
    stack: list[_Lot] = []
    for place, new in enumerate(purchases):
        old = purchases[place - 1] if place else None
        taken = [] if old is None else _taken(stack, old, new)
        kept = _within_cap(taken)
        released = sum((lot.worth for lot in taken), Fraction(0)) - sum(
            (lot.worth for lot in kept), Fraction(0)
        )
        stack = [*kept, _bought(new)]
        found.append(Terms(new.at + -(-_time(stack) // 1) * _MICROSECOND, _messages(stack), released))
    return found


def may_exceed_cap(purchases: Sequence[Purchase], plan: str, at: datetime) -> bool:
    """Whether buying ``plan`` after these could carry the end beyond the cap, as far as the use is known."""
    unused = [replace(purchase, used=0) for purchase in purchases]
    stack: list[_Lot] = []
    for old, new in pairwise([*unused, Purchase(plan, at, 0)]):
        stack = [*_within_cap(stack), _bought(old)]
        stack = _taken(stack, old, new)
    return _time(stack) > (CAP - PERIOD - timedelta(seconds=1)) // _MICROSECOND


def _taken(stack: Sequence[_Lot], old: Purchase, new: Purchase) -> list[_Lot]:
    """What ``new`` takes over of the lots that ``old`` began with."""
    elapsed = (new.at - old.at) // _MICROSECOND
    if _time(stack) <= elapsed:
        return []
    left = _left(stack, elapsed, old.used)
    return left if old.plan == new.plan else _converted(left, new.plan)


def _time(stack: Sequence[_Lot]) -> Fraction:
    return sum((lot.time for lot in stack), Fraction(0))


def _bought(purchase: Purchase) -> _Lot:
    price, quota = PLANS[purchase.plan]
    paid = Fraction(0 if purchase.is_grant else price)
    messages = None if quota is None else Fraction(quota)
    return _Lot(paid, _PERIOD, messages, _PERIOD, messages)


def _messages(stack: Sequence[_Lot]) -> Fraction | None:
    if any(lot.messages is None for lot in stack):
        return None
    return sum((lot.messages or Fraction(0) for lot in stack), Fraction(0))


def _left(stack: Sequence[_Lot], elapsed: int, used: int) -> list[_Lot]:
    """Take time and messages from the oldest first; what is less than one message cannot be sent."""
    has = _messages(stack)
    time, messages = Fraction(elapsed), Fraction(used)
    if has is not None and used >= int(has + _ROUNDING):
        messages = has
    left = []
    for lot in stack:
        gone = min(time, lot.time)
        sent = Fraction(0) if lot.messages is None else min(messages, lot.messages)
        time, messages = time - gone, messages - sent
        rest = None if lot.messages is None else lot.messages - sent
        left.append(replace(lot, time=lot.time - gone, messages=rest))
    return left


def _converted(stack: Sequence[_Lot], plan: str) -> list[_Lot]:
    """Buy time and messages of another plan with what each lot is still worth."""
    price, quota = PLANS[plan]
    found = []
    for lot in stack:
        if worth := lot.worth:
            time = worth / price * _PERIOD
            messages = None if quota is None else worth / price * quota
            found.append(_Lot(worth, time, messages, time, messages))
    return found


def _within_cap(stack: Sequence[_Lot]) -> list[_Lot]:
    """Cut off what was paid more than 400 days ahead, newest first, time and messages alike."""
    room = Fraction((CAP - PERIOD) // _MICROSECOND)
    found = []
    for lot in stack:
        kept = min(room, lot.time)
        messages = lot.messages
        if kept < lot.time and messages is not None:
            messages *= kept / lot.time
        room -= kept
        found.append(replace(lot, time=kept, messages=messages))
    return found


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


def received(
    invoice: SimulatedInvoice, *, is_altered: bool, is_settled_by_hand: bool, stands: bool
) -> tuple[Decimal, Decimal]:
    """R13: the least and the most that may be booked as received of what BTCPay shows.

    Only confirmed money is, but for what BTCPay settles by its own rules. Of an invoice that BTCPay calls
    invalid stays what was confirmed before, unless it had bought something.
    """
    nothing = Decimal(0)
    if is_altered:
        return nothing, nothing
    if invoice.status is SimulatedStatus.INVALID:
        return nothing, invoice.confirmed if stands is is_settled_by_hand else nothing
    if invoice.status is SimulatedStatus.EXPIRED:
        return invoice.confirmed, invoice.confirmed
    if invoice.status is not SimulatedStatus.SETTLED:
        return nothing, nothing
    if invoice.additional_status is AdditionalStatus.MARKED:
        return invoice.confirmed, invoice.confirmed
    right = max(invoice.price, invoice.confirmed)
    return right, right
