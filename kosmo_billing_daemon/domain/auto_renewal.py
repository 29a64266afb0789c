"""Renewing a plan from credit when it ends, as its user may choose (R15): what it does, and as of when."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.domain.quoting import Quote, quote
from kosmo_billing_daemon.domain.subscriptions import Refusal, Subscription

SEAMLESS = timedelta(hours=1)
"""For so long after its end a subscription is renewed as of its end: no restart takes longer."""

_MICROSECOND = timedelta(microseconds=1)


class Obstacle(StrEnum):
    """Why a plan would not be renewed, as things stand."""

    NO_PLAN = "no_plan"
    NOT_FOR_SALE = "not_for_sale"
    CREDIT_TOO_LOW = "credit_too_low"
    PREPAID_CAP = "prepaid_cap"
    CREDIT_OFF = "credit_off"


def renewal_time(row: Subscription, now: datetime) -> datetime:
    """Return as of when a subscription is renewed: its last microsecond, without a gap and with its messages.

    Long after its end a new period begins now: the user could not send meanwhile and does not pay for it
    (R3).
    """
    last = row.valid_until - _MICROSECOND
    return last if now - last <= SEAMLESS else now


def renewal_quote(
    row: Subscription, catalogue: Catalogue, spendable: Mapping[str, Decimal], now: datetime
) -> Quote | None:
    """Say what renewing a subscription at its end would do (R16), by what its plan costs now.

    ``None`` where the plan is not for sale any more. ``spendable`` is the user's free credit by currency.
    """
    plan = catalogue.find(row.plan.plan_type)
    if plan is None:
        return None
    free = spendable.get(plan.price.currency, Decimal(0))
    return quote((row,), plan, free, renewal_time(row, now))


def obstacle(row: Subscription | None, quoted: Quote | None) -> Obstacle | None:
    """Say why a subscription with this quote would not be renewed."""
    if row is None:
        return Obstacle.NO_PLAN
    if quoted is None:
        return Obstacle.NOT_FOR_SALE
    if quoted.refusal is Refusal.PREPAID_CAP:
        return Obstacle.PREPAID_CAP
    return Obstacle.CREDIT_TOO_LOW if quoted.due.amount else None
