"""Time as an argument: a part that needs *now* receives a ``Clock``. And a watch for clocks that are set."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]

STEP = timedelta(seconds=1)
"""A clock that gains or loses more than this between two checks was set, not slewed."""


def utc_now() -> datetime:
    """Return the aware UTC time of the system clock."""
    return datetime.now(UTC)


class ClockWatch:
    """Notices by the monotonic clock that the system clock was set; ``steps`` is how often.

    Periods begin and end by the clock (R3, R4), so the log tells when it was set, and by how much.
    """

    def __init__(self, clock: Clock = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.steps = 0
        self._clock = clock
        self._monotonic = monotonic
        self._ahead = self._difference()

    def look(self) -> bool:
        """Say whether it was set since the last look; to be called every few seconds."""
        ahead, before = self._difference(), self._ahead
        self._ahead = ahead
        if abs(ahead - before) <= STEP:
            return False
        self.steps += 1
        way = "forward" if ahead > before else "back"
        distance = timedelta(seconds=round(abs(ahead - before).total_seconds()))
        log.warning("the system clock was set %s by %s", way, distance)
        return True

    def _difference(self) -> datetime:
        return self._clock() - timedelta(seconds=self._monotonic())
