"""R4, R5 and R8 in numbers."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.history import advance, reinstate, revoke
from kosmo_billing_daemon.domain.subscriptions import Happening, Status, SubscriptionEvent, current
from tests.domain.builders import (
    DAY,
    GUARDIAN,
    HOUR,
    SANCTUARY,
    SECOND,
    START,
    WANDERER,
    buy,
    live,
    row_of,
    sid,
    use,
)

END = START + 30 * DAY


def test_it_is_active_until_just_before_its_end_and_expired_at_its_end() -> None:
    history = buy((), 1, WANDERER, START).history
    assert (
        live(advance(history, END - timedelta(microseconds=1), holding=False).history).status is Status.ACTIVE
    )
    outcome = advance(history, END, holding=False)
    assert (outcome.history[0].status, outcome.history[0].ended_at) == (Status.EXPIRED, END)
    assert outcome.happenings == (Happening(SubscriptionEvent.EXPIRED, sid(1), "time"),)


@given(st.timedeltas(min_value=timedelta(0), max_value=400 * DAY))
def test_a_late_timer_changes_neither_dates_nor_events(late: timedelta) -> None:
    history = buy((), 1, WANDERER, START).history
    assert advance(history, END + late, holding=False) == advance(history, END, holding=False)


@given(st.timedeltas(min_value=timedelta(0), max_value=90 * DAY))
def test_a_late_timer_changes_nothing_under_a_hold_either(late: timedelta) -> None:
    held = advance(buy((), 1, WANDERER, START).history, END - HOUR, holding=True).history
    capped = advance(held, END + DAY, holding=True)
    assert advance(held, END + DAY + late, holding=True) == capped
    assert advance(held, END + DAY + late, holding=False).history[0].ended_at == END + DAY


def test_a_confirming_purchase_holds_the_old_rights_for_at_most_a_day() -> None:
    history = advance(buy((), 1, WANDERER, START).history, END - HOUR, holding=True).history
    assert live(history).status is Status.ACTIVE
    assert live(history).grace_until == END + DAY  # the edge knows before it loses the daemon
    history = advance(history, END, holding=True).history
    assert (live(history).status, live(history).grace_until) == (Status.GRACE, END + DAY)
    assert live(advance(history, END + DAY - SECOND, holding=True).history).status is Status.GRACE
    outcome = advance(history, END + DAY, holding=True)
    assert (outcome.history[0].status, outcome.history[0].ended_at) == (Status.EXPIRED, END + DAY)
    assert [h.event for h in outcome.happenings] == [SubscriptionEvent.EXPIRED]


def test_a_hold_released_before_the_end_leaves_no_trace() -> None:
    bought = buy((), 1, WANDERER, START).history
    held = advance(bought, END - HOUR, holding=True).history
    assert advance(held, END - HOUR, holding=False).history == bought


def test_a_hold_released_in_grace_ends_the_rights_then() -> None:
    held = advance(buy((), 1, WANDERER, START).history, END - HOUR, holding=True).history
    grace = advance(held, END + HOUR, holding=True).history
    outcome = advance(grace, END + 2 * HOUR, holding=False)
    assert (outcome.history[0].status, outcome.history[0].ended_at) == (Status.EXPIRED, END + 2 * HOUR)
    assert outcome.history[0].grace_until is None


def test_a_hold_does_not_wake_what_has_expired() -> None:
    expired = advance(buy((), 1, WANDERER, START).history, END, holding=False).history
    assert advance(expired, END + HOUR, holding=True).history == expired


def test_a_purchase_settled_in_grace_renews_without_a_gap_and_carries_no_hold_time() -> None:
    held = advance(buy((), 1, WANDERER, START).history, END - HOUR, holding=True).history
    outcome = buy(held, 2, WANDERER, END + 3 * HOUR)
    assert (outcome.history[0].status, outcome.history[0].ended_at) == (Status.REPLACED, END + 3 * HOUR)
    assert (live(outcome.history).valid_until, live(outcome.history).messages_limit) == (
        END + 3 * HOUR + 30 * DAY,
        50,
    )
    assert [h.event for h in outcome.happenings] == [SubscriptionEvent.RENEWED]


def test_revoking_the_only_purchase_ends_all_rights_at_once() -> None:
    history = buy((), 1, WANDERER, START).history
    outcome = revoke(history, sid(1), START + DAY, reason="invalid")
    row = outcome.history[0]
    assert (row.status, row.ended_at, row.revoked_at) == (Status.REVOKED, START + DAY, START + DAY)
    assert outcome.happenings == (Happening(SubscriptionEvent.REVOKED, sid(1), "invalid"),)


def test_reinstating_gives_the_same_period_and_no_extra_time() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 7)
    revoked = revoke(history, sid(1), START + DAY, reason="invalid").history
    outcome = reinstate(revoked, sid(1), START + 3 * DAY, reason="settled")
    assert outcome.history == history
    assert outcome.happenings == (Happening(SubscriptionEvent.ACTIVATED, sid(1), "settled"),)


def test_reinstating_after_the_period_gives_no_rights() -> None:
    revoked = revoke(buy((), 1, WANDERER, START).history, sid(1), START + DAY, reason="invalid").history
    outcome = reinstate(revoked, sid(1), START + 31 * DAY, reason="settled")
    assert (outcome.history[0].status, outcome.history[0].ended_at) == (Status.EXPIRED, END)
    assert outcome.happenings == ()


def test_revoking_the_last_purchase_brings_back_what_was_paid_before_it() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 20)
    history = buy(history, 2, GUARDIAN, START + 10 * DAY).history
    row = live(revoke(history, sid(2), START + 11 * DAY, reason="invalid").history)
    assert (row.id, row.valid_until, row.messages_limit, row.messages_used) == (sid(1), END, 50, 20)
    assert row.ended_at is None


def test_revoking_a_purchase_whose_rest_was_taken_over_takes_the_rest_back() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 20)
    stacked = use(buy(history, 2, WANDERER, START + 10 * DAY).history, 2, 5)
    revoked = revoke(stacked, sid(1), START + 12 * DAY, reason="invalid").history
    row = live(revoked)
    assert (row.id, row.valid_until, row.messages_limit, row.messages_used) == (
        sid(2),
        START + 40 * DAY,
        50,
        5,
    )
    assert reinstate(revoked, sid(1), START + 13 * DAY, reason="settled").history == stacked


def test_use_between_revocation_and_reinstatement_was_use_of_what_is_taken_over() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 20)
    stacked = buy(history, 2, WANDERER, START + 10 * DAY).history
    revoked = use(revoke(stacked, sid(2), START + 12 * DAY, reason="invalid").history, 1, 5)
    row = live(reinstate(revoked, sid(2), START + 13 * DAY, reason="settled").history)
    assert (row.valid_until, row.messages_limit) == (START + 60 * DAY, 75)


def test_a_purchase_after_a_revocation_takes_over_what_is_left_then() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 20)
    stacked = buy(history, 2, WANDERER, START + 10 * DAY).history
    revoked = use(revoke(stacked, sid(2), START + 12 * DAY, reason="invalid").history, 1, 5)
    row = live(buy(revoked, 3, WANDERER, START + 13 * DAY).history)
    assert (row.valid_until, row.messages_limit) == (START + 60 * DAY, 75)


def test_a_purchase_revoked_before_its_predecessors_is_reinstated_without_their_rest() -> None:
    history = ()
    for number in (1, 2, 3, 4):
        history = buy(history, number, WANDERER, START).history  # type: ignore[assignment]  # grows
    for number in (2, 4, 1):
        history = revoke(history, sid(number), START + DAY, reason="invalid").history  # type: ignore[assignment]
    row = live(reinstate(history, sid(4), START + DAY, reason="settled").history)
    assert (row.valid_until, row.messages_limit) == (START + 60 * DAY, 100)


def test_revoking_the_middle_of_three_restores_the_first_to_the_last() -> None:
    history = use(buy((), 1, WANDERER, START).history, 1, 20)
    history = buy(history, 2, SANCTUARY, START + 10 * DAY).history
    history = buy(history, 3, WANDERER, START + 12 * DAY).history
    revoked = revoke(history, sid(2), START + 13 * DAY, reason="invalid").history
    assert (live(revoked).valid_until, live(revoked).messages_limit) == (START + 60 * DAY, 80)
    assert reinstate(revoked, sid(2), START + 14 * DAY, reason="settled").history == history


def test_a_revocation_that_ends_a_later_purchase_tells_so() -> None:
    history = buy(buy((), 1, WANDERER, START).history, 2, WANDERER, START + 10 * DAY).history
    outcome = revoke(history, sid(1), START + 45 * DAY, reason="invalid")
    assert current(outcome.history) is None
    assert [(h.event, h.subscription_id) for h in outcome.happenings] == [
        (SubscriptionEvent.REVOKED, sid(1)),
        (SubscriptionEvent.EXPIRED, sid(2)),
    ]


def test_reinstating_wakes_the_later_purchase_that_its_revocation_had_ended() -> None:
    history = buy(buy((), 1, WANDERER, START).history, 2, WANDERER, START + 10 * DAY).history
    revoked = revoke(history, sid(1), START + 45 * DAY, reason="invalid").history
    outcome = reinstate(revoked, sid(1), START + 46 * DAY, reason="settled")
    assert outcome.history == history
    assert outcome.happenings == (Happening(SubscriptionEvent.ACTIVATED, sid(2), "settled"),)


def test_reinstating_what_ends_the_present_rights_tells_so() -> None:
    history = ()
    for number in (1, 2, 3):
        history = buy(history, number, WANDERER, START).history  # type: ignore[assignment]  # grows
    history = use(history, 3, 150)  # type: ignore[assignment]
    history = buy(history, 4, SANCTUARY, START + DAY).history  # type: ignore[assignment]  # until day 31
    revived = revoke(history, sid(4), START + 45 * DAY, reason="invalid").history
    assert live(revived).id == sid(3)
    outcome = reinstate(revived, sid(4), START + 46 * DAY, reason="settled")
    assert current(outcome.history) is None
    assert outcome.happenings == (Happening(SubscriptionEvent.EXPIRED, sid(3), "settled"),)


def test_a_hold_that_had_not_begun_is_forgotten_by_the_purchase_that_it_waited_for() -> None:
    held = advance(buy((), 1, WANDERER, START).history, END - HOUR, holding=True).history
    settled = buy(held, 2, GUARDIAN, END - HOUR / 2).history
    revoked = revoke(settled, sid(2), END + 5 * DAY, reason="invalid").history
    assert (row_of(revoked, 1).status, row_of(revoked, 1).ended_at) == (Status.EXPIRED, END)


def test_revoking_twice_and_reinstating_twice_changes_nothing() -> None:
    history = buy((), 1, WANDERER, START).history
    once = revoke(history, sid(1), START + DAY, reason="invalid")
    twice = revoke(once.history, sid(1), START + 2 * DAY, reason="invalid")
    assert (twice.history, twice.happenings) == (once.history, ())
    back = reinstate(once.history, sid(1), START + 3 * DAY, reason="settled")
    again = reinstate(back.history, sid(1), START + 4 * DAY, reason="settled")
    assert (again.history, again.happenings) == (back.history, ())


def test_revocation_before_the_start_by_a_clock_that_stepped_back_ends_at_the_start() -> None:
    history = buy((), 1, WANDERER, START).history
    assert revoke(history, sid(1), START - HOUR, reason="invalid").history[0].ended_at == START
