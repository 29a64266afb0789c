"""R2, R3 and R11 in numbers."""

from dataclasses import replace
from datetime import timedelta

import pytest

from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.quoting import refusal
from kosmo_billing_daemon.domain.subscriptions import Carried, Refusal, Rule, Status, SubscriptionEvent
from tests.domain.builders import (
    DAY,
    GUARDIAN,
    HOUR,
    SANCTUARY,
    START,
    WANDERER,
    buy,
    live,
    plan,
    row_of,
    sid,
    use,
)


def test_first_purchase_starts_when_it_is_fulfilled_and_lasts_thirty_days() -> None:
    outcome = buy((), 1, WANDERER, START)
    row = live(outcome.history)
    assert (row.valid_from, row.valid_until) == (START, START + 30 * DAY)
    assert (row.status, row.messages_used, row.messages_limit) == (Status.ACTIVE, 0, 50)
    assert row.carried == Carried()
    assert [h.event for h in outcome.happenings] == [SubscriptionEvent.ACTIVATED]


def test_same_plan_adds_remaining_time_and_messages_as_they_are() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 20)
    outcome = buy(history, 2, WANDERER, START + 10 * DAY)
    old, new = outcome.history
    assert (old.status, old.ended_at) == (Status.REPLACED, START + 10 * DAY)
    assert (new.valid_until, new.messages_limit, new.messages_used) == (START + 60 * DAY, 80, 0)
    assert new.carried == Carried(Rule.ADDED, sid(1), 20 * DAY, 30)
    assert [h.event for h in outcome.happenings] == [SubscriptionEvent.RENEWED]


def test_same_plan_is_added_as_it_is_even_after_a_change_of_price() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 10)
    row = live(buy(history, 2, plan("wanderer", "6.00", 60), START + 15 * DAY).history)
    assert (row.valid_until, row.messages_limit) == (START + 60 * DAY, 100)


def test_messages_used_beyond_the_limit_are_not_owed() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 70)
    row = live(buy(history, 2, WANDERER, START + DAY).history)
    assert (row.valid_until, row.messages_limit) == (START + 60 * DAY, 50)


def test_going_up_converts_the_smaller_share_by_price() -> None:
    # 15 of 30 days but 40 of 50 messages left: worth 2.50, a share of 2.50 / 12 of guardian.
    history = use(buy((), 1, WANDERER, START).history, 1, 10)
    outcome = buy(history, 2, GUARDIAN, START + 15 * DAY)
    row = live(outcome.history)
    assert row.valid_until == START + 45 * DAY + timedelta(days=6, hours=6)
    assert row.messages_limit == 500 + 104  # 104.17 rounded down
    assert row.carried.rule is Rule.CONVERTED
    assert [h.event for h in outcome.happenings] == [SubscriptionEvent.CHANGED]


def test_going_up_counts_messages_where_they_are_scarcer_than_time() -> None:
    # 20 of 30 days but 5 of 50 messages left: worth 0.50.
    history = use(buy((), 1, WANDERER, START).history, 1, 45)
    row = live(buy(history, 2, GUARDIAN, START + 10 * DAY).history)
    assert row.valid_until == START + 40 * DAY + timedelta(days=1, hours=6)
    assert row.messages_limit == 520


def test_going_down_converts_into_more_time_and_messages() -> None:
    # Half of guardian is worth 6.00: 1.2 wanderers.
    history = use(buy((), 1, GUARDIAN, START).history, 1, 250)
    row = live(buy(history, 2, WANDERER, START + 10 * DAY).history)
    assert row.valid_until == START + 40 * DAY + 36 * DAY
    assert row.messages_limit == 50 + 60


def test_a_drained_plan_is_worth_nothing() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 50)
    row = live(buy(history, 2, SANCTUARY, START + DAY).history)
    assert (row.valid_until, row.messages_limit) == (START + 31 * DAY, None)
    assert (row.carried.time, row.carried.messages) == (timedelta(0), 0)


def test_an_unlimited_plan_is_worth_its_time_however_much_was_used() -> None:
    # 15 of 30 days left: worth 25.00, that is five wanderers.
    history = use(buy((), 1, SANCTUARY, START).history, 1, 100_000)
    row = live(buy(history, 2, WANDERER, START + 15 * DAY).history)
    assert (row.valid_until, row.messages_limit) == (START + 45 * DAY + 150 * DAY, 50 + 250)


def test_unlimited_renewal_stays_unlimited_and_adds_time() -> None:
    history = buy((), 1, SANCTUARY, START).history
    row = live(buy(history, 2, SANCTUARY, START + 10 * DAY).history)
    assert (row.valid_until, row.messages_limit) == (START + 60 * DAY, None)


