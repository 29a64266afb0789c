"""How far ahead a user can pay: the cap is checked before any money moves (R11)."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import (
    Source,
    Subscription,
    SubscriptionId,
    UserId,
    current,
    purchase,
)

PREPAID_CAP = timedelta(days=400)
"""R11: how far ahead a user can pay."""


def exceeds_cap(
    history: Sequence[Subscription], plans: Sequence[Plan], now: datetime, cap: timedelta = PREPAID_CAP
) -> bool:
    """Say whether buying ``plans`` one after the other now would carry the end beyond the cap (R11)."""
    try:
        for number, plan in enumerate(plans):
            history = purchase(
                history,
                subscription_id=SubscriptionId(UUID(int=number)),
                user_id=UserId(UUID(int=0)),
                invoice_id=None,
                source=Source.GRANT,
                plan=plan,
                now=now,
            ).history
    except OverflowError:  # beyond what a date can say
        return True
    row = current(history)
    return row is not None and row.valid_until > now + cap
