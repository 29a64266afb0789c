"""A clock that is set is noticed once; time that passes, and a clock that is slewed, are not taken for it."""

from datetime import timedelta

import pytest

from kosmo_billing_daemon.runtime.clock import ClockWatch
from tests.demo.btcpay.conftest import HandClock


class Clocks:
    """A system clock and a monotonic one; time passes for both, unless one is moved alone."""

    def __init__(self) -> None:
        self.system = HandClock()
        self.monotonic = 1000.0
        self.watch = ClockWatch(self.system, lambda: self.monotonic)

    def pass_(self, seconds: float) -> None:
        self.monotonic += seconds
        self.system.move(seconds=seconds)


@pytest.mark.parametrize(("moved", "told"), [(-10_800, "back by 3:00:00"), (2.0, "forward by 0:00:02")])
def test_a_clock_that_is_set_is_told_once(caplog: pytest.LogCaptureFixture, moved: float, told: str) -> None:
    clocks = Clocks()
    clocks.pass_(1)
    clocks.system.move(seconds=moved)
    assert clocks.watch.look()
    clocks.pass_(1)
    assert not clocks.watch.look()
    assert clocks.watch.steps == 1
    assert caplog.messages == [f"the system clock was set {told}"]


def test_time_that_passes_and_a_clock_that_is_slewed_are_no_step() -> None:
    clocks = Clocks()
    for _ in range(100):
        clocks.pass_(timedelta(hours=1).total_seconds())
        clocks.system.move(seconds=0.5)
        assert not clocks.watch.look()
    assert clocks.watch.steps == 0
