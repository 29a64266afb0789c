"""What a purchase, its revocation and the passing of time do to a user's subscriptions (R2-R5, R8).

A user's history is the tuple of purchases in the order of their fulfilment. Every change edits one
fact of it (a purchase more, a revocation, a hold) and then *folds* the history again: each purchase
takes over what its predecessor had left. So a revoked purchase counts as if it had never been, also
for purchases that had already taken over its remainder, and reinstating it restores the same period.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import NewType
from uuid import UUID

from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.runtime.records import record

UserId = NewType("UserId", UUID)
SubscriptionId = NewType("SubscriptionId", UUID)
InvoiceId = NewType("InvoiceId", UUID)

GRACE = timedelta(hours=24)
"""R5: how long at most a confirming purchase keeps the old rights."""

_MICROSECOND = timedelta(microseconds=1)


class Status(StrEnum):
    """Where a subscription stands; at most one of a user's is ACTIVE or GRACE."""

    ACTIVE = "active"
    GRACE = "grace"
    REPLACED = "replaced"
    EXPIRED = "expired"
    REVOKED = "revoked"

    @property
    def is_current(self) -> bool:
        """True while it grants rights."""
        return self in (Status.ACTIVE, Status.GRACE)


class Source(StrEnum):
    """Who says that it was paid."""

    BTCPAY = "btcpay"
    MANUAL = "manual"
    GRANT = "grant"


class Rule(StrEnum):
    """Which part of R2 produced the dates of a purchase."""

    FRESH = "fresh"
    ADDED = "added"
    CONVERTED = "converted"


@record
class Carried:
    """What a purchase took over from its predecessor, beside its own period and quota."""

    rule: Rule = Rule.FRESH
    from_id: SubscriptionId | None = None
    time: timedelta = timedelta(0)
    messages: int = 0


@record(kw_only=True)
class Subscription:
    """One fulfilled purchase and the rights that it gives in ``[valid_from, valid_until)``.

    ``messages_used_at_end`` is what had been used when a later purchase took over the rest. It stays
    when that purchase is revoked, so that reinstating it takes over the same.
    """

    id: SubscriptionId
    user_id: UserId
    invoice_id: InvoiceId | None
    source: Source
    plan: Plan
    status: Status
    valid_from: datetime
    valid_until: datetime
    messages_limit: int | None
    messages_used: int = 0
    messages_used_at_end: int | None = None
    grace_until: datetime | None = None
    ended_at: datetime | None = None
    revoked_at: datetime | None = None
    carried: Carried = Carried()

    @property
    def end(self) -> datetime:
        """When the rights end by themselves, the hold of R5 included."""
        return self.grace_until or self.valid_until


class SubscriptionEvent(StrEnum):
    """What happened to a user's rights; the event ``subscription.<value>``."""

    ACTIVATED = "activated"
    RENEWED = "renewed"
    CHANGED = "changed"
    EXPIRED = "expired"
    REVOKED = "revoked"


@record
class Happening:
    """One event about one subscription."""

    event: SubscriptionEvent
    subscription_id: SubscriptionId
    reason: str


@record
class Outcome:
    """The history after a change, and the events that it makes, in order."""

    history: tuple[Subscription, ...]
    happenings: tuple[Happening, ...] = ()


def current(history: Sequence[Subscription]) -> Subscription | None:
    """Return the subscription that grants rights, if any."""
    return next((row for row in reversed(history) if row.status.is_current), None)


def advance(history: Sequence[Subscription], now: datetime, *, holding: bool) -> Outcome:
    """Let time pass (R4) and hold or release the old rights (R5).

    ``holding`` says that another purchase of this user is confirming right now.
    """
    folded = _fold(history, now, holding=holding, first=len(history))
    before, after = current(history), current(folded)
    if before is not None and after is None:
        return Outcome(folded, (Happening(SubscriptionEvent.EXPIRED, before.id, "time"),))
    return Outcome(folded)


