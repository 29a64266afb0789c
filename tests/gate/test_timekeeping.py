"""Clocks that jump: no plan is extended, and none is lost for good."""

from datetime import UTC, datetime

from kosmo_billing_daemon.gate.timekeeping import DAY, SETTLED, Timekeeper

TODAY = 1_772_000_000.0
HOUR = 3600.0


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
    keeper.witness(TODAY, live=False)
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


def test_a_clock_ahead_for_long_is_mended_by_the_next_live_document() -> None:
    clocks = Clocks(system=TODAY + 5000 * DAY)
    keeper = clocks.keeper(mark=TODAY)
    clocks.run(keeper, 2 * SETTLED)
    keeper.witness(TODAY + 2 * SETTLED, live=True)
    assert keeper.now() == TODAY + 2 * SETTLED
    doubted = keeper.trusted
    assert not doubted  # and the clock is not asked, though it still runs ahead
    clocks.run(keeper, HOUR)
    assert keeper.now() == TODAY + 2 * SETTLED + HOUR
    clocks.system = TODAY + 2 * SETTLED + HOUR + 5.0
    clocks.run(keeper, 60.0)
    assert keeper.trusted
    assert keeper.now() == clocks.system


def test_a_mark_from_a_wrong_daemon_is_mended_too() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    keeper.witness(TODAY + 5000 * DAY, live=True)
    assert keeper.now() == TODAY + 5000 * DAY
    keeper.witness(TODAY + 1.0, live=True)
    assert keeper.now() == TODAY + 1.0


def test_an_old_retained_document_takes_no_time_back() -> None:
    clocks = Clocks(system=0.0)
    keeper = clocks.keeper(mark=TODAY)
    keeper.witness(TODAY - 100 * DAY, live=False)
    assert keeper.now() == TODAY


def test_a_document_late_by_hours_changes_nothing() -> None:
    clocks = Clocks()
    keeper = clocks.keeper(mark=TODAY)
    keeper.witness(TODAY - 20 * HOUR, live=True)
    assert keeper.now() == TODAY
    assert keeper.trusted


def test_a_document_late_by_days_gives_no_time_when_the_clock_is_right_again_believed() -> None:
    clocks = Clocks()
    keeper = clocks.keeper(mark=TODAY)
    keeper.witness(TODAY - 3 * DAY, live=True)
    keeper.witness(TODAY - 10.0, live=True)
    assert keeper.now() == TODAY
    assert keeper.trusted
