"""A user's subscriptions: one row per fulfilled plan, with the lots that it holds (R2)."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NewType
from uuid import UUID

from kosmo_billing_daemon.domain.lots import Lot, Released
from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.runtime.records import record

UserId = NewType("UserId", UUID)
SubscriptionId = NewType("SubscriptionId", UUID)
InvoiceId = NewType("InvoiceId", UUID)

GRACE = timedelta(hours=24)
"""R5: how long at most a confirming purchase keeps the old rights."""


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
        return self is Status.ACTIVE or self is Status.GRACE


class Source(StrEnum):
    """Who says that it was paid."""

    BTCPAY = "btcpay"
    MANUAL = "manual"
    GRANT = "grant"
    CREDIT = "credit"
    ADOPTED = "adopted"


class Rule(StrEnum):
    """Which part of R2 produced the dates of a purchase."""

    FRESH = "fresh"
    ADDED = "added"
    CONVERTED = "converted"


@record
class Carried:
    """What a purchase took over from its predecessor, beside its own period and quota.

    ``released`` is what it could not take over: this became the user's credit.
    """

    rule: Rule = Rule.FRESH
    from_id: SubscriptionId | None = None
    time: timedelta = timedelta(0)
    messages: int = 0
    released: tuple[Released, ...] = ()


@record(kw_only=True)
class Subscription:
    """One fulfilled purchase and the rights that it gives in ``[valid_from, valid_until)``.

    ``cashed_at`` is when an operator turned the worth of what was left into credit, which ended it.
    ``lots`` is the stack it began with: what it took over, its own payment, and the packs added since.
    ``messages_leased`` are set apart for strict gates, which may use them without a word to us.
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
    lots: tuple[Lot, ...]
    messages_used: int = 0
    messages_leased: int = 0
    grace_until: datetime | None = None
    ended_at: datetime | None = None
    revoked_at: datetime | None = None
    cashed_at: datetime | None = None
    carried: Carried = Carried()

    @property
    def end(self) -> datetime:
        """When the rights end by themselves, the hold of R5 included."""
        return self.grace_until or self.valid_until

    @property
    def messages_taken(self) -> int:
        """What nobody else can have: used, or leased until it is handed back."""
        return self.messages_used + self.messages_leased


def sole_lot(
    subscription_id: SubscriptionId, source: Source, plan: Plan, lasts: timedelta, limit: int | None
) -> Lot:
    """Return the lot of a subscription that holds but its own payment; a grant was paid with nothing."""
    return Lot(
        purchase=subscription_id,
        paid=Price(Decimal(0), plan.price.currency) if source is Source.GRANT else plan.price,
        period=plan.period,
        messages=None if plan.quota is None else Decimal(plan.quota),
        time_left=lasts,
        messages_left=None if limit is None else Decimal(limit),
    )


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


class Refusal(StrEnum):
    """Why a purchase takes no effect; its money becomes credit."""

    PREPAID_CAP = "prepaid_cap"
    NO_FITTING_PLAN = "no_fitting_plan"
    CREDIT_SPENT = "credit_spent"


@record
class Outcome:
    """The history after a change, and the events that it makes, in order.

    A purchase that was refused left the history as time alone had made it.
    """

    history: tuple[Subscription, ...]
    happenings: tuple[Happening, ...] = ()
    refusal: Refusal | None = None


def current(history: Sequence[Subscription]) -> Subscription | None:
    """Return the subscription that grants rights, if any."""
    return next((row for row in reversed(history) if row.status.is_current), None)