def purchase(
    history: Sequence[Subscription],
    *,
    subscription_id: SubscriptionId,
    user_id: UserId,
    invoice_id: InvoiceId | None,
    source: Source,
    plan: Plan,
    now: datetime,
    holding: bool = False,
) -> Outcome:
    """Fulfil a purchase at once (R2, R3): what was left is added, nothing paid for is lost.

    Expiry that was due before counts first, so a late timer changes neither dates nor events.
    """
    due = _due(history, now)
    old = current(due.history)
    bought = Subscription(
        id=subscription_id,
        user_id=user_id,
        invoice_id=invoice_id,
        source=source,
        plan=plan,
        status=Status.ACTIVE,
        valid_from=now,
        valid_until=now + plan.period,
        messages_limit=plan.quota,
    )
    # What is running is read now, not as an earlier successor, revoked since, had read it.
    rows = [replace(row, messages_used_at_end=None) if row is old else row for row in due.history]
    folded = _fold([*rows, bought], now, holding=holding, first=len(rows))
    if old is None:
        event = SubscriptionEvent.ACTIVATED
    else:
        event = (
            SubscriptionEvent.RENEWED if old.plan.plan_type == plan.plan_type else SubscriptionEvent.CHANGED
        )
    return Outcome(folded, (*due.happenings, Happening(event, subscription_id, "purchase")))


def revoke(
    history: Sequence[Subscription],
    subscription_id: SubscriptionId,
    now: datetime,
    *,
    reason: str,
    holding: bool = False,
) -> Outcome:
    """Take a purchase back as if it had never been (R8); what was paid before it counts again.

    ``history`` must be the user's whole history. A repeat changes nothing.
    """
    due = _due(history, now)
    index = _index(due.history, subscription_id)
    row = due.history[index]
    if row.revoked_at is not None:
        return due
    rows = list(due.history)
    rows[index] = replace(row, revoked_at=now, grace_until=None)
    folded = _fold(rows, now, holding=holding, first=index)
    happenings = [*due.happenings, Happening(SubscriptionEvent.REVOKED, subscription_id, reason)]
    before = current(due.history)
    if before is not None and before.id != subscription_id and current(folded) is None:
        happenings.append(Happening(SubscriptionEvent.EXPIRED, before.id, reason))
    return Outcome(folded, tuple(happenings))


def reinstate(
    history: Sequence[Subscription],
    subscription_id: SubscriptionId,
    now: datetime,
    *,
    reason: str,
    holding: bool = False,
) -> Outcome:
    """Give a revoked purchase back with the same period, no extra time (R8).

    ``history`` must be the user's whole history. A repeat changes nothing.
    """
    due = _due(history, now)
    index = _index(due.history, subscription_id)
    row = due.history[index]
    if row.revoked_at is None:
        return due
    rows = list(due.history)
    rows[index] = replace(row, revoked_at=None, ended_at=None)
    before = current(due.history)
    folded = _fold(rows, now, holding=holding, first=index)
    after = current(folded)
    if after is None:
        lost = () if before is None else (Happening(SubscriptionEvent.EXPIRED, before.id, reason),)
        return Outcome(folded, (*due.happenings, *lost))
    event = SubscriptionEvent.ACTIVATED if before is None else SubscriptionEvent.CHANGED
    return Outcome(folded, (*due.happenings, Happening(event, after.id, reason)))


def _due(history: Sequence[Subscription], now: datetime) -> Outcome:
    """Let what a late timer missed happen first, under the hold that stood until now."""
    row = current(history)
    return advance(history, now, holding=row is not None and row.grace_until is not None)


def _index(history: Sequence[Subscription], subscription_id: SubscriptionId) -> int:
    return next(index for index, row in enumerate(history) if row.id == subscription_id)


