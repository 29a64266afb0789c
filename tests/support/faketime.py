"""The system clock of another process, which a test sets while that process runs (libfaketime, preloaded)."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.daemon import environment

# The dynamic linker puts the directory of its architecture for $LIB (lib/x86_64-linux-gnu on Debian).
LIBRARY = "/usr/$LIB/faketime/libfaketime.so.1"
_TELL = "import time; print(time.time())"


class SetClock:
    """A clock that is right until it is set; monotonic clocks run on.

    Every process started with ``settings`` in its environment has it.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.offset = timedelta()
        self.set(timedelta())

    @property
    def settings(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",  # the file counts at once
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # the same before libfaketime 0.9.9
        }

    def set(self, offset: timedelta) -> None:
        """Set it this far from the true time."""
        self.offset = offset
        written = self._file.with_suffix(".new")
        written.write_text(f"{offset.total_seconds():+.0f}\n")
        written.rename(self._file)

    def now(self) -> datetime:
        """What it shows."""
        return datetime.now(UTC) + self.offset

    def assert_works(self) -> None:
        """Fail if a process with these settings does not have this clock: libfaketime is missing."""
        told = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-c", _TELL],
            env=environment(**self.settings),
            check=True,
            capture_output=True,
            text=True,
        )
        apart = abs(float(told.stdout) - self.now().timestamp())
        assert apart < 60, f"no libfaketime (Debian: apt install faketime): {told.stderr}"
