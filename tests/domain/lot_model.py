"""R2 and R11 written a second time, from the words of the rule alone: exact fractions, no rounding, slow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction

from kosmo_billing_daemon.domain.plans import Plan

CAP = Fraction(400 * 86_400)


def seconds(span: timedelta) -> Fraction:
    return Fraction(span // timedelta(microseconds=1), 1_000_000)


@dataclass(frozen=True)
class ModelLot:
    """One payment: what it was, in seconds and messages, and what is left of both."""

    paid: Fraction
    currency: str
    period: Fraction
    quota: Fraction | None
    time: Fraction
    messages: Fraction | None

    @property
    def worth(self) -> Fraction:
        share = min(Fraction(1), self.time / self.period)
        if self.quota and self.messages is not None:
            share = min(share, self.messages / self.quota)
        return self.paid * share


def bought(plan: Plan, paid: Fraction | None = None) -> ModelLot:
    quota = None if plan.quota is None else Fraction(plan.quota)
    period = seconds(plan.period)
    worth = Fraction(plan.price.amount) if paid is None else paid
    return ModelLot(worth, plan.price.currency, period, quota, period, quota)


def limit(lots: Sequence[ModelLot]) -> int | None:
    found = [lot.messages for lot in lots]
    return None if None in found else int(sum(each for each in found if each is not None))


def left(lots: Sequence[ModelLot], elapsed: Fraction, used: int) -> list[ModelLot]:
    """The oldest lot goes first, in time and in messages."""
    most = limit(lots)
    spent = Fraction(used) if most is None or used < most else Fraction(10**30)
    found: list[ModelLot] = []
    for lot in lots:
        time = max(Fraction(0), lot.time - elapsed)
        elapsed = max(Fraction(0), elapsed - lot.time)
        messages = lot.messages
        if messages is not None:
            rest = max(Fraction(0), messages - spent)
            spent = max(Fraction(0), spent - messages)
            messages = rest
        found.append(replace(lot, time=time, messages=messages))
    return found


def taken(lots: Sequence[ModelLot], old: Plan, new: Plan) -> tuple[list[ModelLot], Mapping[str, Fraction]]:
    """What goes on under the new plan, and what becomes credit: of another currency, or beyond the cap."""
    credit: dict[str, Fraction] = {}

    def release(currency: str, amount: Fraction) -> None:
        credit[currency] = credit.get(currency, Fraction(0)) + amount

    found = list(lots)
    if old.plan_type != new.plan_type or (old.quota is None) != (new.quota is None):
        found = []
        for lot in lots:
            if lot.currency != new.price.currency:
                release(lot.currency, lot.worth)
            elif lot.worth:
                share = lot.worth / Fraction(new.price.amount)
                whole = bought(new, lot.worth)
                period = whole.period * share
                quota = None if whole.quota is None else whole.quota * share
                found.append(ModelLot(lot.worth, lot.currency, period, quota, period, quota))
    room = CAP - seconds(new.period)
    fitting = []
    for lot in found:
        time = min(lot.time, room)
        room -= time
        if time == lot.time:
            fitting.append(lot)
            continue
        messages = None if lot.messages is None else lot.messages * time / lot.time
        shorter = replace(lot, time=time, messages=messages)
        release(lot.currency, lot.worth - shorter.worth)
        fitting += [shorter] if time else []
    return fitting, credit


def lasts(lots: Sequence[ModelLot]) -> Fraction:
    return sum((lot.time for lot in lots), Fraction(0))
