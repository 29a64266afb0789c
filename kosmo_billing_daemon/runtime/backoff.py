"""How long to wait before trying again, and how often to say so."""

import logging
import random
import time


class Backoff:
    """Exponential waits with full jitter between ``first`` and ``most`` seconds.

    Jitter keeps daemons that lost the same server from returning in step.
    """

    def __init__(self, first: float = 0.1, most: float = 5.0) -> None:
        self._first = first
        self._most = most
        self.failures = 0  # since the last success

    def failed(self) -> float:
        """Count one failure and return the seconds to wait before the next try."""
        ceiling = min(self._most, self._first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, guards nothing

    def succeeded(self) -> bool:
        """Forget the failures; true when there were any, so that the recovery can be logged once."""
        recovered = self.failures > 0
        self.failures = 0
        return recovered


class LogThrottle:
    """At most one line in ``seconds`` for each subject, so that an outage does not fill the journal."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def allows(self, subject: str) -> bool:
        """Say whether a line about ``subject`` is due now."""
        now = time.monotonic()
        if now - self._last.get(subject, float("-inf")) < self._seconds:
            return False
        self._last[subject] = now
        return True

    def forget(self, subject: str) -> bool:
        """Let the next line about ``subject`` through at once; true when there was one to recover from."""
        return self._last.pop(subject, None) is not None


class LogBudget:
    """At most ``lines`` a minute about ``subject``, whoever causes them; the others are counted."""

    def __init__(self, subject: str, lines: int = 30) -> None:
        self._subject = subject
        self._lines = lines
        self._minute_ends = float("-inf")
        self._spent = 0

    def allows(self, log: logging.Logger) -> bool:
        """Say whether one more line is within the budget; ``log`` gets the count of the minute before."""
        now = time.monotonic()
        if now >= self._minute_ends:
            if self._spent > self._lines:
                log.info("%d %s were not logged one by one", self._spent - self._lines, self._subject)
            self._minute_ends, self._spent = now + 60.0, 0
        self._spent += 1
        return self._spent <= self._lines
