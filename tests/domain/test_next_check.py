"""When an open invoice is looked at without a hint (DESIGN: reconciliation is mandatory)."""

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.invoices import LATE_LIMIT, Effect, Invoice, InvoiceStatus, Payment
from kosmo_billing_daemon.domain.polling import next_check
from tests.domain.builders import DAY, HOUR, SECOND, START, invoice

EXPIRY = START + timedelta(minutes=15)


def looks(known: Invoice, until: datetime) -> list[datetime]:
    """Every look at an invoice that stays as it is."""
    found = [START]
    while (due := next_check(known, found[-1])) is not None and due < until:
        found.append(due)
    return found


@pytest.mark.parametrize(
    "done",
    [
        invoice(status=InvoiceStatus.SETTLED, effect=Effect.FULFILLED),
        invoice(status=InvoiceStatus.SETTLED),
        invoice(status=InvoiceStatus.ABANDONED),
        invoice(status=InvoiceStatus.EXPIRED, effect=Effect.FULFILLED),
        invoice(status=InvoiceStatus.INVALID),
        invoice(status=InvoiceStatus.INVALID, effect=Effect.REVOKED),
    ],
)
def test_nothing_is_awaited_of_what_is_decided(done: Invoice) -> None:
    assert next_check(done, START + HOUR) is None


def test_a_new_invoice_is_looked_at_ever_more_seldom_and_right_after_its_expiry() -> None:
    found = looks(invoice(expires_at=START + DAY), START + DAY + timedelta(seconds=4))
    waits = [later - earlier for earlier, later in pairwise(found)]
    assert waits[0] == timedelta(seconds=15)
    assert waits[:-1] == sorted(waits[:-1])
    assert max(waits) == timedelta(minutes=30)
    assert found[-1] == START + DAY + timedelta(seconds=3)


@given(st.timedeltas(timedelta(0), timedelta(minutes=15) - SECOND))
def test_expiry_is_never_slept_through(age: timedelta) -> None:
    due = next_check(invoice(), START + age)
    assert due is not None
    assert due <= EXPIRY + timedelta(seconds=3)


@pytest.mark.parametrize(
    ("known", "last"),
    [
        (invoice(status=InvoiceStatus.EXPIRED), LATE_LIMIT),
        (invoice(status=InvoiceStatus.EXPIRED, payment=Payment.PARTIAL), LATE_LIMIT),
        (invoice(status=InvoiceStatus.EXPIRED, payment=Payment.LATE), LATE_LIMIT + DAY),
        (invoice(status=InvoiceStatus.INVALID, paid_amount=Decimal("5.00")), LATE_LIMIT),
    ],
)
def test_money_that_may_still_come_is_awaited_until_the_late_limit(known: Invoice, last: timedelta) -> None:
    found = looks(known, START + 60 * DAY)
    assert found[-1] == EXPIRY + last + SECOND
    assert next_check(known, found[-1]) is None
    assert all(later - earlier <= timedelta(minutes=30) for earlier, later in pairwise(found))


@pytest.mark.parametrize("status", [InvoiceStatus.NEW, InvoiceStatus.PROCESSING])
def test_what_btcpay_calls_open_for_ever_is_asked_for_ever_more_seldom(status: InvoiceStatus) -> None:
    known = invoice(status=status)
    assert len(looks(known, START + 365 * DAY)) - len(looks(known, START + 4 * DAY)) < 60


def test_a_reservation_is_looked_for_soon_and_then_seldom() -> None:
    reserved = invoice(status=InvoiceStatus.RESERVED, btcpay_invoice_id=None, expires_at=None)
    assert next_check(reserved, START) == START + timedelta(seconds=15)
    assert next_check(reserved, START + DAY) == START + DAY + timedelta(minutes=30)


@pytest.mark.parametrize(
    "marked",
    [
        invoice(
            status=InvoiceStatus.SETTLED, payment=Payment.MARKED, effect=Effect.FULFILLED, settled_at=START
        ),
        invoice(status=InvoiceStatus.INVALID, payment=Payment.MARKED, expires_at=START),
    ],
)
def test_a_marked_invoice_is_looked_at_for_three_days_since_it_can_be_marked_again(marked: Invoice) -> None:
    soon = next_check(marked, START)
    assert soon is not None
    assert soon - START == timedelta(seconds=15)
    late = next_check(marked, START + timedelta(hours=71))
    assert late is not None
    assert late <= START + timedelta(hours=72)
    assert next_check(marked, START + timedelta(hours=72)) is None


def test_what_settled_by_itself_is_never_looked_at_again() -> None:
    settled = invoice(status=InvoiceStatus.SETTLED, effect=Effect.FULFILLED, settled_at=START)
    assert next_check(settled, START) is None