def _fold(
    history: Sequence[Subscription], now: datetime, *, holding: bool, first: int
) -> tuple[Subscription, ...]:
    """Derive carried rests from ``first`` on, and every status, from the facts of the history.

    Rows before ``first`` keep what they carried, so a short tail of the history is enough for a
    purchase. The others carry what was left by ``messages_used_at_end``: what their predecessor had
    used then is part of the facts and must not be read again today.
    """
    rows = list(history)
    before: int | None = None
    for index, row in enumerate(history):
        if row.revoked_at is not None:
            rows[index] = replace(
                row, status=Status.REVOKED, ended_at=max(row.revoked_at, row.valid_from), grace_until=None
            )
            continue
        old = None if before is None else rows[before]
        if index >= first:
            rows[index] = _taking_over(old, row)
        if before is not None and old is not None:
            rows[before] = _superseded(old, row)
        before = index
    if before is not None:
        rows[before] = _in_time(rows[before], now, holding=holding)
    return tuple(rows)


def _taking_over(old: Subscription | None, new: Subscription) -> Subscription:
    carried = _carry(old, new.plan, new.valid_from)
    until = new.valid_from + new.plan.period + carried.time
    limit = None if new.plan.quota is None else new.plan.quota + carried.messages
    if (new.valid_until, new.messages_limit, new.carried) == (until, limit, carried):
        return new
    return replace(new, valid_until=until, messages_limit=limit, carried=carried)


def _superseded(old: Subscription, new: Subscription) -> Subscription:
    """End a subscription that has a successor: replaced if it was still running then, else expired."""
    if _stays_expired(old) and old.ended_at is not None and old.ended_at <= new.valid_from:
        return old
    if old.end <= new.valid_from:
        return replace(old, status=Status.EXPIRED, ended_at=old.end)
    return replace(
        old,
        status=Status.REPLACED,
        ended_at=max(new.valid_from, old.valid_from),  # the clock may have stepped back in between
        messages_used_at_end=_used(old),
        # A hold that had not begun ends here, so that it is not found again when ``new`` is revoked.
        grace_until=old.grace_until if old.valid_until <= new.valid_from else None,
    )


def _stays_expired(row: Subscription) -> bool:
    """What has expired stays expired, unless a reinstated predecessor carried its end further."""
    return row.status is Status.EXPIRED and row.ended_at is not None and row.valid_until <= row.ended_at


def _used(row: Subscription) -> int:
    return row.messages_used if row.messages_used_at_end is None else row.messages_used_at_end


def _in_time(row: Subscription, now: datetime, *, holding: bool) -> Subscription:
    """Say where the last purchase stands at ``now``."""
    if _stays_expired(row):
        return row
    grace_until = row.valid_until + GRACE if holding else None
    if now < row.valid_until:
        return _alive(row, Status.ACTIVE, grace_until)
    if grace_until is not None and now < grace_until:
        return _alive(row, Status.GRACE, grace_until)
    # A hold that is released ends now; otherwise the end came when its time had come.
    return replace(row, status=Status.EXPIRED, grace_until=None, ended_at=min(now, row.end))


def _alive(row: Subscription, status: Status, grace_until: datetime | None) -> Subscription:
    if (row.status, row.grace_until, row.ended_at) == (status, grace_until, None):
        return row
    return replace(row, status=status, grace_until=grace_until, ended_at=None)


def _carry(old: Subscription | None, plan: Plan, at: datetime) -> Carried:
    """R2: what of ``old`` is added to a purchase of ``plan`` at ``at``."""
    if old is None or old.valid_until <= at:
        return Carried()
    time_left = old.valid_until - at
    messages_left = None if old.messages_limit is None else max(0, old.messages_limit - _used(old))
    if old.plan.plan_type == plan.plan_type and (messages_left is None) == (plan.quota is None):
        return Carried(Rule.ADDED, old.id, time_left, messages_left or 0)
    if old.plan.price.currency != plan.price.currency:
        return Carried()
    share = Fraction(time_left // _MICROSECOND, old.plan.period // _MICROSECOND)
    if messages_left is not None and old.plan.quota is not None:
        share = min(share, Fraction(messages_left, old.plan.quota))
    extra = share * Fraction(old.plan.price.amount) / Fraction(plan.price.amount)
    # Time is rounded up to the microsecond, messages down (R2).
    time = ceil(extra * (plan.period // _MICROSECOND)) * _MICROSECOND
    return Carried(Rule.CONVERTED, old.id, time, 0 if plan.quota is None else int(extra * plan.quota))
