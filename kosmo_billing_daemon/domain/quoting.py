"""What a purchase would do at this instant, by the very functions that fulfil it (R11, R16, R17)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.domain.history import purchase
from kosmo_billing_daemon.domain.ledger import Due, due, released_worth
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import (
    Outcome,
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
    outcome = _bought(history, plan, now)
    row = None if outcome.refusal is not None else current(outcome.history)
    return Quote(
        plan=plan,
        due=due(plan.price, spendable),
        subscription=row,
        credit_added={} if row is None or plan.is_pack else released_worth(row.carried.released),
        refusal=outcome.refusal,
    )


def refusal(history: Sequence[Subscription], plans: Sequence[Plan], now: datetime) -> Refusal | None:
    """Say why the last of ``plans`` would be refused if all were bought now, one after the other.

    None may carry the end beyond the cap (R11). A pack before it that does not fit becomes credit alone.
    """
    found: Refusal | None = None
    for number, plan in enumerate(plans):
        outcome = _bought(history, plan, now, number)
        found = outcome.refusal
        if found is Refusal.PREPAID_CAP:
            return found
        history = outcome.history
    return found


def _bought(history: Sequence[Subscription], plan: Plan, now: datetime, number: int = 0) -> Outcome:
    return purchase(
        history,
        subscription_id=SubscriptionId(UUID(int=number)),
        user_id=UserId(UUID(int=0)),
        invoice_id=None,
        source=Source.BTCPAY,
        plan=plan,
        now=now,
    )