def test_stacked_purchases_are_worth_more_than_one_period() -> None:
    # Three wanderers at once, 10 days gone, 30 of 150 used: min(80/30, 120/50) = 2.4 of 5.00.
    history = buy((), 1, WANDERER, START).history
    history = buy(history, 2, WANDERER, START).history
    history = use(buy(history, 3, WANDERER, START).history, 3, 30)
    row = live(buy(history, 4, GUARDIAN, START + 10 * DAY).history)
    assert (row.valid_until, row.messages_limit) == (START + 40 * DAY + 30 * DAY, 500 + 500)


def test_same_name_that_became_unlimited_is_converted_by_worth() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 25)
    row = live(buy(history, 2, plan("wanderer", "10.00", None), START).history)
    assert (row.valid_until, row.messages_limit) == (START + 30 * DAY + timedelta(days=7, hours=12), None)


def test_time_is_rounded_up_and_messages_down() -> None:
    thirds = plan("thirds", "3.00", 10, days=1)
    target = plan("target", "7.00", 10, days=1)
    row = live(buy(buy((), 1, thirds, START).history, 2, target, START).history)
    assert row.carried.time == timedelta(microseconds=37_028_571_429)  # 3/7 day is ...428.57
    assert row.carried.messages == 4


def test_a_purchase_after_the_end_starts_fresh_and_tells_of_the_end_first() -> None:
    history = buy((), 1, WANDERER, START).history
    outcome = buy(history, 2, GUARDIAN, START + 31 * DAY)
    assert row_of(outcome.history, 1).ended_at == START + 30 * DAY
    assert row_of(outcome.history, 1).status is Status.EXPIRED
    assert live(outcome.history).carried == Carried()
    assert [h.event for h in outcome.happenings] == [SubscriptionEvent.EXPIRED, SubscriptionEvent.ACTIVATED]


def test_a_purchase_at_the_very_end_carries_nothing_and_one_just_before_it_does() -> None:
    history = buy((), 1, WANDERER, START).history
    assert live(buy(history, 2, WANDERER, START + 30 * DAY).history).messages_limit == 50
    just_before = live(buy(history, 2, WANDERER, START + 30 * DAY - timedelta(microseconds=1)).history)
    assert just_before.messages_limit == 100


def test_two_purchases_in_one_instant_lose_nothing() -> None:
    history = buy(buy((), 1, WANDERER, START).history, 2, WANDERER, START).history
    assert (live(history).valid_until, live(history).messages_limit) == (START + 60 * DAY, 100)


def test_a_clock_that_stepped_back_ends_no_row_before_its_start() -> None:
    history = buy((), 1, WANDERER, START).history
    history = buy(history, 2, WANDERER, START - HOUR).history
    old, new = history
    assert old.ended_at == old.valid_from
    assert new.valid_until == START + 60 * DAY


def test_a_purchase_needs_only_the_current_row_of_the_history() -> None:
    history = buy(buy((), 1, WANDERER, START).history, 2, GUARDIAN, START + DAY).history
    whole = buy(history, 3, WANDERER, START + 5 * DAY).history
    tail = buy(history[-1:], 3, WANDERER, START + 5 * DAY).history
    assert whole[-2:] == tail


@pytest.mark.parametrize(
    ("bought", "more", "refused"),
    [
        (13, [], False),  # 390 days
        (12, [WANDERER], False),
        (13, [WANDERER], True),  # 420 days
        (0, [WANDERER] * 13, False),
        (0, [WANDERER] * 14, True),
        (0, [], False),
        (0, [SANCTUARY, WANDERER], False),  # 330 days
        (0, [SANCTUARY, SANCTUARY, WANDERER], True),  # 630 days
    ],
)
def test_the_cap_is_four_hundred_days(bought: int, more: list[Plan], refused: bool) -> None:
    history = ()
    for number in range(1, bought + 1):
        history = buy(history, number, WANDERER, START).history  # type: ignore[assignment]  # grows
    assert refusal(history, more, START) is (Refusal.PREPAID_CAP if refused else None)


def test_exactly_four_hundred_days_are_allowed() -> None:
    days = plan("days", "1.00", None, days=200)
    assert refusal((), [days, days], START) is None
    assert (
        refusal((), [days, replace(days, period=200 * DAY + timedelta(microseconds=1))], START)
        is Refusal.PREPAID_CAP
    )


def test_absurd_price_ratios_exceed_the_cap_instead_of_failing() -> None:
    dear = plan("dear", "999999999", None, currency="BTC")
    cheap = plan("cheap", "0.00000001", None, currency="BTC")
    assert refusal(buy((), 1, dear, START).history, [cheap], START) is Refusal.PREPAID_CAP


def test_the_cap_counts_from_now_so_lapsed_time_does_not_count() -> None:
    history = buy((), 1, WANDERER, START).history
    assert refusal(history, [plan("year", "1.00", None, days=366)], START + 40 * DAY) is None
