"""What must be left of what was paid, lot by lot (R2, R11, R17); shares no code with the daemon's rules."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction

from tests.walk.catalogue import Offer

CAP = timedelta(days=400)

_MICROSECOND = timedelta(microseconds=1)
_NOTHING = Fraction(0)
_ROUNDING = Fraction(1, 100_000)  # of a message

Worth = dict[str, Fraction]
"""What something is worth in each currency."""


@dataclass(frozen=True)
class Pack:
    """A pack as it was bought; ``given`` is what had been used beyond the limit then, which is not owed.

    ``after`` is how long its plan had lasted, in microseconds.
    """

    price: Fraction
    currency: str
    messages: int
    given: int
    after: Fraction


@dataclass(frozen=True)
class Purchase:
    """A purchase in the order of fulfilment; ``used`` when the next one took over.

    A grant is one for which nothing was paid. What is left at ``cashed_at`` became credit.
    """

    offer: Offer
    at: datetime
    used: int
    is_grant: bool = False
    packs: tuple[Pack, ...] = ()
    cashed_at: datetime | None = None


@dataclass(frozen=True)
class Terms:
    """The end and the messages of a purchase; ``None`` is unlimited. ``messages`` counts their fractions.

    ``released`` is worth that could not be taken over, or was cashed, or of packs bought after the end.
    """

    until: datetime
    messages: Fraction | None
    released: Worth

    def allows(self, limit: int | None) -> bool:
        """Whether ``limit`` is right; rounding may not cost a message."""
        if self.messages is None or limit is None:
            return self.messages is None and limit is None
        return limit in {int(self.messages), int(self.messages + _ROUNDING)}


@dataclass(frozen=True)
class _Lot:
    """What was paid, and which part of the time (in microseconds) and messages that it bought is left.

    A pack buys no time.
    """

    paid: Fraction
    currency: str
    period: Fraction
    quota: Fraction | None
    time: Fraction
    messages: Fraction | None

    @property
    def worth(self) -> Fraction:
        share = self.time / self.period if self.period else Fraction(1)
        if self.quota and self.messages is not None:
            share = min(share, self.messages / self.quota)
        return self.paid * share


_Stack = Sequence[_Lot]


def terms(purchases: Sequence[Purchase]) -> list[Terms]:
    """R2 for each purchase: a period and a quota of its own, and what its predecessor's lots had left.

    No more than 400 days are kept (R11).
    """
    found: list[Terms] = []
    stack: list[_Lot] = []
    for place, new in enumerate(purchases):
        old = _left_of(stack, purchases[place - 1], new) if place else []
        kept = _within_cap(_taken(stack, old, purchases[place - 1], new) if place else [], new.offer)
        released = _sum(_worth(old), _worth(kept), -1)
        stack = [*kept, _bought(new), *_packs(new)]
        until = new.at + -(-_time(stack) // 1) * _MICROSECOND
        if new.cashed_at is not None and new.cashed_at < until:
            left = _left(stack, (new.cashed_at - new.at) // _MICROSECOND, new.used)
            released = _sum(released, _worth(left))
        else:
            too_late = len(_packs(new, _time(stack)))
            released = _sum(released, _worth(_left(stack, 0, new.used)[len(stack) - too_late :]))
        found.append(Terms(until, _messages(stack), released))
    return found


def released_packs(before: Sequence[Purchase], revoked: Purchase) -> Worth:
    """What the packs of a revoked purchase are worth: they are its user's all the same.

    ``before`` are the purchases before it that stand.
    """
    stack = _stack_of([*before, revoked])
    return _worth(_left(stack, 0, revoked.used)[len(stack) - len(_packs(revoked)) :])


def may_exceed_cap(purchases: Sequence[Purchase], offer: Offer, at: datetime) -> bool:
    """Whether buying this after those could carry the end beyond the cap, as far as the use is known."""
    if not purchases:
        return False
    unused = [replace(purchase, used=0) for purchase in purchases]
    stack, new = _stack_of(unused), Purchase(offer, at, 0)
    taken = _taken(stack, _left_of(stack, unused[-1], new), unused[-1], new)
    return _time(taken) > (CAP - timedelta(days=offer.days, seconds=1)) // _MICROSECOND


def _stack_of(purchases: Sequence[Purchase]) -> list[_Lot]:
    """The lots that the last of these begins with."""
    stack: list[_Lot] = []
    for place, new in enumerate(purchases):
        old = purchases[place - 1]
        taken = _taken(stack, _left_of(stack, old, new), old, new) if place else []
        stack = [*_within_cap(taken, new.offer), _bought(new), *_packs(new)]
    return stack


def _left_of(stack: _Stack, old: Purchase, new: Purchase) -> list[_Lot]:
    """What is left of the lots that ``old`` began with when ``new`` is bought."""
    elapsed = (new.at - old.at) // _MICROSECOND
    if _time(stack) <= elapsed or old.cashed_at is not None:
        return []
    return _left(stack, elapsed, old.used)


def _taken(stack: _Stack, left: list[_Lot], old: Purchase, new: Purchase) -> list[_Lot]:
    """What ``new`` takes over of what is left."""
    is_alike = old.offer.name == new.offer.name and (_messages(stack) is None) == (new.offer.messages is None)
    return left if is_alike else _converted(left, new.offer)


def _worth(stack: _Stack) -> Worth:
    found: Worth = {}
    for lot in stack:
        found[lot.currency] = found.get(lot.currency, _NOTHING) + lot.worth
    return found


def _sum(one: Worth, other: Worth, sign: int = 1) -> Worth:
    return {key: one.get(key, _NOTHING) + sign * other.get(key, _NOTHING) for key in {*one, *other}}


def _time(stack: _Stack) -> Fraction:
    return sum((lot.time for lot in stack), _NOTHING)


def _messages(stack: _Stack) -> Fraction | None:
    if any(lot.messages is None for lot in stack):
        return None
    return sum((lot.messages or _NOTHING for lot in stack), _NOTHING)


def _bought(purchase: Purchase) -> _Lot:
    offer = purchase.offer
    paid = _NOTHING if purchase.is_grant else Fraction(offer.price)
    period = Fraction(timedelta(days=offer.days) // _MICROSECOND)
    messages = None if offer.messages is None else Fraction(offer.messages)
    return _Lot(paid, offer.currency, period, messages, period, messages)


def _packs(purchase: Purchase, since: Fraction = _NOTHING) -> list[_Lot]:
    """The packs that were bought since so much of the time had passed."""
    found = []
    for pack in (one for one in purchase.packs if one.after >= since):
        for paid, messages in ((_NOTHING, Fraction(pack.given)), (pack.price, Fraction(pack.messages))):
            if messages:
                found.append(_Lot(paid, pack.currency, _NOTHING, messages, _NOTHING, messages))
    return found


def _left(stack: _Stack, elapsed: int, used: int) -> list[_Lot]:
    """Take time and messages from the oldest first; what is less than one message cannot be sent."""
    has = _messages(stack)
    time, messages = Fraction(elapsed), Fraction(used)
    if has is not None and used >= int(has + _ROUNDING):
        messages = has
    left = []
    for lot in stack:
        gone = min(time, lot.time)
        sent = _NOTHING if lot.messages is None else min(messages, lot.messages)
        time, messages = time - gone, messages - sent
        rest = None if lot.messages is None else lot.messages - sent
        left.append(replace(lot, time=lot.time - gone, messages=rest))
    return left


def _converted(stack: _Stack, offer: Offer) -> list[_Lot]:
    """Buy time and messages of another plan with what each lot in its currency is still worth."""
    period = Fraction(timedelta(days=offer.days) // _MICROSECOND)
    found = []
    for lot in stack:
        if lot.currency == offer.currency and (worth := lot.worth):
            time = worth / Fraction(offer.price) * period
            messages = None if offer.messages is None else worth / Fraction(offer.price) * offer.messages
            found.append(_Lot(worth, lot.currency, time, messages, time, messages))
    return found


def _within_cap(stack: _Stack, offer: Offer) -> list[_Lot]:
    """Cut off what was paid more than 400 days ahead, newest first, time and messages alike."""
    room = Fraction((CAP - timedelta(days=offer.days)) // _MICROSECOND)
    found = []
    for lot in stack:
        kept = min(room, lot.time)
        messages = lot.messages
        if kept < lot.time and messages is not None:
            messages *= kept / lot.time
        room -= kept
        found.append(replace(lot, time=kept, messages=messages))
    return found
