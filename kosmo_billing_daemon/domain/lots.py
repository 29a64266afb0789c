"""What is left of what was paid, lot by lot (R2, R17).

Each purchase is a lot: what was paid, its period, its messages. That never changes, whatever becomes of
the catalogue. A subscription holds a stack of lots, which are consumed oldest first, in time and in
messages apart from each other. What is left of a lot is worth what was paid for it, times the smaller of
its two shares left.

- Added to the same plan, lots stay what they are.
- Converted to another plan, each lot becomes one of the new plan: paid for with what was left of it, it
  keeps this worth when it is converted again. A stack whose last message is used is worth nothing.
- Worth in another currency than the new plan's is not converted, since nobody knows the rate. It is
  *released*: it becomes the user's credit in its own currency. So is what would carry the end beyond the
  cap (R11).
- A grant was paid with nothing. It is added to the same plan, and converts into nothing.
- A pack adds messages and no time: a lot without a period, which lasts as long as those around it. If late
  reports show that these had ended before it was bought, it is released.
- Time that an operator gives is a lot without messages, and was paid with nothing. It comes last, so no lot
  is worth less or more for it until the end that was paid for.

Worth is kept to a trillionth of the currency, messages to a billionth, both rounded down; time is rounded up
to the microsecond. So what is lost or gained by rounding never comes near a message or a second.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from math import ceil
from uuid import UUID

from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.runtime.records import record

_MICROSECOND = timedelta(microseconds=1)
_NO_TIME = timedelta(0)
_WORTH, _MESSAGES = Decimal("1e-12"), Decimal("1e-9")
_CRUMB = Decimal("1e-6")  # of a message: rounding alone must not cost one
_WIDE = Context(prec=120, rounding=ROUND_FLOOR)


@record(kw_only=True)
class Lot:
    """One payment and what is left of it; ``purchase`` says which subscription or pack it paid for.

    A pack has no ``period``, an unlimited plan no ``messages``. ``after`` is how long the subscription had
    lasted when the pack was added to it.
    """

    purchase: UUID
    paid: Price
    period: timedelta | None
    messages: Decimal | None
    time_left: timedelta
    messages_left: Decimal | None
    after: timedelta | None = None

    @property
    def share(self) -> Fraction:
        """The smaller of the shares of time and messages that are left."""
        share = Fraction(1)
        if self.period is not None:
            # The clock may have been set back: what is left is never more than the whole.
            share = min(share, Fraction(self.time_left // _MICROSECOND, self.period // _MICROSECOND))
        if self.messages and self.messages_left is not None:
            share = min(share, Fraction(self.messages_left) / Fraction(self.messages))
        return share

    @property
    def worth(self) -> Decimal:
        """What is left of the payment."""
        return _floor(Fraction(self.paid.amount) * self.share, _WORTH)


@record
class Released:
    """Worth of a lot that no longer buys time or messages, and becomes credit."""

    purchase: UUID
    worth: Price


@record
class Taken:
    """The lots that a new purchase takes over, what of them it cannot, and whether they exceeded the room."""

    lots: tuple[Lot, ...] = ()
    released: tuple[Released, ...] = ()
    exceeds: bool = False


def pack(purchase: UUID, messages: int, paid: Price, after: timedelta) -> Lot:
    """Return the lot of a pack that was just bought (R17)."""
    whole = Decimal(messages)
    return Lot(
        purchase=purchase,
        paid=paid,
        period=None,
        messages=whole,
        time_left=_NO_TIME,
        messages_left=whole,
        after=after,
    )


def extension(purchase: UUID, time: timedelta, currency: str, *, is_unlimited: bool) -> Lot:
    """Return the lot of time that an operator gives."""
    none = None if is_unlimited else Decimal(0)
    return Lot(
        purchase=purchase,
        paid=Price(Decimal(0), currency),
        period=time,
        messages=none,
        time_left=time,
        messages_left=none,
    )


def time_left(lots: Iterable[Lot]) -> timedelta:
    """Return how long the lots last."""
    return sum((lot.time_left for lot in lots), _NO_TIME)


def messages_left(lots: Iterable[Lot]) -> int | None:
    """Return how many messages the lots hold; ``None`` is unlimited."""
    total = Decimal(0)
    for lot in lots:
        if lot.messages_left is None:
            return None
        total = _WIDE.add(total, lot.messages_left)
    return int(_WIDE.add(total, _CRUMB))


def consumed(lots: Sequence[Lot], elapsed: timedelta, used: int) -> tuple[Lot, ...]:
    """Return what is left of lots after that time and so many messages, oldest first."""
    limit = messages_left(lots)
    # What is left below one message cannot be sent, so the stack is drained all the same.
    spent = Decimal("Infinity") if limit is not None and used >= limit else Decimal(used)
    left: list[Lot] = []
    for lot in lots:
        time, messages = lot.time_left, lot.messages_left
        if lot.period is not None:
            gone = min(elapsed, time)  # negative, once, where the clock was set back
            elapsed, time = elapsed - gone, time - gone
        if messages is not None:
            sent = min(spent, messages)
            spent, messages = _WIDE.subtract(spent, sent), _WIDE.subtract(messages, sent)
        if time or messages:
            left.append(replace(lot, time_left=time, messages_left=messages))
    return tuple(left)


def added(left: Sequence[Lot], room: timedelta) -> Taken:
    """Take over lots of the same plan as they are; what exceeds ``room`` is released, newest first."""
    lots: list[Lot] = []
    released: list[Released] = []
    exceeds = time_left(left) > room
    for lot in left:
        if lot.period is None or lot.time_left <= room:
            lots.append(lot)
        else:
            kept = _shortened(lot, room)
            lots += [kept] if room else []
            released += _release(lot, _WIDE.subtract(lot.worth, kept.worth))
        room -= min(room, lot.time_left)
    return Taken(tuple(lots), tuple(released), exceeds)


def converted(left: Sequence[Lot], plan: Plan, room: timedelta) -> Taken:
    """Turn worth into lots of another plan; what exceeds ``room`` is released, newest first."""
    price = Fraction(plan.price.amount)
    period = plan.period // _MICROSECOND
    # Rounded down, so that the time it buys is no longer than the room, whatever the ratio of the prices is.
    most = _floor(price * (room // _MICROSECOND) / period, _WORTH)
    lots: list[Lot] = []
    released: list[Released] = []
    exceeds = False
    sum_, time_before, messages_before = Decimal(0), 0, Decimal(0)
    for lot in left:
        worth = lot.worth
        is_convertible = lot.paid.currency == plan.price.currency
        fits = min(worth, most - sum_) if is_convertible else Decimal(0)
        exceeds |= is_convertible and fits < worth
        released += _release(lot, worth - fits)
        if not fits:
            continue
        # Rounded over all lots together: many small ones lose no more than one.
        sum_ += fits
        time = ceil(Fraction(sum_) / price * period)
        messages = None if plan.quota is None else _floor(Fraction(sum_) / price * plan.quota, _MESSAGES)
        whole = None if messages is None else messages - messages_before
        lasts = (time - time_before) * _MICROSECOND
        lots.append(
            Lot(
                purchase=lot.purchase,
                paid=Price(fits, plan.price.currency),
                period=lasts or None,
                messages=whole,
                time_left=lasts,
                messages_left=whole,
            )
        )
        time_before, messages_before = time, messages_before if messages is None else messages
    return Taken(tuple(lots), tuple(released), exceeds)


def released_now(left: Sequence[Lot]) -> tuple[Released, ...]:
    """Turn all worth into credit."""
    return tuple(each for lot in left for each in _release(lot, lot.worth))


def worth(lots: Iterable[Lot]) -> dict[str, Decimal]:
    """Return what lots are worth in each currency."""
    found: dict[str, Decimal] = {}
    for lot in lots:
        if amount := lot.worth:
            found[lot.paid.currency] = _WIDE.add(found.get(lot.paid.currency, Decimal(0)), amount)
    return found


def _release(lot: Lot, amount: Decimal) -> tuple[Released, ...]:
    return (Released(lot.purchase, Price(amount, lot.paid.currency)),) if amount else ()


def _shortened(lot: Lot, time: timedelta) -> Lot:
    """Cut a lot off in time, and in messages by the same share."""
    share = Fraction(time // _MICROSECOND, lot.time_left // _MICROSECOND)
    messages = None if lot.messages_left is None else _floor(Fraction(lot.messages_left) * share, _MESSAGES)
    return replace(lot, time_left=time, messages_left=messages)


def _floor(value: Fraction, unit: Decimal) -> Decimal:
    # Exact: the units are powers of ten.
    return _WIDE.multiply(Decimal(int(value / Fraction(unit))), unit)
