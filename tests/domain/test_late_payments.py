"""Money that comes late, in parts or too much: R3, R6 and R7 at their edges."""

from datetime import timedelta
from decimal import Decimal

import pytest

from kosmo_billing_daemon.domain.invoices import LATE_LIMIT, CaseKind, Payment
from kosmo_billing_daemon.domain.verdicts import Action, observe
from tests.domain.builders import DAY, HOUR, SECOND, STORE, invoice, seen
from tests.domain.test_observe import EXPIRED, EXPIRY, FULL, OBSERVATIONS, SETTLED, kinds, look


@pytest.mark.parametrize(
    ("received", "fulfilled"),
    [(HOUR, True), (LATE_LIMIT, True), (LATE_LIMIT + SECOND, False), (LATE_LIMIT + 30 * DAY, False)],
)
def test_the_late_limit_is_seventy_two_hours(received: timedelta, fulfilled: bool) -> None:
    at = seen(
        EXPIRED, Payment.LATE, "5.00", confirmed_amount=Decimal("5.00"), last_received_at=EXPIRY + received
    )
    verdict = observe(invoice(), at, EXPIRY + 60 * DAY, store_id=STORE)
    assert (verdict.action is Action.FULFIL) is fulfilled
    assert kinds(verdict) == ([] if fulfilled else [CaseKind.LATE_PAYMENT])
    assert verdict.events == (("invoice.expired", "invoice.settled") if fulfilled else ("invoice.expired",))


def test_a_late_payment_received_in_time_but_seen_unconfirmed_after_the_limit_is_a_case() -> None:
    waiting = seen(EXPIRED, Payment.LATE, "5.00", confirmed_amount=Decimal(0))
    in_time = observe(invoice(), waiting, EXPIRY + LATE_LIMIT, store_id=STORE)
    assert in_time.cases == ()
    too_late = observe(in_time.invoice, waiting, EXPIRY + LATE_LIMIT + SECOND, store_id=STORE)
    assert kinds(too_late) == [CaseKind.LATE_PAYMENT]
    confirmed = seen(EXPIRED, Payment.LATE, "5.00", **FULL)
    verdict = observe(too_late.invoice, confirmed, EXPIRY + LATE_LIMIT + HOUR, store_id=STORE)
    assert (verdict.action, kinds(verdict)) == (Action.NOTHING, [CaseKind.LATE_PAYMENT])


def test_an_outage_of_ours_costs_a_late_payer_nothing() -> None:
    waiting = seen(EXPIRED, Payment.LATE, "5.00", confirmed_amount=Decimal(0))
    known = observe(invoice(), waiting, EXPIRY + 70 * HOUR, store_id=STORE).invoice
    confirmed = seen(EXPIRED, Payment.LATE, "5.00", **FULL)
    verdict = observe(known, confirmed, EXPIRY + 10 * DAY, store_id=STORE)
    assert verdict.action is Action.FULFIL
    assert verdict.invoice.settled_at == EXPIRY + 10 * DAY  # R3: our time counts


def test_a_server_whose_times_are_shifted_ahead_does_not_make_a_payment_late() -> None:
    ahead = seen(EXPIRED, Payment.LATE, "5.00", **FULL | {"last_received_at": EXPIRY + 78 * HOUR})
    assert observe(invoice(), ahead, EXPIRY + 71 * HOUR, store_id=STORE).action is Action.FULFIL


def test_settling_a_fulfilled_late_invoice_causes_no_further_event() -> None:
    late = look(invoice(), OBSERVATIONS["expired, late, confirmed"], 3 * HOUR).invoice
    marked = look(late, OBSERVATIONS["settled, marked"], 4 * HOUR)
    assert (marked.action, marked.events) == (Action.NOTHING, ())


def test_what_comes_after_a_fulfilled_late_payment_is_too_much() -> None:
    late = look(invoice(), OBSERVATIONS["expired, late, confirmed"], 3 * HOUR).invoice
    twice = look(late, seen(EXPIRED, Payment.LATE, "10.00", confirmed_amount=Decimal("10.00")), 4 * HOUR)
    assert (twice.action, twice.events) == (Action.NOTHING, ())
    assert [(case.kind, case.amount) for case in twice.cases] == [(CaseKind.OVERPAID, Decimal("5.00"))]


@pytest.mark.parametrize(
    ("paid", "payment", "listed"),
    [
        ("5.00", Payment.NONE, None),
        ("5.0004", Payment.NONE, None),
        ("5.01", Payment.NONE, "0.01"),
        ("5.0004", Payment.OVER, "0.0004"),
    ],
)
def test_rounding_to_a_satoshi_is_no_overpayment(paid: str, payment: Payment, listed: str | None) -> None:
    verdict = look(invoice(), seen(SETTLED, payment, paid))
    assert [case.amount for case in verdict.cases] == ([] if listed is None else [Decimal(listed)])


def test_a_late_payment_short_by_rounding_is_full_and_one_short_by_a_cent_is_not() -> None:
    rounded = look(
        invoice(), seen(EXPIRED, Payment.LATE, "4.9996", **FULL | {"confirmed_amount": Decimal("4.9996")})
    )
    short = look(
        invoice(), seen(EXPIRED, Payment.LATE, "4.99", **FULL | {"confirmed_amount": Decimal("4.99")})
    )
    assert (rounded.action, short.action) == (Action.FULFIL, Action.NOTHING)
