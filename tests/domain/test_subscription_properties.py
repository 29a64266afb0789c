"""R2, R4, R8 and R12 over random histories."""

from datetime import timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.history import advance, reinstate, revoke
from kosmo_billing_daemon.domain.subscriptions import Happening, Subscription, current
from tests.domain.builders import (
    DAY,
    OTHER_PLANS,
    START,
    Step,
    buy,
    check_consistency,
    play,
    steps,
)


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
    happened: list[Happening] = []
    for part in range(1, 11):
        outcome = advance(stepwise, now + late * part / 10, holding=False)
        stepwise = outcome.history
        happened += outcome.happenings
    once = advance(history, now + late, holding=False)
    assert (once.history, list(once.happenings)) == (stepwise, happened)


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
        outcome = buy(with_it, number, step.plan, now)
        assume(outcome.refusal is None)
        with_it = outcome.history
        if number != gone:
            outcome = buy(without, number, step.plan, now)
            assume(outcome.refusal is None)
            without = outcome.history
    revoked = revoke(with_it, with_it[gone].id, now, reason="invalid").history
    kept = tuple(row for row in revoked if row.revoked_at is None)
    assert [(r.id, r.valid_until, r.messages_limit, r.carried) for r in kept] == [
        (r.id, r.valid_until, r.messages_limit, r.carried) for r in without
    ]
    mine, theirs = current(kept), current(advance(without, now, holding=False).history)
    assert (mine and (mine.id, mine.status)) == (theirs and (theirs.id, theirs.status))
