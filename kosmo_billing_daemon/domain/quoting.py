"""What a purchase would do at this instant, by the very functions that fulfil it (R16)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.domain.history import purchase
from kosmo_billing_daemon.domain.ledger import Due, due, released_worth
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import (
    Refusal,
    Source,
    Subscription,
    SubscriptionId,
    UserId,
    current,
)
from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class Quote:
    """What is to be paid, and the subscription that it would give, or why it would give none.

    A pack gives the current subscription again, with its limit raised (R17).
    ``credit_added`` is worth of the present plan that the new one cannot take over, by currency.
    """

    plan: Plan
    due: Due
    subscription: Subscription | None
    credit_added: Mapping[str, Decimal]
    refusal: Refusal | None

    @property
    def is_covered(self) -> bool:
        """Whether credit alone would buy it now."""
        return self.refusal is None and not self.due.amount


def quote(history: Sequence[Subscription], plan: Plan, spendable: Decimal, now: datetime) -> Quote:
    """Say what buying ``plan`` would do now; ``history`` may be the current subscription alone."""
    outcome = purchase(
        history,
        subscription_id=SubscriptionId(UUID(int=0)),
        user_id=UserId(UUID(int=0)),
        invoice_id=None,
        source=Source.BTCPAY,
        plan=plan,
        now=now,
    )
    row = None if outcome.refusal is not None else current(outcome.history)
    return Quote(
        plan=plan,
        due=due(plan.price, spendable),
        subscription=row,
        credit_added={} if row is None or plan.is_pack else released_worth(row.carried.released),
        refusal=outcome.refusal,
    )
