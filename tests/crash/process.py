"""The daemon that dies where it is told to, and what systemd would do then: start it again."""

import math
import signal
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from tests.crash.passages import DIRECTORY
from tests.support.daemon import DaemonProcess
from tests.support.world import until


class CrashingDaemon(DaemonProcess):
    """A daemon whose passages are noted; armed for one of them, it dies there."""

    program = "tests.crash.daemon"

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        super().__init__(directory, {**settings, DIRECTORY: str(directory)})
        self._armed = directory / "armed"
        self._passed = directory / "passed"
        self._numbers = count()

    def arm(self, line: str, nth: int = 1) -> None:
        """Die at the n-th time that ``line`` (before or after, and the point) is passed from now on."""
        order = self._armed.with_suffix(".new")
        order.write_text(f"{next(self._numbers)}\n{nth}\n{line}")
        order.rename(self._armed)

    def disarm(self) -> None:
        self._armed.unlink(missing_ok=True)

    def forget_passages(self) -> None:
        self._passed.write_bytes(b"")

    def passages(self) -> list[str]:
        """What was passed since they were forgotten, in order."""
        return self._passed.read_text().splitlines()

    async def revived(self) -> float:
        """Wait for its death, start it again at once, and return the (monotonic) time of the death."""
        await until(lambda: self._running().poll() is not None, "its death", math.inf)
        died_at = time.monotonic()
        assert await self.ended() == -signal.SIGKILL, f"it ended by itself:\n{self.log[-5000:]}"
        await self.start()
        return died_at
