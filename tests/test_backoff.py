"""Waits grow up to a limit, and an outage fills no journal."""

from itertools import pairwise

from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle


def test_waits_grow_to_the_limit_and_vary_within_their_upper_half() -> None:
    backoff = Backoff(0.1, 5.0)
    waits = [backoff.failed() for _ in range(12)]
    for number, wait in enumerate(waits):
        ceiling = min(5.0, 0.1 * 2**number)
        assert ceiling / 2 <= wait <= ceiling
    assert backoff.failures == 12
    assert all(earlier < later * 2 for earlier, later in pairwise(waits))


def test_many_failures_neither_overflow_nor_exceed_the_limit() -> None:
    backoff = Backoff(1, 60)
    assert max(backoff.failed() for _ in range(5000)) <= 60


def test_recovery_is_told_once_and_starts_the_waits_anew() -> None:
    backoff = Backoff(0.1, 5.0)
    assert not backoff.succeeded()
    for _ in range(6):
        backoff.failed()
    assert backoff.succeeded()
    assert not backoff.succeeded()
    assert backoff.failed() <= 0.1


def test_two_that_lost_the_same_server_do_not_return_in_step() -> None:
    assert {Backoff(1, 1).failed() for _ in range(20)} != {Backoff(1, 1).failed()}


def test_each_subject_is_told_once_in_its_time() -> None:
    quiet = LogThrottle(3600)
    assert [quiet.allows("database"), quiet.allows("database"), quiet.allows("broker")] == [True, False, True]
    assert quiet.forget("database")  # there is something to recover from
    assert quiet.allows("database")
    assert not quiet.forget("btcpay")
    assert not quiet.allows("broker")


def test_next_line_is_due_when_the_time_has_passed() -> None:
    quiet = LogThrottle(0)
    assert quiet.allows("database")
    assert quiet.allows("database")
