"""Whenever the daemon looks, a user hears each step once, and never of one that is over."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as some

from kosmo_billing_daemon.domain.reminders import HOUR, due_reminder
from tests.domain.builders import START, buy, live, plan

steps = some.lists(some.integers(1, 720), unique=True, max_size=5).map(
    lambda s: tuple(sorted(s, reverse=True))
)


@given(steps, some.lists(some.integers(-100, 60_000), max_size=30).map(sorted), some.integers(0, 720))
def test_each_step_is_said_once_and_progress_is_made(
    hours: tuple[int, ...], looks: list[int], begins: int
) -> None:
    row = live(buy((), 1, plan("wanderer", "5.00", 50), START).history)
    next_hours, said = begins, list[tuple[datetime, int]]()
    for minutes in looks:
        now = START + timedelta(minutes=minutes)
        reminder = due_reminder(row, now, hours, next_hours)
        if reminder is None:
            assert row.valid_until - now > next_hours * HOUR or now >= row.valid_until
            continue
        assert reminder.next_hours < next_hours, "else the timer would ring for ever"
        assert due_reminder(row, now, hours, reminder.next_hours) is None, "never two at once"
        if reminder.hours_left is not None:
            said.append((now, reminder.hours_left))
        next_hours = reminder.next_hours
    assert len(said) <= len([step for step in hours if step <= begins])
    for now, left in said:
        assert timedelta(0) <= left * HOUR - (row.valid_until - now) < HOUR
        assert any(left <= step <= begins for step in hours)
