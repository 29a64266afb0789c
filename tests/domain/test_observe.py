"""What each state of an invoice at BTCPay means: R3, R6, R7, R8, R9."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.invoices import (
    CaseKind,
    Effect,
    Invoice,
    InvoiceStatus,
    Observation,
    Payment,
    needs_confirmation,
)
from kosmo_billing_daemon.domain.subscriptions import Source
from kosmo_billing_daemon.domain.verdicts import Action, Verdict, observe, settle_by_hand
from tests.domain.builders import DAY, HOUR, START, STORE, invoice, seen

NEW, PROCESSING, SETTLED = InvoiceStatus.NEW, InvoiceStatus.PROCESSING, InvoiceStatus.SETTLED
EXPIRED, INVALID = InvoiceStatus.EXPIRED, InvoiceStatus.INVALID
EXPIRY = START + timedelta(minutes=15)
CLOSED_BY_SETTLING = (
    CaseKind.PARTIAL_PAYMENT,
    CaseKind.LATE_PAYMENT,
    CaseKind.PAID_INVALID,
    CaseKind.NOT_FULFILLED,
    CaseKind.MISMATCH,
)


CLOSED_BY_INVALIDITY = (*CLOSED_BY_SETTLING[:-1], CaseKind.OVERPAID)


def look(known: Invoice, at: Observation, when: timedelta = HOUR) -> Verdict:
    return observe(known, at, START + when, store_id=STORE)


def kinds(verdict: Verdict) -> list[CaseKind]:
    return [case.kind for case in verdict.cases]


FULL = {"confirmed_amount": Decimal("5.00"), "last_received_at": EXPIRY + HOUR}
OBSERVATIONS = {
    "new": seen(NEW),
    "new, partly paid": seen(NEW, Payment.PARTIAL, "2.00"),
    "processing": seen(PROCESSING, paid="5.00"),
    "processing, over": seen(PROCESSING, Payment.OVER, "7.00"),
    "settled": seen(SETTLED, paid="5.00"),
    "settled, over": seen(SETTLED, Payment.OVER, "7.00"),
    "settled, marked": seen(SETTLED, Payment.MARKED, "0"),
    "expired": seen(EXPIRED),
    "expired, partial": seen(EXPIRED, Payment.PARTIAL, "2.00"),
    "expired, late, unconfirmed": seen(EXPIRED, Payment.LATE, "5.00", confirmed_amount=Decimal(0)),
    "expired, late, confirmed": seen(EXPIRED, Payment.LATE, "5.00", **FULL),
    "expired, late, over": seen(
        EXPIRED, Payment.LATE, "6.50", **FULL | {"confirmed_amount": Decimal("6.50")}
    ),
    "invalid": seen(INVALID),
    "invalid, money unconfirmed": seen(INVALID, paid="5.00", confirmed_amount=Decimal(0)),
    "invalid, money confirmed": seen(INVALID, paid="5.00", confirmed_amount=Decimal("5.00")),
    "invalid, marked": seen(INVALID, Payment.MARKED),
}


@pytest.mark.parametrize(
    ("name", "action", "source", "events", "cases", "closes"),
    [
        ("new", Action.NOTHING, Source.BTCPAY, (), [], ()),
        ("new, partly paid", Action.NOTHING, Source.BTCPAY, (), [], ()),
        ("processing", Action.NOTHING, Source.BTCPAY, ("invoice.processing",), [], ()),
        ("processing, over", Action.NOTHING, Source.BTCPAY, ("invoice.processing",), [], ()),
        ("settled", Action.FULFIL, Source.BTCPAY, ("invoice.settled",), [], CLOSED_BY_SETTLING),
        (
            "settled, over",
            Action.FULFIL,
            Source.BTCPAY,
            ("invoice.settled",),
            [(CaseKind.OVERPAID, "2.00")],
            CLOSED_BY_SETTLING,
        ),
        ("settled, marked", Action.FULFIL, Source.MANUAL, ("invoice.settled",), [], CLOSED_BY_SETTLING),
        ("expired", Action.NOTHING, Source.BTCPAY, ("invoice.expired",), [], ()),
        (
            "expired, partial",
            Action.NOTHING,
            Source.BTCPAY,
            ("invoice.expired",),
            [(CaseKind.PARTIAL_PAYMENT, "2.00")],
            (CaseKind.LATE_PAYMENT, CaseKind.PAID_INVALID, CaseKind.NOT_FULFILLED),
        ),
        ("expired, late, unconfirmed", Action.NOTHING, Source.BTCPAY, ("invoice.expired",), [], ()),
        (
            "expired, late, confirmed",
            Action.FULFIL,
            Source.BTCPAY,
            ("invoice.expired", "invoice.settled"),
            [],
            CLOSED_BY_SETTLING,
        ),
        (
            "expired, late, over",
            Action.FULFIL,
            Source.BTCPAY,
            ("invoice.expired", "invoice.settled"),
            [(CaseKind.OVERPAID, "1.50")],
            CLOSED_BY_SETTLING,
        ),
        ("invalid", Action.NOTHING, Source.BTCPAY, ("invoice.invalid",), [], CLOSED_BY_INVALIDITY),
        (
            "invalid, money unconfirmed",
            Action.NOTHING,
            Source.BTCPAY,
            ("invoice.invalid",),
            [],
            CLOSED_BY_INVALIDITY,
        ),
        (
            "invalid, money confirmed",
            Action.NOTHING,
            Source.BTCPAY,
            ("invoice.invalid",),
            [(CaseKind.PAID_INVALID, "5.00")],
            (CaseKind.PARTIAL_PAYMENT, CaseKind.LATE_PAYMENT, CaseKind.NOT_FULFILLED, CaseKind.OVERPAID),
        ),
        (
            "invalid, marked",
            Action.NOTHING,
            Source.BTCPAY,
            ("invoice.invalid",),
            [],
            CLOSED_BY_INVALIDITY,
        ),
    ],
)
def test_first_sight_of_each_state(  # noqa: PLR0917  one column of the table each
    name: str,
    action: Action,
    source: Source,
    events: tuple[str, ...],
    cases: list[tuple[CaseKind, str]],
    closes: tuple[CaseKind, ...],
) -> None:
    at = OBSERVATIONS[name]
    verdict = look(invoice(), at, 2 * HOUR)
    assert (verdict.action, verdict.source, verdict.events) == (action, source, events)
    assert [(case.kind, case.amount) for case in verdict.cases] == [(k, Decimal(a)) for k, a in cases]
    assert verdict.closes == closes
    assert (verdict.invoice.status, verdict.invoice.payment) == (at.status, at.payment)
    assert verdict.invoice.effect is (Effect.FULFILLED if action is Action.FULFIL else Effect.NONE)
    assert verdict.invoice.paid_amount == at.paid_amount
    assert (verdict.invoice.settled_at is not None) == (action is Action.FULFIL)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_same_observation_again_changes_nothing(name: str) -> None:
    first = look(invoice(), OBSERVATIONS[name])
    second = look(first.invoice, OBSERVATIONS[name])
    assert (second.invoice, second.action, second.events) == (first.invoice, Action.NOTHING, ())
    assert second.cases in (first.cases, ())  # listed once per invoice and kind


@pytest.mark.parametrize("name", OBSERVATIONS)
@pytest.mark.parametrize(
    "wrong", [{"order_id": "x"}, {"amount": Decimal("4.00")}, {"currency": "EUR"}, {"store_id": "y"}]
)
def test_a_mismatch_of_each_kind_activates_nothing_and_is_listed(name: str, wrong: dict[str, object]) -> None:
    at = replace(OBSERVATIONS[name], **wrong)  # type: ignore[arg-type]  # the fields of Observation, by name
    first = look(invoice(), at)
    assert first.action is Action.NOTHING
    assert first.invoice.effect is Effect.NONE
    assert CaseKind.MISMATCH in kinds(first)
    assert CaseKind.MISMATCH not in first.closes
    assert not set(first.closes) & set(kinds(first))
    again = look(first.invoice, at)
    assert (again.invoice, again.action, again.events) == (first.invoice, Action.NOTHING, ())


def test_amounts_are_compared_as_numbers() -> None:
    assert look(invoice(), seen(SETTLED, paid="5", amount=Decimal("5.000"))).action is Action.FULFIL


def test_an_order_id_that_is_missing_is_a_mismatch() -> None:
    assert kinds(look(invoice(), seen(SETTLED, order_id=None))) == [CaseKind.MISMATCH]


@pytest.mark.parametrize("at", list(OBSERVATIONS.values()))
@pytest.mark.parametrize("effect", list(Effect))
def test_another_btcpay_invoice_with_our_order_id_changes_nothing_ever(
    at: Observation, effect: Effect
) -> None:
    known = invoice(btcpay_invoice_id="btc-first", effect=effect)
    first = look(known, at)
    second = look(first.invoice, at)
    for verdict in (first, second):
        assert (verdict.invoice, verdict.action, verdict.events) == (known, Action.NOTHING, ())
        assert kinds(verdict) == [CaseKind.MISMATCH]


def test_revoking_needs_no_match() -> None:
    settled = replace(look(invoice(), OBSERVATIONS["settled, marked"]).invoice, received=Decimal(2))
    verdict = look(settled, seen(INVALID, Payment.MARKED, order_id="edited"))
    assert (verdict.action, kinds(verdict)) == (Action.REVOKE, [CaseKind.MISMATCH])
    assert verdict.invoice.received == 0, "and what it had brought in is out of the books"


def test_a_mismatch_keeps_a_revoked_invoice_from_being_reinstated() -> None:
    revoked = invoice(status=INVALID, effect=Effect.REVOKED)
    verdict = look(revoked, seen(SETTLED, Payment.MARKED, order_id="edited"))
    assert (verdict.action, verdict.invoice.effect) == (Action.NOTHING, Effect.REVOKED)


def test_a_reserved_invoice_found_at_btcpay_is_attached() -> None:
    reserved = invoice(
        status=InvoiceStatus.RESERVED, btcpay_invoice_id=None, checkout_url=None, expires_at=None
    )
    found = look(reserved, seen(NEW)).invoice
    assert (found.btcpay_invoice_id, found.checkout_url, found.expires_at) == (
        "btc-1",
        "https://pay.example/i/btc-1",
        EXPIRY,
    )


def test_falling_back_from_processing_to_new_causes_no_event() -> None:
    processing = look(invoice(), OBSERVATIONS["processing"]).invoice
    back = look(processing, OBSERVATIONS["new, partly paid"])
    assert (back.invoice.status, back.action, back.events, back.cases) == (NEW, Action.NOTHING, (), ())


@pytest.mark.parametrize(
    "final", ["settled", "settled, marked", "invalid", "invalid, marked", "settled, over"]
)
@pytest.mark.parametrize(
    "stale", ["new", "processing", "expired", "expired, late, confirmed", "expired, partial"]
)
def test_what_was_fetched_before_a_final_state_and_arrives_after_it_changes_nothing(
    final: str, stale: str
) -> None:
    known = look(invoice(), OBSERVATIONS[final]).invoice
    assert look(known, OBSERVATIONS[stale]) == Verdict(known)


@given(st.lists(st.sampled_from(sorted(OBSERVATIONS)), max_size=8), st.sampled_from(sorted(OBSERVATIONS)))
def test_hints_in_any_number_end_in_the_state_of_the_final_observation(before: list[str], final: str) -> None:
    """Hints before the final state show it already, or an open one on the way to it; never more than one
    effect, and the end is the same as if only the final state had been seen.
    """
    straight = look(invoice(), OBSERVATIONS[final])
    known = invoice()
    fulfilments = 0
    for name in [*(n for n in before if OBSERVATIONS[n].status in (NEW, PROCESSING)), *[final] * 3]:
        verdict = look(known, OBSERVATIONS[name])
        fulfilments += verdict.action is Action.FULFIL
        known = verdict.invoice
    assert known == straight.invoice
    assert fulfilments == (straight.action is Action.FULFIL)


@given(st.lists(st.sampled_from(sorted(OBSERVATIONS)), max_size=12))
def test_no_sequence_of_observations_acts_against_its_effect(names: list[str]) -> None:
    """R1, R8: fulfilled at most once; revoked only when fulfilled, reinstated only when revoked."""
    known = invoice()
    done: list[Action] = []
    for name in names:
        verdict = look(known, OBSERVATIONS[name])
        if verdict.action is not Action.NOTHING:
            done.append(verdict.action)
        known = verdict.invoice
    cycle = [Action.FULFIL] + [Action.REVOKE, Action.REINSTATE] * len(names)
    assert done == cycle[: len(done)]
    assert (
        known.effect
        is {
            None: Effect.NONE,
            Action.FULFIL: Effect.FULFILLED,
            Action.REINSTATE: Effect.FULFILLED,
            Action.REVOKE: Effect.REVOKED,
        }[done[-1] if done else None]
    )


def test_flipping_marks_revokes_and_reinstates_without_a_second_fulfilment() -> None:
    marked, unmarked = OBSERVATIONS["settled, marked"], OBSERVATIONS["invalid, marked"]
    known = invoice()
    actions: list[Action] = []
    events: list[str] = []
    for at in (marked, marked, unmarked, unmarked, marked, unmarked):
        verdict = look(known, at)
        known = verdict.invoice
        actions.append(verdict.action)
        events += verdict.events
    nothing = Action.NOTHING
    assert actions == [Action.FULFIL, nothing, Action.REVOKE, nothing, Action.REINSTATE, Action.REVOKE]
    assert events == ["invoice.settled", "invoice.invalid", "invoice.settled", "invoice.invalid"]


def test_an_operator_settles_what_is_listed_and_observation_does_not_undo_it() -> None:
    for name in (
        "expired, partial",
        "invalid, money confirmed",
        "expired, late, unconfirmed",
        "invalid, marked",
    ):
        known = look(invoice(), OBSERVATIONS[name]).invoice
        by_hand = settle_by_hand(known, START + DAY)
        assert (by_hand.action, by_hand.source) == (Action.FULFIL, Source.MANUAL)
        assert set(by_hand.closes) == set(CaseKind) - {CaseKind.OVERPAID}
        assert settle_by_hand(by_hand.invoice, START + 2 * DAY).action is Action.NOTHING
        again = look(by_hand.invoice, OBSERVATIONS[name], 2 * DAY)
        assert (again.action, again.invoice.effect) == (Action.NOTHING, Effect.FULFILLED)


def test_marking_invalid_what_was_settled_by_hand_revokes_it() -> None:
    by_hand = settle_by_hand(look(invoice(), OBSERVATIONS["expired, partial"]).invoice, START + DAY).invoice
    assert look(by_hand, OBSERVATIONS["invalid, marked"]).action is Action.REVOKE


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_payments_are_read_where_btcpays_total_may_hold_unconfirmed_money(name: str) -> None:
    assert needs_confirmation(OBSERVATIONS[name]) is (
        name.startswith(("expired, late", "expired, partial", "invalid, money", "settled, over"))
    )


@pytest.mark.parametrize("status", [InvoiceStatus.RESERVED, InvoiceStatus.ABANDONED])
def test_a_status_that_btcpay_has_not_is_an_error_of_the_caller_or_stale(status: InvoiceStatus) -> None:
    with pytest.raises(ValueError, match="BTCPay has no status"):
        look(invoice(status=InvoiceStatus.RESERVED), seen(status))


def test_payments_of_two_orders_are_told_apart_by_order_id() -> None:
    other = str(UUID(int=78))
    for at in permutations([seen(SETTLED), seen(SETTLED, order_id=other)]):
        known = invoice()
        actions = []
        for each in at:
            verdict = look(known, each)
            known = verdict.invoice
            actions.append(verdict.action)
        assert sorted(actions) == [Action.FULFIL, Action.NOTHING]
