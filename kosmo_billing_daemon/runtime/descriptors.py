"""File descriptors: how many this process may have, and how many it has.

When none is left, the event loop closes each new connection without a word, and nothing can be opened any
more. So the log warns while there are still some.
"""

import contextlib
import errno
import logging
import os
import resource
import sys

from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.runtime.records import record

log = logging.getLogger(__name__)

SHORT = 0.9  # of all
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)


@record
class Descriptors:
    """How many are open, and how many may be."""

    open: int
    most: int

    @property
    def are_short(self) -> bool:
        return self.open > self.most * SHORT

    def __str__(self) -> str:
        return f"{self.open} of {self.most} file descriptors are open"


def raise_limit() -> None:
    """Take as many as we may have: the usual 1024 are for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Return how many this process may have by now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def count() -> Descriptors:
    """Count those that are open; the count needs one itself, and without it all are."""
    most = limit()
    try:
        return Descriptors(len(os.listdir("/proc/self/fd")) - 1, most)  # noqa: PTH208 - names are all we need
    except OSError as error:
        return Descriptors(most if error.errno in _EXHAUSTED else 0, most)


class DescriptorWatch:
    """Says once a minute that they are short, and once that they are no more."""

    def __init__(self) -> None:
        self._throttle = LogThrottle()

    def health(self) -> Check:
        """Say how many there are now."""
        found = count()
        if not found.are_short:
            if self._throttle.forget("short"):
                log.info("file descriptors are free again: %s", found)
        elif self._throttle.allows("short"):
            log.warning("%s: soon nothing more can be opened or accepted", found)
        return Check(not found.are_short, str(found))
