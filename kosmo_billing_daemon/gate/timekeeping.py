"""What time it is on a machine whose clock may be wrong: a plan is never extended by a clock going back.

A Raspberry Pi without a clock of its own starts in the past and jumps when the network tells it the time.
A document proves nothing about *now*, and neither does the way in which it came: brokers and bridges repeat
what is old, also without the retain flag. The rule:

- *Proof* is an answer of the daemon to something this gate sent a moment ago: ``at`` of a usage-ack, or of
  the answer to a time request. At the question it was at most ``at``, at the answer at least. A clock that
  is within these bounds is left alone, any other is set to the nearer one, back or ahead. From the first
  proof on now is what the last one said plus the time that has passed since, suspended time included, and
  nothing else is asked.
- Before the first proof now is the later of system clock and *mark*. The mark is time that has certainly
  passed. It is kept in the state file and only rises: with the time that passes, by ``issued_at`` of
  documents, and by the system clock once that has run for ten minutes without being set. So a clock going
  back changes nothing, and a clock that was ahead for a moment leaves no trace.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from kosmo_billing_daemon.runtime.clock import Clock, utc_now

log = logging.getLogger(__name__)

SETTLED = 600.0  # seconds a system clock runs unset before it is remembered
STEP = 1.0  # a system clock that gains or loses more than this between two looks was set, not slewed
LATEST_PROOF = 60.0  # seconds from question to answer: a slow link delivers a group of documents before it
TOLERANCE = 60.0  # seconds by which a clock may be wrong before anybody is told

since_boot: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds that passed, also while the machine was suspended, where the system can tell."""


class Behind(NamedTuple):
    """Times noted from ``since`` until ``until`` are too early by ``seconds``."""

    since: float
    until: float
    seconds: float

    def right(self, noted: float) -> float:
        return noted + self.seconds if self.since <= noted <= self.until else noted


class Timekeeper:
    """The time of one gate, in epoch seconds.

    ``corrected_by`` is how far the last proof moved the clock that moved it by more than ``TOLERANCE``:
    negative when the clock was ahead.
    """

    def __init__(
        self, mark: float = 0.0, clock: Clock = utc_now, elapsed: Callable[[], float] = since_boot
    ) -> None:
        # The same clock without a datetime in between, which would be half the time of a check.
        self._system: Callable[[], float] = time.time if clock is utc_now else lambda: clock().timestamp()
        self.elapsed = elapsed
        passed = elapsed()
        self._offset = mark - passed  # mark = offset + elapsed
        self._drift = self._system() - passed
        self._steady_since = passed
        self.proven_since: float | None = None  # by ``elapsed``: when the last proof came
        self.proven = asyncio.Event()
        self._opened = self.now()
        self._behind: Behind | None = None
        self.corrected_by: float | None = None

    @property
    def mark(self) -> float:
        """The time that has certainly passed."""
        return self._offset + self.elapsed()

    @property
    def ahead(self) -> float:
        """How many seconds the system clock is ahead of the gate's time; negative when it is behind."""
        return self._system() - self.now()

    @property
    def trusted(self) -> bool:
        """False while the system clock is known to be wrong."""
        return abs(self.ahead) <= TOLERANCE

    @property
    def proven_at(self) -> float | None:
        """When the daemon last told the time."""
        return None if self.proven_since is None else self._offset + self.proven_since

    def problem(self) -> str | None:
        """Say that the system clock is wrong, if it is."""
        if self.trusted:
            return None
        ahead = self.ahead
        by = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"
        known = "the daemon's time" if self.proven_since is not None else "what was seen before"
        return f"the system clock is {by} {known}, which the gate goes by: set it"

    def now(self) -> float:
        mark = self._offset + self.elapsed()
        if self.proven_since is not None:
            return mark
        system = self._system()
        return system if system > mark else mark  # noqa: FURB136  max() costs a third of a check

    def corrected(self, noted: float) -> float:
        """A time noted since the gate was opened, as far as the first proof showed the clock to be behind."""
        behind = self._behind
        return noted if behind is None else behind.right(noted)

    def correct(self, write: Callable[[Behind], None]) -> None:
        """Have what was noted by a clock that was behind written down anew, once; what ``write`` raises rises
        and leaves it for another time.
        """
        if self._behind is not None:
            write(self._behind)
            self._behind = None

    def look(self) -> None:
        """Compare the clocks; to be called every few seconds to a minute, or the rule above is coarser."""
        if self.proven_since is not None:
            return
        passed = self.elapsed()
        drift = self._system() - passed
        if abs(drift - self._drift) > STEP:
            self._steady_since = passed
        self._drift = drift
        if passed - self._steady_since >= SETTLED:
            self._offset = max(self._offset, drift)

    def witness(self, issued_at: float) -> None:
        """Learn from a document: it is not earlier than when it was issued."""
        if self.proven_since is None:
            self._offset = max(self._offset, issued_at - self.elapsed())

    def prove(self, at: float, asked: float) -> None:
        """Learn from the daemon's answer to what was sent when ``elapsed`` said ``asked``."""
        now = self.now()
        passed = self.elapsed()
        if passed - asked > LATEST_PROOF:
            return
        right = min(max(now, at), at + passed - asked)
        self._offset = right - passed
        if self.proven_since is None and right > now:
            self._behind = Behind(self._opened, now, right - now)
        self.proven_since = passed
        self.proven.set()
        if abs(right - now) > TOLERANCE:
            self.corrected_by = right - now
            log.warning("clock was wrong and corrected by the daemon's time: seconds=%+.0f", right - now)
