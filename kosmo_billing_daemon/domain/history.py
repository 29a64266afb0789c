"""What a purchase, its revocation, late usage and time do to a user's subscriptions (R2-R5, R8).

A user's history is the tuple of purchases in the order of their fulfilment. Every change edits one
fact of it (a purchase more, a revocation, a message counted, a hold) and then *folds* the history again:
each purchase takes over what its predecessor had left. So a revoked purchase counts as if it had never
been, also for purchases that had already taken over its remainder, and reinstating it restores the same
period; and a message that is reported late takes back what was carried in its place.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.domain import lots
from kosmo_billing_daemon.domain.lots import Lot, Taken
from kosmo_billing_daemon.domain.plans import Plan, PlanType, Price
from kosmo_billing_daemon.domain.subscriptions import (
    GRACE,
    Carried,
    Happening,
    InvoiceId,
    Outcome,
    Refusal,
    Rule,
    Source,
    Status,
    Subscription,
    SubscriptionEvent,
    SubscriptionId,
    UserId,
    current,
    sole_lot,
)

PREPAID_CAP = timedelta(days=400)
"""R11: how far ahead a user can pay."""


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

    Refused if it would carry the end beyond the cap (R11). Expiry that was due before counts first, so a
    late timer changes neither dates nor events.
    """
    due = _due(history, now)
    old = current(due.history)
    if _taken(old, plan, now).exceeds:
        return Outcome(due.history, due.happenings, Refusal.PREPAID_CAP)
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
        lots=(sole_lot(subscription_id, source, plan, plan.period, plan.quota),),
    )
    folded = _fold([*due.history, bought], now, holding=holding, first=len(due.history))
    if old is None:
        event = SubscriptionEvent.ACTIVATED
    else:
        event = (
            SubscriptionEvent.RENEWED if old.plan.plan_type == plan.plan_type else SubscriptionEvent.CHANGED
        )
    return Outcome(folded, (*due.happenings, Happening(event, subscription_id, "purchase")))


def add_pack(
    history: Sequence[Subscription],
    *,
    pack_id: UUID,
    messages: int,
    paid: Price,
    plans: Sequence[PlanType],
    now: datetime,
) -> Outcome:
    """Raise the limit of the current subscription by a pack (R17); it adds no time.

    Refused where no subscription to one of ``plans`` is current, and where it is unlimited.
    """
    due = _due(history, now)
    row = current(due.history)
    if row is None or row.messages_limit is None or row.plan.plan_type not in plans:
        return Outcome(due.history, due.happenings, Refusal.NO_FITTING_PLAN)
    stack = [*row.lots]
    if row.messages_used > row.messages_limit:
        # What was used beyond the limit is not owed, so it must not eat what is bought now.
        given = row.messages_used - row.messages_limit
        stack.append(lots.pack(pack_id, given, Price(Decimal(0), paid.currency)))
    stack.append(lots.pack(pack_id, messages, paid))
    raised = _with(row, tuple(stack), row.carried)
    return Outcome(tuple(raised if each is row else each for each in due.history), due.happenings)


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
    return _folded_again(due, rows, now, reason=reason, holding=holding, first=index)


def withdraw_pack(
    history: Sequence[Subscription], pack_id: UUID, now: datetime, *, reason: str, holding: bool = False
) -> Outcome:
    """Take a pack back: the limit is what it was without it (R17).

    ``history`` must be the user's whole history. A repeat changes nothing.
    """
    due = _due(history, now)
    for index, row in enumerate(due.history):
        if any(lot.purchase == pack_id for lot in _own_packs(row)):
            rows = list(due.history)
            rows[index] = replace(row, lots=tuple(lot for lot in row.lots if lot.purchase != pack_id))
            return _folded_again(due, rows, now, reason=reason, holding=holding, first=index)
    return due


def recount(history: Sequence[Subscription], now: datetime, *, holding: bool = False) -> Outcome:
    """Carry over anew what purchases had left, after messages of theirs were reported late (R2).

    ``history`` must be the user's whole history. A repeat changes nothing.
    """
    due = _due(history, now)
    return _folded_again(due, due.history, now, reason="late_usage", holding=holding, first=0)


def _folded_again(
    due: Outcome, rows: Sequence[Subscription], now: datetime, *, reason: str, holding: bool, first: int
) -> Outcome:
    """Fold facts that were edited, and say what that made of the user's rights."""
    before = current(due.history)
    folded = _fold(rows, now, holding=holding, first=first)
    after = current(folded)
    if after is None:
        lost = () if before is None else (Happening(SubscriptionEvent.EXPIRED, before.id, reason),)
        return Outcome(folded, (*due.happenings, *lost))
    if after == before:
        return Outcome(folded, due.happenings)
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
    """Derive carried lots from ``first`` on, and every status, from the facts of the history.

    Rows before ``first`` keep what they carried, so a short tail of the history is enough for a purchase.
    """
    rows = list(history)
    before: int | None = None
    for index, row in enumerate(history):
        if row.revoked_at is not None:
            rows[index] = _revoked(row, row.revoked_at)
            continue
        old = None if before is None else rows[before]
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


def _revoked(row: Subscription, at: datetime) -> Subscription:
    """End what was taken back; packs that it had are the user's all the same, and are released."""
    left = lots.consumed(row.lots, timedelta(0), row.messages_used)
    own = {lot.purchase for lot in _own_packs(row)}
    released = lots.released_now([lot for lot in left if lot.purchase in own])
    return replace(
        row,
        status=Status.REVOKED,
        ended_at=max(at, row.valid_from),
        grace_until=None,
        carried=replace(row.carried, released=released),
    )


def _taking_over(old: Subscription | None, new: Subscription) -> Subscription:
    taken = _taken(old, new.plan, new.valid_from)
    own = new.lots[_place(new) :]
    if old is None or old.valid_until <= new.valid_from:
        carried = Carried()
    else:
        rule = Rule.ADDED if _is_alike(old, new.plan) else Rule.CONVERTED
        messages = lots.messages_left(taken.lots) or 0
        carried = Carried(rule, old.id, lots.time_left(taken.lots), messages, taken.released)
    return _with(new, (*taken.lots, *own), carried)


def _taken(old: Subscription | None, plan: Plan, at: datetime) -> Taken:
    """R2: what of ``old`` a purchase of ``plan`` at ``at`` takes over."""
    if old is None or old.valid_until <= at:
        return Taken()
    left = lots.consumed(old.lots, at - old.valid_from, old.messages_used)
    room = max(PREPAID_CAP - plan.period, timedelta(0))
    return lots.added(left, room) if _is_alike(old, plan) else lots.converted(left, plan, room)


def _is_alike(old: Subscription, plan: Plan) -> bool:
    """Say whether lots of ``old`` can stay what they are beside one of ``plan``."""
    return old.plan.plan_type == plan.plan_type and (old.messages_limit is None) == (plan.quota is None)


def _place(row: Subscription) -> int:
    """Return where in its stack the lot is that the row itself was bought with."""
    return next(place for place, lot in enumerate(row.lots) if lot.purchase == row.id)


def _own_packs(row: Subscription) -> tuple[Lot, ...]:
    return row.lots[_place(row) + 1 :]


def _with(row: Subscription, stack: tuple[Lot, ...], carried: Carried) -> Subscription:
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


def _stays_expired(row: Subscription) -> bool:
    """What has expired stays expired, unless a reinstated predecessor carried its end further."""
    return row.status is Status.EXPIRED and row.ended_at is not None and row.valid_until <= row.ended_at


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
