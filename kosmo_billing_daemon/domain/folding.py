"""Derives what each purchase of a user's history took over, and how it stands, from the facts alone (R2-R5).

The facts are: which purchases there are and when, what of them was used or is leased, which were revoked or
cashed, and whether a hold stands. The rest follows, so whoever edits a fact folds the history again.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from kosmo_billing_daemon.domain import lots
from kosmo_billing_daemon.domain.lots import Lot, Released, Taken
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import GRACE, Carried, Rule, Status, Subscription

PREPAID_CAP = timedelta(days=400)
"""R11: how far ahead a user can pay."""


def fold(
    history: Sequence[Subscription], now: datetime, *, holding: bool, first: int
) -> tuple[Subscription, ...]:
    """Derive carried lots from ``first`` on, and every status, from the facts of the history.

    Rows before ``first`` keep what they carried, so a short tail of the history is enough for a purchase.
    """
    rows = list(history)
    before: int | None = None
    for index, row in enumerate(history):
        old = None if before is None else rows[before]
        if row.revoked_at is not None:
            # What is used is taken from the oldest first, so what came before says what is left of its packs.
            anew = (
                _taking_over(_without_later_packs(old, row), row)
                if index >= first and own_packs(row)
                else row
            )
            rows[index] = _revoked(anew, row.revoked_at)
            continue
        if index >= first:
            rows[index] = _taking_over(old, row)
        if before is not None and old is not None:
            rows[before] = _superseded(old, row)
        before = index
    if before is not None:
        rows[before] = _in_time(rows[before], now, holding=holding)
        # Rights that are taken back end now; what was used until then was used.
        was = history[before]
        if was.status.is_current and rows[before].status is Status.EXPIRED and now < was.end:
            rows[before] = replace(rows[before], ended_at=max(now, was.valid_from))
    return tuple(rows)


def _without_later_packs(old: Subscription | None, revoked: Subscription) -> Subscription | None:
    """Leave out packs that ``old`` was given after ``revoked`` had been taken back: it never had these."""
    if old is None or not (packs := own_packs(old)):
        return old
    later = {lot.purchase for lot in packs} - {lot.purchase for lot in revoked.lots}
    return replace(old, lots=tuple(lot for lot in old.lots if lot.purchase not in later))


def _revoked(row: Subscription, at: datetime) -> Subscription:
    """End what was taken back, and release its packs."""
    released = _released(row, row.lots, {lot.purchase for lot in own_packs(row)})
    return replace(
        row,
        status=Status.REVOKED,
        ended_at=max(at, row.valid_from),
        grace_until=None,
        carried=replace(row.carried, released=released),
    )


def _taking_over(old: Subscription | None, new: Subscription) -> Subscription:
    over = taken(old, new.plan, new.valid_from)
    stack = (*over.lots, *new.lots[_place(new) :])
    if old is None or _is_over(old, new.valid_from):
        carried = Carried()
    else:
        rule = Rule.ADDED if _is_alike(old, new.plan) else Rule.CONVERTED
        messages = lots.messages_left(over.lots) or 0
        carried = Carried(rule, old.id, lots.time_left(over.lots), messages, over.released)
    lasts = lots.time_left(stack)
    if new.cashed_at is not None and new.cashed_at < new.valid_from + lasts:
        left = lots.consumed(stack, new.cashed_at - new.valid_from, new.messages_taken)
        carried = replace(carried, released=(*carried.released, *lots.released_now(left)))
    elif too_late := {lot.purchase for lot in own_packs(new) if lot.after is not None and lot.after >= lasts}:
        carried = replace(carried, released=(*carried.released, *_released(new, stack, too_late)))
    return with_stack(new, stack, carried)


def _released(row: Subscription, stack: Sequence[Lot], packs: Collection[UUID]) -> tuple[Released, ...]:
    """Release what is left of some packs of a row: they are the user's all the same."""
    left = lots.consumed(stack, timedelta(0), row.messages_taken)
    return lots.released_now([lot for lot in left if lot.purchase in packs])


def taken(old: Subscription | None, plan: Plan, at: datetime) -> Taken:
    """R2: what of ``old`` a purchase of ``plan`` at ``at`` takes over."""
    if old is None or _is_over(old, at):
        return Taken()
    left = lots.consumed(old.lots, at - old.valid_from, old.messages_taken)
    room = max(PREPAID_CAP - plan.period, timedelta(0))
    return lots.added(left, room) if _is_alike(old, plan) else lots.converted(left, plan, room)


def _is_over(row: Subscription, at: datetime) -> bool:
    """Say whether nothing of it is left then: its time has come, or its worth became credit.

    It also became credit where it was cashed while its successor was revoked, which was reinstated since.
    """
    return row.valid_until <= at or row.cashed_at is not None


def _is_alike(old: Subscription, plan: Plan) -> bool:
    """Say whether lots of ``old`` can stay what they are beside one of ``plan``."""
    return old.plan.plan_type == plan.plan_type and (old.messages_limit is None) == (plan.quota is None)


def _place(row: Subscription) -> int:
    """Return where in its stack the lot is that the row itself was bought with."""
    return next(place for place, lot in enumerate(row.lots) if lot.purchase == row.id)


def own_packs(row: Subscription) -> tuple[Lot, ...]:
    return tuple(lot for lot in row.lots[_place(row) + 1 :] if lot.period is None)


def own_extensions(row: Subscription) -> tuple[Lot, ...]:
    return tuple(lot for lot in row.lots[_place(row) + 1 :] if lot.period is not None)


def with_stack(row: Subscription, stack: tuple[Lot, ...], carried: Carried) -> Subscription:
    """Give a row its stack, and what follows from it.

    The limit never falls below what was used already, but for what was used beyond it.
    """
    until = row.valid_from + lots.time_left(stack)
    limit = lots.messages_left(stack)
    if limit is not None and row.messages_limit is not None:
        limit = max(limit, min(row.messages_limit, row.messages_used))
    if (row.valid_until, row.messages_limit, row.lots, row.carried) == (until, limit, stack, carried):
        return row
    return replace(row, valid_until=until, messages_limit=limit, lots=stack, carried=carried)


def _superseded(old: Subscription, new: Subscription) -> Subscription:
    """End a subscription that has a successor: replaced if it was still running then, else expired."""
    if old.cashed_at is not None:
        return _cashed(old, min(old.cashed_at, new.valid_from))
    if _stays_expired(old) and old.ended_at is not None and old.ended_at <= new.valid_from:
        return old
    if old.end <= new.valid_from:
        return replace(old, status=Status.EXPIRED, ended_at=old.end)
    return replace(
        old,
        status=Status.REPLACED,
        ended_at=max(new.valid_from, old.valid_from),  # the clock may have stepped back in between
        # A hold that had not begun ends here, so that it is not found again when ``new`` is revoked.
        grace_until=old.grace_until if old.valid_until <= new.valid_from else None,
    )


def _cashed(row: Subscription, at: datetime) -> Subscription:
    return replace(row, status=Status.EXPIRED, grace_until=None, ended_at=max(at, row.valid_from))


def _stays_expired(row: Subscription) -> bool:
    """What has expired stays expired, unless a reinstated predecessor carried its end further."""
    return row.status is Status.EXPIRED and row.ended_at is not None and row.valid_until <= row.ended_at


def _in_time(row: Subscription, now: datetime, *, holding: bool) -> Subscription:
    """Say where the last purchase stands at ``now``."""
    if row.cashed_at is not None:
        return _cashed(row, row.cashed_at)
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
