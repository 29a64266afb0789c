"""Plans, purchases and observations with defaults, and random histories of purchases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

from hypothesis import strategies as st

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.history import advance, purchase, reinstate, revoke
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus, Observation, Payment
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue, Plan, PlanType, Price
from kosmo_billing_daemon.domain.subscriptions import (
    InvoiceId,
    Outcome,
    Source,
    Status,
    Subscription,
    SubscriptionId,
    UserId,
    current,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
USER = UserId(UUID("11111111-1111-1111-1111-111111111111"))
STORE = "store"

WANDERER, GUARDIAN, SANCTUARY = BUILT_IN.plans


def plan(
    name: str,
    amount: str,
    quota: int | None,
    *,
    days: int = 30,
    currency: str = "USD",
    scope: Scope = Scope.ANY_NODE,
) -> Plan:
    return Plan(
        plan_type=PlanType(name),
        price=Price(Decimal(amount), currency),
        period=timedelta(days=days),
        quota=quota,
        scope=scope,
    )


EXTRA = replace(
    plan("extra_50", "4.00", 50, days=0, scope=Scope.NONE),
    fits=(WANDERER.plan_type, GUARDIAN.plan_type),
)
WITH_PACK = Catalogue(BUILT_IN.plans, (EXTRA,))


def sid(number: int) -> SubscriptionId:
    return SubscriptionId(UUID(int=number))


def buy(
    history: Sequence[Subscription], number: int, bought: Plan, at: datetime, *, holding: bool = False
) -> Outcome:
    return purchase(
        history,
        subscription_id=sid(number),
        user_id=USER,
        invoice_id=InvoiceId(UUID(int=number)),
        source=Source.BTCPAY,
        plan=bought,
        now=at,
        holding=holding,
    )


def use(history: Sequence[Subscription], number: int, count: int) -> tuple[Subscription, ...]:
    """Count messages on one subscription, as metering does."""
    return tuple(
        replace(row, messages_used=row.messages_used + count) if row.id == sid(number) else row
        for row in history
    )


def row_of(history: Sequence[Subscription], number: int) -> Subscription:
    return next(row for row in history if row.id == sid(number))


def live(history: Sequence[Subscription]) -> Subscription:
    row = current(history)
    assert row is not None
    return row


OTHER_PLANS = (
    *BUILT_IN.plans,
    plan("wanderer", "6.00", 60),  # the price changed in between
    plan("wanderer", "5.00", None),  # became unlimited
    plan("daily", "0.99", 7, days=1),
    plan("yearly", "199.90", 9999, days=365),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens after ``wait``: a purchase, use, a revocation, a reinstatement or time."""

    wait: timedelta
    kind: str
    plan: Plan
    number: int


def steps(
    kinds: Sequence[str] = ("buy", "use", "revoke", "reinstate", "tick"),
) -> st.SearchStrategy[list[Step]]:
    wait = st.one_of(
        st.sampled_from([timedelta(0), SECOND, HOUR, DAY, 10 * DAY, 30 * DAY]),
        st.timedeltas(min_value=timedelta(0), max_value=40 * DAY),
    )
    step = st.builds(Step, wait, st.sampled_from(kinds), st.sampled_from(OTHER_PLANS), st.integers(0, 600))
    return st.lists(step, min_size=1, max_size=12)


def play(story: Sequence[Step]) -> tuple[tuple[Subscription, ...], datetime]:
    """Play a story from the start; use counts only while nothing is revoked."""
    history: tuple[Subscription, ...] = ()
    now = START
    for place, step in enumerate(story, 1):
        now += step.wait
        history = advance(history, now, holding=False).history
        chosen = history[step.number % len(history)].id if history else None
        row = current(history)
        if step.kind == "buy":
            history = buy(history, place, step.plan, now).history
        elif step.kind == "use" and row is not None and not any(r.revoked_at for r in history):
            history = use(history, row.id.int, step.number)
        elif step.kind == "revoke" and chosen is not None:
            history = revoke(history, chosen, now, reason="test").history
        elif step.kind == "reinstate" and chosen is not None:
            history = reinstate(history, chosen, now, reason="test").history
    return history, now


def check_consistency(history: Sequence[Subscription], now: datetime) -> None:
    """R12: at most one current row, statuses agree with times, rows that are not revoked never overlap."""
    alive = [row for row in history if row.status.is_current]
    assert len(alive) <= 1
    for row in history:
        assert row.valid_from < row.valid_until
        assert (row.ended_at is None) == row.status.is_current
        assert (row.revoked_at is not None) == (row.status is Status.REVOKED)
        assert row.ended_at is None or row.ended_at >= row.valid_from
        if row.status is Status.ACTIVE:
            assert now < row.valid_until
        elif row.status is Status.GRACE:
            assert row.grace_until is not None
            assert row.valid_until <= now < row.grace_until
        elif row.status is Status.EXPIRED:
            assert row.ended_at is not None
            assert row.ended_at <= now
    kept = [row for row in history if row.status is not Status.REVOKED]
    for earlier, later in pairwise(kept):
        assert earlier.ended_at is not None
        assert earlier.ended_at <= later.valid_from
        assert earlier.status in (Status.REPLACED, Status.EXPIRED)


def invoice(**changes: object) -> Invoice:
    made = Invoice(
        id=InvoiceId(UUID(int=77)),
        user_id=USER,
        plan=WANDERER,
        status=InvoiceStatus.NEW,
        created_at=START,
        btcpay_invoice_id="btc-1",
        expires_at=START + timedelta(minutes=15),
        checkout_url="https://pay.example/i/btc-1",
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the fields of Invoice, by name


def seen(
    status: InvoiceStatus, payment: Payment = Payment.NONE, paid: str | None = "0", **changes: object
) -> Observation:
    made = Observation(
        btcpay_invoice_id="btc-1",
        store_id=STORE,
        order_id=str(UUID(int=77)),
        amount=Decimal("5.00"),
        currency="USD",
        status=status,
        payment=payment,
        expires_at=START + timedelta(minutes=15),
        paid_amount=None if paid is None else Decimal(paid),
        checkout_url="https://pay.example/i/btc-1",
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the fields of Observation, by name
