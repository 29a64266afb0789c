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
from kosmo_billing_daemon.domain.folding import fold, own_packs, taken, with_stack
from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.domain.subscriptions import (
    Happening,
    InvoiceId,
    Outcome,
    Refusal,
    Source,
    Status,
    Subscription,
    SubscriptionEvent,
    SubscriptionId,
    UserId,
    current,
    sole_lot,
)


def advance(history: Sequence[Subscription], now: datetime, *, holding: bool) -> Outcome:
    """Let time pass (R4) and hold or release the old rights (R5).

    ``holding`` says that another purchase of this user is confirming right now.
    """
    folded = fold(history, now, holding=holding, first=len(history))
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

    Refused if it would carry the end beyond the cap (R11), or if it is a pack that does not fit (R17). Expiry
    that was due before counts first, so a late timer changes neither dates nor events.
    """
    if plan.is_pack:
        return _add_pack(history, invoice_id or subscription_id, plan, now, holding=holding)
    due = _due(history, now)
    old = current(due.history)
    if taken(old, plan, now).exceeds:
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
    folded = fold([*due.history, bought], now, holding=holding, first=len(due.history))
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
    folded = fold(rows, now, holding=holding, first=index)
    happenings = [*due.happenings, Happening(SubscriptionEvent.REVOKED, subscription_id, reason)]
    before = current(due.history)
    if before is not None and before.id != subscription_id and current(folded) is None:
        happenings.append(Happening(SubscriptionEvent.EXPIRED, before.id, reason))
    return Outcome(folded, tuple(happenings))


def cash(history: Sequence[Subscription], now: datetime, *, reason: str, holding: bool = False) -> Outcome:
    """End the current subscription and release the worth of what is left of it: it becomes credit.

    ``history`` must be the user's whole history. Without a current subscription nothing changes.
    """
    due = _due(history, now)
    row = current(due.history)
    if row is None:
        return due
    index = _index(due.history, row.id)
    rows = list(due.history)
    rows[index] = replace(row, cashed_at=now, grace_until=None)
    folded = fold(rows, now, holding=holding, first=index)
    return Outcome(folded, (*due.happenings, Happening(SubscriptionEvent.REVOKED, row.id, reason)))


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
        if any(lot.purchase == pack_id for lot in own_packs(row)):
            rows = list(due.history)
            rows[index] = replace(row, lots=tuple(lot for lot in row.lots if lot.purchase != pack_id))
            return _folded_again(due, rows, now, reason=reason, holding=holding, first=index)
    return due


def extend(
    history: Sequence[Subscription],
    extension_id: UUID,
    time: timedelta,
    now: datetime,
    *,
    reason: str,
    holding: bool = False,
) -> Outcome:
    """Lengthen a subscription by time that an operator gives; it adds no messages.

    It is the current one, or one that has ended, if ``history`` is that alone: such a plan goes on from now.
    Nothing that was paid is worth less or more for it. R11's cap, which is about paying, does not refuse it.
    Otherwise nothing changes, nor by a repeat.
    """
    due = _due(history, now)
    standing = advance(due.history, now, holding=holding)
    happenings = (*due.happenings, *standing.happenings)
    row, event = current(standing.history), SubscriptionEvent.CHANGED
    if row is None and len(history) == 1 and history[0].status is Status.EXPIRED:
        row, event = history[0], SubscriptionEvent.ACTIVATED
        time += now - row.valid_until
    if row is None or any(lot.purchase == extension_id for lot in row.lots):
        return Outcome(standing.history, happenings)
    given = lots.extension(
        extension_id, time, row.plan.price.currency, is_unlimited=row.messages_limit is None
    )
    longer = with_stack(row, (*row.lots, given), row.carried)
    rows = tuple(longer if each is row else each for each in standing.history)
    extended = advance(rows, now, holding=holding)  # what was in grace is active again
    return Outcome(extended.history, (*happenings, Happening(event, row.id, reason)))


def recount(history: Sequence[Subscription], now: datetime, *, holding: bool = False) -> Outcome:
    """Carry over anew what purchases had left, after messages of theirs were reported late (R2).

    ``history`` must be the user's whole history. A repeat changes nothing.
    """
    due = _due(history, now)
    return _folded_again(due, due.history, now, reason="late_usage", holding=holding, first=0)


def _add_pack(
    history: Sequence[Subscription], pack_id: UUID, pack: Plan, now: datetime, *, holding: bool
) -> Outcome:
    """Raise the limit of the current subscription by a pack (R17); it adds no time.

    Refused where no subscription to a plan that it fits has time left, and where it is unlimited.
    """
    due = _due(history, now)
    standing = advance(due.history, now, holding=holding)
    happenings = (*due.happenings, *standing.happenings)
    row = current(standing.history)
    if (
        row is None
        or pack.quota is None
        or row.messages_limit is None
        or row.valid_until <= now
        or row.plan.plan_type not in pack.fits
    ):
        return Outcome(standing.history, happenings, Refusal.NO_FITTING_PLAN)
    stack = [*row.lots]
    after = max(now - row.valid_from, timedelta(0))  # the clock may have been set back
    if row.messages_used > row.messages_limit:
        # What was used beyond the limit is not owed, so it must not eat what is bought now.
        given = row.messages_used - row.messages_limit
        stack.append(lots.pack(pack_id, given, Price(Decimal(0), pack.price.currency), after))
    stack.append(lots.pack(pack_id, pack.quota, pack.price, after))
    raised = with_stack(row, tuple(stack), row.carried)
    return Outcome(tuple(raised if each is row else each for each in standing.history), happenings)


def _folded_again(
    due: Outcome, rows: Sequence[Subscription], now: datetime, *, reason: str, holding: bool, first: int
) -> Outcome:
    """Fold facts that were edited, and say what that made of the user's rights."""
    before = current(due.history)
    folded = fold(rows, now, holding=holding, first=first)
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
