"""What becomes of one user's old rows, whatever they are: it stands when the history is folded again."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.domain import history
from kosmo_billing_daemon.domain.adoption.deciding import AdoptedUser, decide
from kosmo_billing_daemon.domain.adoption.reading import OldInvoice, OldSubscription
from kosmo_billing_daemon.domain.folding import fold
from kosmo_billing_daemon.domain.invoices import Effect, InvoiceStatus
from kosmo_billing_daemon.domain.ledger import EntryKind
from kosmo_billing_daemon.domain.plans import BUILT_IN, Plan
from kosmo_billing_daemon.domain.subscriptions import Source, Status, SubscriptionId, UserId, current

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
_TIMES = st.integers(-90 * 86_400_000_000, 90 * 86_400_000_000).map(lambda n: NOW + timedelta(microseconds=n))


@st.composite
def rows(draw: st.DrawFn) -> list[OldSubscription]:
    made = []
    for place in range(draw(st.integers(0, 6))):
        plan: Plan = draw(st.sampled_from(BUILT_IN.plans))
        start, end = sorted([draw(_TIMES), draw(_TIMES)])
        made.append(
            OldSubscription(
                user="7",
                plan=plan,
                is_active=draw(st.booleans()),
                valid_from=draw(st.sampled_from([start, None])),
                valid_until=end + timedelta(microseconds=1),
                used=draw(st.integers(0, 700)),
                limit=None if plan.quota is None else plan.quota + draw(st.integers(0, 9)),
                place=place,
            )
        )
    return made


@st.composite
def bills(draw: st.DrawFn) -> list[OldInvoice]:
    return [
        OldInvoice(
            user="7",
            btcpay_invoice_id=f"B{place}",
            plan=draw(st.sampled_from(BUILT_IN.plans)),
            status=draw(st.sampled_from([InvoiceStatus.SETTLED, InvoiceStatus.SETTLED, InvoiceStatus.NEW])),
            created_at=draw(_TIMES),
            expires_at=None,
            settled_at=None,
            checkout_url=None,
            place=place,
        )
        for place in range(draw(st.integers(0, 4)))
    ]


def _active(of: list[OldSubscription]) -> list[OldSubscription]:
    return [row for row in of if row.is_active and row.valid_until > NOW]


@settings(max_examples=150, deadline=None)
@given(rows(), bills())
def test_one_is_current_to_the_last_end_with_all_messages_that_were_left(
    of: list[OldSubscription], paid: list[OldInvoice]
) -> None:
    user = decide("7", of, paid, NOW, who="operator")
    active = _active(of)
    row = current(user.subscriptions)
    assert (row is None) == (not active)
    if row is not None:
        assert row.valid_until == max(each.valid_until for each in active)
        kept = next(each for each in of if each.place == user.places[row.id])
        assert kept.plan is not None
        alike = [each for each in active if each.plan == kept.plan]
        if kept.limit is not None and row.messages_limit is not None:
            others = sum(max(0, (each.limit or 0) - each.used) for each in alike if each is not kept)
            assert row.messages_limit - row.messages_used == kept.limit - kept.used + others
    assert len([each for each in user.subscriptions if each.status is Status.ACTIVE]) <= 1
    _is_booked(user, paid)


@settings(max_examples=150, deadline=None)
@given(rows(), bills())
def test_folded_again_nothing_changes_and_a_renewal_adds_a_period(
    of: list[OldSubscription], paid: list[OldInvoice]
) -> None:
    user = decide("7", of, paid, NOW, who="operator")
    rows_ = tuple(user.subscriptions)
    assert fold(rows_, NOW, holding=False, first=0) == rows_
    row = current(rows_)
    if row is None or row.valid_from > NOW:
        return
    bought = history.purchase(
        rows_,
        subscription_id=SubscriptionId(user.user_id),
        user_id=UserId(user.user_id),
        invoice_id=None,
        source=Source.GRANT,
        plan=row.plan,
        now=NOW,
    )
    renewed = current(bought.history)
    assert renewed is not None
    assert renewed.valid_until == row.valid_until + row.plan.period
    if row.messages_limit is not None and row.plan.quota is not None:
        left = max(0, row.messages_limit - row.messages_used)
        assert renewed.messages_limit == row.plan.quota + left


def _is_booked(user: AdoptedUser, paid: list[OldInvoice]) -> None:
    """Each settled invoice is received and sold, and pays for one row at most."""
    settled = [bill for bill in paid if bill.status is InvoiceStatus.SETTLED]
    total = sum((bill.plan.price.amount for bill in settled), Decimal(0))
    sums = {
        kind: sum((one.amount for one in user.postings if one.kind is kind), Decimal(0)) for kind in EntryKind
    }
    assert (sums[EntryKind.RECEIVED], sums[EntryKind.SOLD]) == (total, -total)
    assert sum((row.lots[0].paid.amount for row in user.subscriptions), Decimal(0)) <= total
    assert sums[EntryKind.GRANTED] <= total
    linked = [row.invoice_id for row in user.subscriptions if row.invoice_id is not None]
    assert len(linked) == len(set(linked))
    for invoice in user.invoices:
        is_linked = invoice.id in linked
        assert (invoice.effect is Effect.FULFILLED) == is_linked
