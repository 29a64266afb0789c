"""Time that an operator gives: exactly so much more, and nobody's money is worth less or more for it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import assume, given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain import lots
from kosmo_billing_daemon.domain.folding import own_packs
from kosmo_billing_daemon.domain.history import advance, extend, recount, revoke
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.quoting import refusal
from kosmo_billing_daemon.domain.subscriptions import (
    Outcome,
    Refusal,
    Status,
    Subscription,
    SubscriptionEvent,
    current,
)
from tests.domain.builders import (
    DAY,
    EXTRA,
    GUARDIAN,
    HOUR,
    OTHER_PLANS,
    SANCTUARY,
    START,
    WANDERER,
    Step,
    buy,
    check_consistency,
    live,
    play,
    sid,
    steps,
    use,
)

GIVEN = UUID(int=900_000)


def lengthen(
    history: Sequence[Subscription],
    days: int,
    at: datetime,
    extension: UUID = GIVEN,
    *,
    holding: bool = False,
) -> Outcome:
    return extend(history, extension, days * DAY, at, reason="extended", holding=holding)


def worth(row: Subscription, at: datetime) -> dict[str, Decimal]:
    return lots.worth(lots.consumed(row.lots, at - row.valid_from, row.messages_used))


@given(steps(), st.integers(1, 366), st.floats(0, 1))
def test_end_moves_by_exactly_the_days_and_what_was_paid_keeps_its_worth(
    story: list[Step], days: int, later: float
) -> None:
    history, now = play(story)
    before = current(advance(history, now, holding=False).history)
    assume(before is not None)
    assert before is not None
    outcome = lengthen(history, days, now)
    after = live(outcome.history)
    assert (after.id, after.status) == (before.id, Status.ACTIVE)
    assert after.valid_until == before.valid_until + days * DAY
    assert (after.messages_limit, after.messages_used) == (before.messages_limit, before.messages_used)
    check_consistency(outcome.history, now)
    at = now + later * (before.valid_until - now)
    assert worth(after, at) == worth(before, at)
    assert [each.event for each in outcome.happenings] == [SubscriptionEvent.CHANGED]
    assert lengthen(outcome.history, days, now) == Outcome(outcome.history)  # a repeat


@given(steps(), st.integers(1, 60), st.sampled_from(OTHER_PLANS), st.timedeltas(timedelta(0), 20 * DAY))
def test_next_purchase_takes_over_time_of_the_same_plan_and_worth_of_another(
    story: list[Step], days: int, plan: Plan, wait: timedelta
) -> None:
    history, now = play(story)
    history = advance(history, now, holding=False).history
    row = current(history)
    assume(row is not None)
    assert row is not None
    at = now + min(wait, (row.valid_until - now) / 2)
    longer = lengthen(history, days, now).history
    for bought in (row.plan, plan):
        without, outcome = buy(history, 700, bought, at), buy(longer, 700, bought, at)
        assume(without.refusal is outcome.refusal is None)
        gained = live(outcome.history).valid_until - live(without.history).valid_until
        is_added = live(without.history).carried.rule == "added"
        assert gained == (days * DAY if is_added else timedelta(0))
        assert live(outcome.history).messages_limit == live(without.history).messages_limit
        assert lots.worth(live(outcome.history).lots) == lots.worth(live(without.history).lots)


@given(steps(), st.integers(1, 60))
def test_extension_goes_with_the_purchase_that_it_lengthened(story: list[Step], days: int) -> None:
    history, now = play(story)
    history = advance(history, now, holding=False).history
    row = current(history)
    assume(row is not None)
    assert row is not None
    taken = revoke(lengthen(history, days, now).history, row.id, now, reason="test").history
    without = revoke(history, row.id, now, reason="test").history
    assert [(r.status, r.ended_at) for r in taken] == [(r.status, r.ended_at) for r in without]
    assert current(taken) == current(without)


def test_subscription_in_grace_is_active_again() -> None:
    history = buy((), 1, WANDERER, START).history
    history = advance(history, START + 30 * DAY + HOUR, holding=True).history
    assert live(history).status is Status.GRACE
    row = live(lengthen(history, 1, START + 30 * DAY + 2 * HOUR, holding=True).history)
    assert (row.status, row.valid_until) == (Status.ACTIVE, START + 31 * DAY)
    assert row.grace_until == START + 32 * DAY


def test_nobody_without_a_plan_gets_one() -> None:
    assert lengthen((), 3, START) == Outcome(())
    history = buy((), 1, WANDERER, START).history
    late = lengthen(history, 3, START + 30 * DAY)  # the timer has not run yet
    assert [each.event for each in late.happenings] == [SubscriptionEvent.EXPIRED]
    assert current(late.history) is None


@given(steps(), st.integers(1, 60), st.timedeltas(timedelta(0), 60 * DAY))
def test_a_plan_that_has_ended_goes_on_from_now_and_is_worth_no_money(
    story: list[Step], days: int, wait: timedelta
) -> None:
    history, now = play(story)
    running = current(advance(history, now, holding=False).history)
    assume(running is not None)
    assert running is not None
    now = running.valid_until + wait
    history = advance(history, now, holding=False).history
    ended = next(row for row in history if row.id == running.id)
    outcome = lengthen((ended,), days, now)
    row = live(outcome.history)
    assert (row.id, row.valid_until) == (running.id, now + days * DAY)
    assert (row.messages_limit, row.messages_used) == (ended.messages_limit, ended.messages_used)
    assert not any(worth(row, now).values())
    assert [each.event for each in outcome.happenings] == [SubscriptionEvent.ACTIVATED]
    whole = tuple(row if each.id == row.id else each for each in history)
    check_consistency(whole, now)
    assert recount(whole, now).history == whole
    assert lengthen(outcome.history, days, now) == Outcome(outcome.history)  # a repeat


def test_cap_of_paying_ahead_does_not_refuse_it_but_what_is_bought_after_it() -> None:
    history = buy((), 1, WANDERER, START).history
    row = live(lengthen(history, 366, START).history)
    twice = lengthen((row,), 366, START, UUID(int=900_001)).history
    assert live(twice).valid_until == START + (30 + 2 * 366) * DAY
    assert refusal(twice, [WANDERER], START) is Refusal.PREPAID_CAP
    assert refusal(twice, [GUARDIAN], START) is None  # to which given time is not taken over


def test_extension_is_no_pack_and_a_pack_fits_beside_it() -> None:
    history = lengthen(buy((), 1, WANDERER, START).history, 3, START).history
    history = buy(history, 2, EXTRA, START + HOUR).history
    row = live(history)
    assert [lot.messages for lot in own_packs(row)] == [50]
    assert (row.messages_limit, row.valid_until) == (100, START + 33 * DAY)


def test_messages_that_are_left_can_be_sent_in_the_time_that_was_given() -> None:
    history = lengthen(buy((), 1, WANDERER, START).history, 3, START).history
    history = use(history, 1, 20)
    history = advance(history, START + 32 * DAY, holding=False).history
    row = live(history)
    assert (row.messages_limit, row.messages_used) == (50, 20)
    renewed = live(buy(history, 2, WANDERER, START + 32 * DAY).history)
    assert (renewed.carried.time, renewed.messages_limit) == (DAY, 80)


def test_unlimited_plan_stays_unlimited_when_only_given_time_is_left() -> None:
    history = lengthen(buy((), 1, SANCTUARY, START).history, 3, START).history
    renewed = live(buy(history, 2, SANCTUARY, START + 31 * DAY).history)
    assert (renewed.messages_limit, renewed.valid_until) == (None, START + 63 * DAY)
    assert renewed.carried.from_id == sid(1)
