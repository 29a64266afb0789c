"""What runs within the daemon: notes each passage of a point, and dies at the one it is told to die at.

The two talk through a directory. ``passed`` gets a line for each passage; ``armed`` names the one to die
at, and vanishes before the death, so that the daemon started next lives.
"""

import os
import signal
from collections.abc import Awaitable
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DIRECTORY = "KOSMO_CRASH_DIRECTORY"
BEFORE, AFTER = "before", "after"


class _Points:
    """Which passage ends the process."""

    def __init__(self, directory: Path) -> None:
        self._armed = directory / "armed"
        self._passed = os.open(directory / "passed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._order = ""
        self._left = 0

    def passed(self, line: str) -> None:
        """Note a passage, and die if it is the one."""
        os.write(self._passed, f"{line}\n".encode())
        try:
            order = self._armed.read_text()
        except FileNotFoundError:
            return
        _, number, wanted = order.split("\n")
        if wanted != line:
            return
        if order != self._order:
            self._order, self._left = order, int(number)
        self._left -= 1
        if self._left == 0:
            self._armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


@cache
def _points() -> _Points:
    return _Points(Path(os.environ[DIRECTORY]))


def passed(when: str, point: str) -> None:
    _points().passed(f"{when} {point}")


async def passage(awaited: Awaitable[T], *points: str) -> T:
    """Await what has these effects."""
    for point in points:
        passed(BEFORE, point)
    result = await awaited
    for point in points:
        passed(AFTER, point)
    return result
