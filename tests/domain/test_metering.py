from dataclasses import replace
from datetime import timedelta

import pytest

from kosmo_billing_daemon.domain.history import advance, revoke
from kosmo_billing_daemon.domain.metering import (
    ACCEPTED_LATE,
    counts_as_sent,
    ends_shortage,
)
from kosmo_billing_daemon.domain.subscriptions import Subscription
from tests.domain.builders import DAY, GUARDIAN, HOUR, SANCTUARY, SECOND, START, WANDERER, buy, live, sid, use
from tests.support.counting import attributed, thresholds_crossed

LATER = START + 100 * DAY


def _id(row: Subscription | None) -> int | None:
    return None if row is None else row.id.int


def test_a_message_counts_when_it_was_sent_for_seven_days() -> None:
    assert counts_as_sent(START - timedelta(days=6.9), START) == START - timedelta(days=6.9)
    assert counts_as_sent(START - ACCEPTED_LATE, START) == START - ACCEPTED_LATE
    assert counts_as_sent(START - ACCEPTED_LATE - timedelta(microseconds=1), START) is None


def test_a_message_from_the_future_counts_now() -> None:
    assert counts_as_sent(START + 400 * DAY, START) == START


def test_a_message_counts_on_the_purchase_valid_when_it_was_sent() -> None:
    history = buy((), 1, WANDERER, START).history
    history = buy(history, 2, GUARDIAN, START + DAY).history
    assert attributed(history, START - SECOND, LATER) is None
    assert _id(attributed(history, START, LATER)) == 1
    assert _id(attributed(history, START + DAY - SECOND, LATER)) == 1
    assert _id(attributed(history, START + DAY, LATER)) == 2


def test_a_purchase_made_before_the_clock_was_set_back_is_valid_already() -> None:
    history = buy((), 1, WANDERER, START - DAY).history
    history = buy(history, 2, GUARDIAN, START).history
    set_back = START - 3 * HOUR
    assert _id(attributed(history, set_back, set_back)) == 2
    assert _id(attributed(history, set_back - SECOND, set_back)) == 1


def test_after_its_end_a_subscription_counts_nothing() -> None:
    history = buy((), 1, WANDERER, START).history
    expired = advance(history, START + 31 * DAY, holding=False).history
    for rows in (history, expired):
        assert _id(attributed(rows, START + 30 * DAY - SECOND, LATER)) == 1
        assert attributed(rows, START + 30 * DAY, LATER) is None


def test_the_old_rights_count_while_a_purchase_confirms() -> None:
    history = buy((), 1, WANDERER, START).history
    held = advance(history, START + 30 * DAY + HOUR, holding=True).history
    assert _id(attributed(held, START + 30 * DAY + HOUR, LATER)) == 1
    assert attributed(held, START + 31 * DAY, LATER) is None


def test_a_revoked_purchase_counts_what_was_sent_until_then() -> None:
    history = buy((), 1, WANDERER, START).history
    history = buy(history, 2, GUARDIAN, START + DAY).history
    history = revoke(history, sid(2), START + 2 * DAY, reason="test").history
    assert _id(attributed(history, START + DAY, LATER)) == 2
    assert _id(attributed(history, START + 2 * DAY, LATER)) == 1


@pytest.mark.parametrize(
    ("announced", "used", "limit", "expected"),
    [
        (0, 39, 50, ()),
        (0, 40, 50, (80,)),
        (80, 49, 50, ()),
        (80, 50, 50, (100,)),
        (0, 50, 50, (80, 100)),
        (0, 900, 50, (80, 100)),
        (100, 900, 50, ()),
        (100, 0, 50, ()),
        (0, 10**9, None, ()),
        (0, 0, 0, (80, 100)),
        (0, 3, 4, ()),
        (0, 4, 5, (80,)),
    ],
)
def test_each_threshold_is_crossed_once(
    announced: int, used: int, limit: int | None, expected: tuple[int, ...]
) -> None:
    assert thresholds_crossed(announced, used, limit) == expected


def test_a_purchase_ends_a_shortage() -> None:
    history = buy((), 1, WANDERER, START).history
    short = use(history, 1, 40)
    assert ends_shortage(short, buy(short, 2, WANDERER, START + DAY).history)
    assert ends_shortage(use(history, 1, 77), buy(use(history, 1, 77), 2, SANCTUARY, START + DAY).history)


def test_there_is_no_shortage_to_end_before_a_threshold_or_without_a_subscription() -> None:
    history = buy((), 1, WANDERER, START).history
    assert not ends_shortage(use(history, 1, 39), buy(use(history, 1, 39), 2, WANDERER, START + DAY).history)
    assert not ends_shortage((), history)
    assert not ends_shortage(use(history, 1, 50), use(history, 1, 50))
    exhausted = use(history, 1, 50)
    assert not ends_shortage(exhausted, (replace(live(exhausted), ended_at=START),))
