"""What time it is on a machine whose clock may be wrong: a plan is never extended by a clock going back.

A Raspberry Pi without a clock of its own starts in the past and jumps when the network tells it the time.
The rule:

- The *mark* is time that has certainly passed. It runs with the monotonic clock and is kept in the state
  file. It is raised by ``issued_at`` of documents, and by the system clock once that has run for ten
  minutes without being set, so that a clock which was wrong for a moment leaves no trace.
- *Now* is the later of system clock and mark. So a clock going back changes nothing, and a clock that jumps
  ahead is believed while it does; when it is mended within the ten minutes, everything is as before.
- The way out of a mark or a clock that is ahead: a document that arrives live was issued a moment ago. If
  that is more than a day before *now*, the mark falls back to it, and the system clock is not asked again
  until it is within a day of the mark. A day, because a daemon may publish late after an outage.
"""

import time
from collections.abc import Callable

from kosmo_billing_daemon.clock import Clock, utc_now

SETTLED = 600.0  # seconds a system clock runs unset before it is remembered
STEP = 1.0  # a system clock that gains or loses more than this between two looks was set, not slewed
DAY = 86_400.0


class Timekeeper:
    """The time of one gate, in epoch seconds."""

    def __init__(
        self, mark: float = 0.0, clock: Clock = utc_now, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        # The same clock without a datetime in between, which would be half the time of a check.
        self._system: Callable[[], float] = time.time if clock is utc_now else lambda: clock().timestamp()
        self._monotonic = monotonic
        elapsed = monotonic()
        self._offset = mark - elapsed  # mark = offset + monotonic
        self._drift = self._system() - elapsed
        self._steady_since = elapsed
        self._doubted = False

    @property
    def mark(self) -> float:
        """The time that has certainly passed."""
        return self._offset + self._monotonic()

    @property
    def trusted(self) -> bool:
        """False while the system clock is known to be wrong: more than a minute behind the mark, or
        doubted.
        """
        return not self._doubted and self._system() >= self.mark - 60.0

    def now(self) -> float:
        mark = self._offset + self._monotonic()
        if self._doubted:
            return mark
        system = self._system()
        return system if system > mark else mark  # noqa: FURB136  max() costs a third of a check

    def look(self) -> None:
        """Compare the clocks; to be called every few seconds to a minute, or the rule above is coarser."""
        elapsed = self._monotonic()
        system = self._system()
        if self._doubted and system <= self._offset + elapsed + DAY:
            self._doubted = False
            self._steady_since = elapsed
        drift = system - elapsed
        if abs(drift - self._drift) > STEP:
            self._steady_since = elapsed
        self._drift = drift
        if not self._doubted and elapsed - self._steady_since >= SETTLED:
            self._offset = max(self._offset, drift)

    def witness(self, issued_at: float, *, live: bool) -> None:
        """Learn from a document that is not outdated; ``live`` if it was published while we listened."""
        if live and issued_at < self.now() - DAY:
            self._offset = issued_at - self._monotonic()
        else:
            self._offset = max(self._offset, issued_at - self._monotonic())
        if live:
            self._doubted = self._system() > issued_at + DAY
