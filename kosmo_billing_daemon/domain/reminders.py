"""When a subscription's user is reminded of its end: once per step, and one step at a time."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from kosmo_billing_daemon.domain.subscriptions import Status, Subscription
from kosmo_billing_daemon.runtime.records import record

HOUR = timedelta(hours=1)


@record
class Reminder:
    """``hours_left`` is missing where nothing is said now; ``next_hours`` before the end is the next time."""

    hours_left: int | None
    next_hours: int


def due_reminder(row: Subscription, now: datetime, steps: Sequence[int], next_hours: int) -> Reminder | None:
    """Return what is due ``next_hours`` before the end of a subscription; ``None`` while nothing is.

    Of several steps that were missed the latest is said, late; the others are not true any more. A step that
    had passed when the subscription began is not said: its user has just decided.
    """
    left = row.valid_until - now
    if row.status is not Status.ACTIVE or not timedelta() < left <= next_hours * HOUR:
        return None
    open_steps = [step for step in steps if step <= next_hours]
    is_reached = any(
        step * HOUR >= left and row.valid_until - step * HOUR >= row.valid_from for step in open_steps
    )
    return Reminder(
        hours_left=math.ceil(left / HOUR) if is_reached else None,
        next_hours=next_step(left, open_steps),
    )


def next_step(left: timedelta, steps: Sequence[int]) -> int:
    """Return the first step that is still to come when so much time is left; 0 where none is."""
    return max((step for step in steps if step * HOUR < left), default=0)
