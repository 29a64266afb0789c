"""Whether purchases would be refused when they are paid: asked before any money moves (R11)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.history import purchase
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import Source, Subscription, SubscriptionId, UserId


def exceeds_cap(history: Sequence[Subscription], plans: Sequence[Plan], now: datetime) -> bool:
    """Say whether buying ``plans`` one after the other now would carry the end beyond the cap (R11)."""
    for number, plan in enumerate(plans):
        outcome = purchase(
            history,
            subscription_id=SubscriptionId(UUID(int=number)),
            user_id=UserId(UUID(int=0)),
            invoice_id=None,
            source=Source.BTCPAY,
            plan=plan,
            now=now,
        )
        if outcome.refusal is not None:
            return True
        history = outcome.history
    return False
