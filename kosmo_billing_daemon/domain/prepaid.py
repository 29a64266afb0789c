"""Whether purchases would be refused when they are paid: asked before any money moves (R11, R17)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.history import purchase
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import Refusal, Source, Subscription, SubscriptionId, UserId


def refusal(history: Sequence[Subscription], plans: Sequence[Plan], now: datetime) -> Refusal | None:
    """Say why the last of ``plans`` would be refused if all were bought now, one after the other.

    None may carry the end beyond the cap (R11). A pack before it that does not fit becomes credit alone.
    """
    found: Refusal | None = None
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
        found = outcome.refusal
        if found is Refusal.PREPAID_CAP:
            return found
        history = outcome.history
    return found
