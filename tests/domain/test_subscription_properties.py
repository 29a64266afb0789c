"""R2, R4, R8 and R12 over random histories."""

from datetime import timedelta
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import (
    Happening,
    Subscription,
    advance,
    current,
    reinstate,
    revoke,
)
from tests.domain.builders import (
    DAY,
    OTHER_PLANS,
    SECOND,
    START,
    Step,
    buy,
    check_consistency,
    live,
    plan,
    play,
    steps,
    use,
)

MICROSECOND = timedelta(microseconds=1)
PLANS = st.one_of(
    st.sampled_from(OTHER_PLANS),
    st.builds(
        lambda cents, quota, days: plan(f"p{cents}_{quota}_{days}", f"{cents / 100:.2f}", quota, days=days),
        st.integers(50, 20_000),
        st.one_of(st.none(), st.integers(1, 10_000)),
        st.integers(7, 90),
    ),
)


def shares(row: Subscription, time_left: timedelta, messages_left: int | None) -> Fraction:
    """The share of its plan that is left, by the words of R2."""
    time_share = Fraction(time_left // MICROSECOND, row.plan.period // MICROSECOND)
    if messages_left is None or row.plan.quota is None:
        return time_share
    return min(time_share, Fraction(messages_left, row.plan.quota))


def price(bought: Plan) -> Fraction:
    return Fraction(bought.price.amount)


@given(st.lists(PLANS, min_size=1, max_size=5), PLANS, st.integers(0, 12_000), st.integers(0, 800 * 86_400))
def test_a_purchase_conserves_value(before: list[Plan], bought: Plan, used: int, seconds: int) -> None:
    history: tuple[Subscription, ...] = ()
    for number, each in enumerate(before, 1):
        history = buy(history, number, each, START).history
    old = live(history)
    history = use(history, old.id.int, used)
    now = START + seconds * SECOND
    new = live(buy(history, 99, bought, now).history)

    time_left = max(old.valid_until - now, timedelta(0))
    messages_left = None if old.messages_limit is None else max(0, old.messages_limit - used)
    if not time_left:
        messages_left = 0
    share = shares(old, time_left, messages_left)
    if old.plan.plan_type == bought.plan_type and (old.plan.quota is None) == (bought.quota is None):
        assert new.valid_until - now == bought.period + time_left
        assert new.messages_limit == (None if bought.quota is None else bought.quota + (messages_left or 0))
        if old.plan == bought:
            left = shares(new, new.valid_until - now, new.messages_limit)
            assert left * price(bought) == price(bought) + share * price(old.plan)
        return
    worth = price(bought) + share * price(old.plan)
    ideal = worth / price(bought)  # in periods and quotas of the new plan
    time_right = (new.valid_until - now) // MICROSECOND
    assert 0 <= time_right - ideal * (bought.period // MICROSECOND) < 1
    if bought.quota is not None:
        assert new.messages_limit is not None
        assert 0 <= ideal * bought.quota - new.messages_limit < 1
    after = shares(new, new.valid_until - now, new.messages_limit) * price(bought)
    one_message = price(bought) / bought.quota if bought.quota else Fraction(0)
    one_second = price(bought) * Fraction(SECOND // MICROSECOND, bought.period // MICROSECOND)
    assert worth - one_message - one_second <= after <= worth + one_second / 1_000_000


@given(st.lists(PLANS, min_size=2, max_size=8), st.lists(st.integers(0, 5 * 86_400), min_size=8, max_size=8))
def test_changing_plans_back_and_forth_never_makes_money(bought: list[Plan], waits: list[int]) -> None:
    history: tuple[Subscription, ...] = ()
    now = START
    spent = Fraction(0)
    for number, (each, wait) in enumerate(zip(bought, waits, strict=False), 1):
        now += wait * SECOND
        history = buy(history, number, each, now).history
        spent += price(each)
    # Plans of one name and different prices are added as they are, which may be worth more.
    same_name = any(a.plan_type == b.plan_type and a != b for a, b in pairwise(bought))
    row = live(history)
    worth = shares(row, row.valid_until - now, row.messages_limit) * price(row.plan)
    rounding = sum((price(each) / (each.period // MICROSECOND) for each in bought), Fraction(0))
    assert same_name or worth <= spent + rounding * 10


@given(steps())
def test_at_most_one_row_is_current_and_rows_agree_with_time(story: list[Step]) -> None:
    history, now = play(story)
    check_consistency(history, now)


@given(steps())
def test_the_same_story_gives_the_same_rows(story: list[Step]) -> None:
    assert play(story) == play(story)


@given(steps(), st.timedeltas(timedelta(0), 100 * DAY), st.timedeltas(timedelta(0), 100 * DAY), st.booleans())
def test_advance_is_idempotent_and_rights_never_come_back_by_waiting(
    story: list[Step], first: timedelta, second: timedelta, holding: bool
) -> None:
    history, now = play(story)
    once = advance(history, now + first, holding=holding)
    again = advance(once.history, now + first, holding=holding)
    assert again.history == once.history
    assert not again.happenings
    later = advance(once.history, now + first + second, holding=holding)
    check_consistency(later.history, now + first + second)
    assert current(once.history) is not None or later == again
    for before, after in zip(once.history, later.history, strict=True):
        assert (before.valid_from, before.valid_until, before.messages_limit) == (
            after.valid_from,
            after.valid_until,
            after.messages_limit,
        )


@given(steps(), st.timedeltas(timedelta(0), 100 * DAY))
def test_one_late_timer_equals_many_timely_ones(story: list[Step], late: timedelta) -> None:
    history, now = play(story)
    stepwise = history
    news: list[Happening] = []
    for part in range(1, 11):
        outcome = advance(stepwise, now + late * part / 10, holding=False)
        stepwise = outcome.history
        news += outcome.happenings
    once = advance(history, now + late, holding=False)
    assert (once.history, list(once.happenings)) == (stepwise, news)


@given(
    steps(), st.integers(0, 100), st.timedeltas(timedelta(0), 60 * DAY), st.timedeltas(timedelta(0), 60 * DAY)
)
def test_revoke_then_reinstate_restores_period_and_limit_of_every_row(
    story: list[Step], chosen: int, wait: timedelta, more: timedelta
) -> None:
    history, now = play([*story, Step(timedelta(0), "buy", OTHER_PLANS[0], 0)])
    row = history[chosen % len(history)]
    if row.revoked_at is not None:
        return
    revoked = revoke(history, row.id, now + wait, reason="invalid").history
    check_consistency(revoked, now + wait)
    back = reinstate(revoked, row.id, now + wait + more, reason="settled").history
    check_consistency(back, now + wait + more)
    untouched = advance(history, now + wait + more, holding=False).history
    for restored, expected in zip(back, untouched, strict=True):
        assert (restored.id, restored.valid_from, restored.valid_until, restored.messages_limit) == (
            expected.id,
            expected.valid_from,
            expected.valid_until,
            expected.messages_limit,
        )
    restored_row, expected_row = current(back), current(untouched)
    assert (restored_row and restored_row.id) == (expected_row and expected_row.id)


@given(steps(), st.integers(0, 100))
def test_a_revoked_purchase_counts_as_if_it_had_never_been(story: list[Step], chosen: int) -> None:
    """Dates of what remains are those of a customer who never made the revoked purchase; nothing is used."""
    buys = [step for step in story if step.kind == "buy"]
    if not buys:
        return
    gone = chosen % len(buys)
    now = START
    with_it: tuple[Subscription, ...] = ()
    without: tuple[Subscription, ...] = ()
    for number, step in enumerate(buys):
        now += step.wait
        with_it = buy(with_it, number, step.plan, now).history
        if number != gone:
            without = buy(without, number, step.plan, now).history
    revoked = revoke(with_it, with_it[gone].id, now, reason="invalid").history
    kept = tuple(row for row in revoked if row.revoked_at is None)
    assert [(r.id, r.valid_until, r.messages_limit, r.carried) for r in kept] == [
        (r.id, r.valid_until, r.messages_limit, r.carried) for r in without
    ]
    mine, theirs = current(kept), current(advance(without, now, holding=False).history)
    assert (mine and (mine.id, mine.status)) == (theirs and (theirs.id, theirs.status))
