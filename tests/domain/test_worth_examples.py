"""What payments are worth after the catalogue, the clock or a late report changed something: plain cases."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.history import (
    cash,
    recount,
    reinstate,
    revoke,
)
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import Subscription, current
from tests.domain.builders import DAY, HOUR, START, plan, sid, use
from tests.domain.test_conservation import Deed, bought, released, worth_now


def stack(count: int, first: Plan, *more: Plan) -> tuple[Subscription, ...]:
    history: tuple[Subscription, ...] = ()
    for number, each in enumerate([first] * count + list(more), 1):
        history = bought(history, number, Deed(timedelta(0), "buy", each, 0), START)
    return history


SANCTUARY = plan("sanctuary", "50.00", None)


def wanderer(price: str, quota: int = 50, days: int = 30, currency: str = "USD") -> Plan:
    return plan("wanderer", price, quota, days=days, currency=currency)


def days_of(history: Sequence[Subscription]) -> float:
    row = current(history)
    assert row is not None
    return (row.valid_until - row.valid_from) / DAY


def test_a_raised_price_does_not_raise_what_was_paid_before() -> None:
    assert days_of(stack(12, wanderer("5.00"), wanderer("10.00"), SANCTUARY)) == pytest.approx(72)


def test_a_cut_price_does_not_cut_what_was_paid_before() -> None:
    assert days_of(stack(12, wanderer("10.00"), wanderer("5.00"), SANCTUARY)) == pytest.approx(105)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (wanderer("50.00"), wanderer("50.00", days=10)),
        (wanderer("5.00", 50), wanderer("5.00", 500)),
        (wanderer("5.00", 500), wanderer("5.00", 50)),
    ],
)
def test_a_changed_period_or_quota_changes_no_worth(old: Plan, new: Plan) -> None:
    history = stack(12, old, new)
    assert worth_now(history, START) == {"USD": 12 * old.price.amount + new.price.amount}


def test_lots_in_two_currencies_stay_side_by_side_under_one_plan() -> None:
    euro = plan("sanctuary", "45.00", None, currency="EUR")
    history = stack(1, SANCTUARY, euro, SANCTUARY)
    assert days_of(history) == 90
    assert worth_now(history, START) == {"USD": Decimal(100), "EUR": Decimal(45)}


def test_a_plan_in_another_currency_releases_what_was_left() -> None:
    history = stack(1, SANCTUARY, plan("sanctuary", "45.00", None, currency="EUR"), wanderer("5.00"))
    assert days_of(history) == 30 * (1 + 10)
    assert released(history) == {"EUR": Decimal(45)}


def test_a_drained_plan_reported_late_was_worth_nothing() -> None:
    guardian = plan("guardian", "12.00", 500, scope=Scope.WHITELIST)
    history = stack(1, guardian)
    carried = bought(history, 2, Deed(timedelta(0), "buy", SANCTUARY, 0), START + DAY)
    assert days_of(carried) > 36
    assert days_of(recount(use(carried, 1, 500), START + 2 * DAY).history) == 30


def test_messages_sent_offline_are_not_renewed_once_they_are_reported() -> None:
    history = stack(1, wanderer("5.00"), wanderer("5.00"))
    row = current(recount(use(history, 1, 40), START + DAY).history)
    assert row is not None
    assert row.messages_limit == 60


def test_a_late_report_takes_nothing_back_that_was_used() -> None:
    history = use(stack(1, wanderer("5.00"), wanderer("5.00")), 2, 80)
    row = current(recount(use(history, 1, 40), START + DAY).history)
    assert row is not None
    assert (row.messages_used, row.messages_limit) == (80, 80)


def test_a_late_report_that_ends_the_present_plan_ends_it_now() -> None:
    daily = plan("daily", "50.00", None, days=1)
    history = bought(stack(1, plan("guardian", "50.00", 500)), 2, Deed(DAY, "buy", daily, 0), START + DAY)
    outcome = recount(use(history, 1, 500), START + 2 * DAY + HOUR)
    assert current(outcome.history) is None
    assert outcome.history[-1].ended_at == START + 2 * DAY + HOUR
    assert [each.event for each in outcome.happenings] == ["expired"]


def test_a_price_ratio_beyond_all_dates_is_refused_and_raises_nothing() -> None:
    history = stack(13, SANCTUARY)
    cheap = plan("cheap", "0.01", 10**9, days=366)
    assert bought(history, 99, Deed(timedelta(0), "buy", cheap, 0), START) == history


def test_messages_used_beyond_the_limit_eat_nothing_of_a_pack() -> None:
    small = plan("small", "5.00", 50)
    history = use(stack(1, small), 1, 53)
    row = current(bought(history, 1000, Deed(timedelta(0), "pack", small, 9), START))
    assert row is not None
    assert (row.messages_used, row.messages_limit) == (53, 63)


def test_what_is_left_of_a_plan_can_become_credit_and_is_then_gone() -> None:
    history = stack(2, SANCTUARY)
    ended = cash(history, START + 15 * DAY, reason="operator").history
    assert current(ended) is None
    assert released(ended) == {"USD": Decimal(75)}
    again = bought(ended, 9, Deed(timedelta(0), "buy", SANCTUARY, 0), START + 20 * DAY)
    assert days_of(again) == 30
    assert released(again) == {"USD": Decimal(75)}
    late = recount(use(again, 1, 5), START + 21 * DAY).history
    assert late[1:] == again[1:]


def test_late_messages_shrink_what_became_credit() -> None:
    history = cash(stack(1, plan("guardian", "12.00", 500)), START, reason="operator").history
    assert released(history) == {"USD": Decimal(12)}
    assert released(recount(use(history, 1, 250), START + DAY).history) == {"USD": Decimal(6)}


def test_a_grant_converts_into_nothing() -> None:
    history = bought((), 1, Deed(timedelta(0), "grant", SANCTUARY, 0), START)
    assert worth_now(history, START) == {}
    assert days_of(bought(history, 2, Deed(timedelta(0), "grant", SANCTUARY, 0), START)) == 60
    assert days_of(bought(history, 2, Deed(timedelta(0), "buy", wanderer("5.00"), 0), START)) == 30


def test_a_pack_of_a_revoked_plan_is_released() -> None:
    small = plan("small", "5.00", 50)
    history = bought(stack(1, small), 1000, Deed(timedelta(0), "pack", small, 9), START)
    gone = revoke(use(history, 1, 55), sid(1), START + DAY, reason="invalid").history
    assert released(gone) == {"USD": Decimal("0.75")}
    assert released(reinstate(gone, sid(1), START + DAY, reason="settled").history) == {}


def test_a_pack_bought_after_the_plan_turns_out_to_have_ended_is_released() -> None:
    """Messages reported late shorten the plan; a pack bought before its end then goes with it."""
    middle = plan("middle", "5.00", 50, days=1)
    history = bought(
        stack(1, plan("small", "5.00", 50)), 2, Deed(timedelta(0), "buy", middle, 0), START + HOUR
    )
    early, late = (
        bought(history, 1000, Deed(timedelta(0), "pack", middle, 9), START + hours * HOUR)
        for hours in (24, 26)
    )
    drained = [use(each, 1, 50) for each in (early, late)]
    assert [released(recount(each, START + 27 * HOUR).history) for each in drained] == [
        {},
        {"USD": Decimal("1.50")},
    ]
    assert released(recount(use(drained[1], 2, 55), START + 27 * HOUR).history) == {"USD": Decimal("0.75")}


def test_what_became_credit_is_not_carried_by_a_purchase_that_is_reinstated_since() -> None:
    history = revoke(stack(2, SANCTUARY), sid(2), START, reason="invalid").history
    ended = cash(history, START + 15 * DAY, reason="operator").history
    assert released(ended) == {"USD": Decimal(25)}
    back = reinstate(ended, sid(2), START + 15 * DAY, reason="settled").history
    assert days_of(back) == 30
    assert released(back) == {"USD": Decimal(25)}
