"""Clocks that jump: no plan is extended, and none is lost for good."""

import random
import time
from datetime import UTC, datetime

import pytest

from kosmo_billing_daemon.gate.timekeeping import LATEST_PROOF, SETTLED, Timekeeper, since_boot

TODAY = 1_772_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR


class Clocks:
    """A system clock that may be set, and one that only runs."""

    def __init__(self, system: float = TODAY) -> None:
        self.system = system
        self.running = 1000.0

    def keeper(self, mark: float = 0.0) -> Timekeeper:
        return Timekeeper(mark, lambda: datetime.fromtimestamp(self.system, UTC), lambda: self.running)

    def run(self, keeper: Timekeeper, seconds: float) -> None:
        """Let time pass, with a look at the clocks now and then."""
        for _ in range(int(seconds // 10)):
            self.system += 10.0
            self.running += 10.0
            keeper.look()


def test_a_right_clock_is_believed() -> None:
    clocks = Clocks()
    keeper = clocks.keeper(mark=TODAY - 3 * DAY)
    assert keeper.now() == TODAY
    assert keeper.trusted
    assert keeper.problem() is None


def test_a_machine_that_starts_in_the_past_goes_on_where_it_was() -> None:
    clocks = Clocks(system=0.0)
    keeper = clocks.keeper(mark=TODAY)
    clocks.run(keeper, 5 * HOUR)
    assert keeper.now() == TODAY + 5 * HOUR
    assert not keeper.trusted


def test_time_goes_on_when_the_clock_is_set_back() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.run(keeper, SETTLED + 60.0)
    clocks.system -= 400 * DAY
    clocks.run(keeper, HOUR)
    assert abs(keeper.now() - (TODAY + SETTLED + 60.0 + HOUR)) < 1.0
    assert not keeper.trusted


def test_documents_tell_the_time_to_a_machine_without_a_clock() -> None:
    clocks = Clocks(system=0.0)
    keeper = clocks.keeper()
    keeper.witness(TODAY)
    clocks.run(keeper, 60.0)
    assert keeper.now() == TODAY + 60.0


def test_a_clock_ahead_for_a_moment_leaves_no_trace() -> None:
    clocks = Clocks()
    keeper = clocks.keeper(mark=TODAY)
    clocks.system += 5000 * DAY
    clocks.run(keeper, SETTLED - 60.0)
    assert keeper.now() > TODAY + 4999 * DAY  # believed while it lasts
    clocks.system -= 5000 * DAY
    clocks.run(keeper, 60.0)
    assert keeper.now() == TODAY + SETTLED
    assert keeper.trusted


@pytest.mark.parametrize("ahead", [20 * HOUR, 7 * DAY, 3652 * DAY])
def test_a_clock_ahead_for_long_is_corrected_by_the_next_proof(ahead: float) -> None:
    clocks = Clocks(system=TODAY + ahead)
    keeper = clocks.keeper(mark=TODAY)
    clocks.run(keeper, SETTLED + HOUR)
    right = TODAY + SETTLED + HOUR
    assert keeper.mark == right + ahead  # also after a restart
    keeper.prove(right, asked=clocks.running)
    assert keeper.now() == right
    assert keeper.corrected_by == -ahead
    assert (keeper.trusted, keeper.ahead) == (False, ahead)
    assert f"{ahead:.0f} s ahead of the daemon's time" in str(keeper.problem())
    clocks.run(keeper, SETTLED + HOUR)  # and the clock is not asked, though it still runs ahead
    assert keeper.now() == right + SETTLED + HOUR
    clocks.system -= ahead
    assert keeper.trusted
    assert keeper.problem() is None


def test_between_two_proofs_only_time_that_passes_counts() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    keeper.prove(TODAY, asked=clocks.running)
    for jump in (-400 * DAY, +800 * DAY):
        clocks.system += jump
        keeper.witness(TODAY + 5000 * DAY)  # of a daemon whose clock was wrong
        clocks.run(keeper, 2 * SETTLED)
    assert keeper.now() == TODAY + 4 * SETTLED


def test_documents_of_any_age_in_any_order_take_no_time_back() -> None:
    choice = random.Random(1)
    for system in (0.0, TODAY):
        clocks = Clocks(system)
        keeper = clocks.keeper(mark=TODAY)
        for _ in range(200):
            keeper.witness(TODAY - choice.uniform(0, 30 * DAY))
            assert keeper.now() == TODAY


def test_a_clock_within_the_bounds_of_a_proof_is_left_alone() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    asked = clocks.running
    clocks.run(keeper, 40.0)
    keeper.prove(TODAY + 20.0, asked)
    assert keeper.now() == TODAY + 40.0
    for at, now in ((TODAY - 50.0, TODAY - 10.0), (TODAY + 70.0, TODAY + 70.0)):
        keeper.prove(at, asked)
        assert keeper.now() == now
    assert keeper.corrected_by is not None


def test_an_answer_long_after_the_question_proves_nothing() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    asked = clocks.running
    clocks.run(keeper, LATEST_PROOF + 10.0)
    keeper.prove(TODAY - 10 * DAY, asked)
    assert keeper.now() == TODAY + LATEST_PROOF + 10.0
    assert keeper.proven_at is None


def test_time_that_passes_includes_what_a_machine_slept() -> None:
    """The kernel's CLOCK_BOOTTIME; time.monotonic() stands still in suspend."""
    assert abs(since_boot() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1.0
