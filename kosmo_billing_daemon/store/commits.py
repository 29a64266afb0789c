"""How long commits take: a slow disk holds up every purchase, and shows nowhere else.

Noted where each transaction commits; nothing here waits or wakes. One slow commit means nothing, since a
checkpoint makes some; and many quick ones prove little, since a transaction that wrote nothing waits for no
disk. So slow is where a quarter of the commits are, in two stretches of time one after the other.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.health import Check

log = logging.getLogger(__name__)

SLOW = 0.05
"""Seconds, ten times what a sound disk takes: three stand between a payment and its document."""

STALLED = 5.0  # seconds for one commit; it is told for as long after it was given up
STRETCH = 2.0  # seconds
FORGOTTEN = 600.0  # seconds without a commit after which those before say nothing of now


class Commits:
    """The commits of one pool. ``observed`` is told the seconds of each."""

    def __init__(self) -> None:
        self.observed: Callable[[float], None] = lambda _: None
        self._number = 0
        self._under_way: dict[int, float] = {}  # when each began, the oldest first
        self._given_up = float("-inf"), 0.0  # when the last one was, and after how many seconds
        self._stretch_began = float("-inf")
        self._all = 0  # in this stretch
        self._slow = 0
        self._slow_seconds = 0.0
        self._slow_stretches = 0  # in a row
        self._typical = 0.0  # seconds of a slow one in the last of them
        self._throttle = LogThrottle()

    @property
    def stalled(self) -> str | None:
        """How long a commit has been waited for, if that is so long that nothing can be kept."""
        now = time.monotonic()
        waiting = now - next(iter(self._under_way.values()), now)
        given_up_at, after = self._given_up
        if now - given_up_at < STALLED:
            waiting = max(waiting, after)
        return f"a commit was waited for {waiting:.0f} s" if waiting > STALLED else None

    def health(self) -> Check:
        """Say how long commits take, if that has been too long for a while; told in the log as well."""
        now = time.monotonic()
        if now - self._stretch_began > STRETCH:
            self._judge()
        if now - self._stretch_began > FORGOTTEN:
            self._slow_stretches = 0
        problem = self.stalled
        if problem is None and self._slow_stretches >= 2:
            problem = f"commits take {self._typical:.2f} s"
        if problem is not None and self._throttle.allows("slow"):
            log.warning("%s: the database's disk is slow, or a standby it waits for", problem)
        return Check.of(problem, "quick")

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Note the commit within."""
        self._number = number = self._number + 1
        self._under_way[number] = began = time.monotonic()
        is_kept = False
        try:
            yield
            is_kept = True
        finally:
            del self._under_way[number]
            ended = time.monotonic()
            if not is_kept:
                self._given_up = ended, ended - began
            self._note(ended, ended - began)

    def _note(self, now: float, seconds: float) -> None:
        self.observed(seconds)
        if now - self._stretch_began > STRETCH:
            self._judge()
            self._stretch_began = now
        self._all += 1
        if seconds > SLOW:
            self._slow += 1
            self._slow_seconds += seconds

    def _judge(self) -> None:
        """See how the commits were of the stretch that is over, if there were any."""
        if self._slow * 4 > self._all:
            self._slow_stretches += 1
            self._typical = self._slow_seconds / self._slow
        elif self._all:
            self._slow_stretches = 0
            if self._throttle.forget("slow"):
                log.info("commits are quick again")
        self._all = self._slow = 0
        self._slow_seconds = 0.0
