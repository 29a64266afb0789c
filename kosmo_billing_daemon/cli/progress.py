"""How far a long command is: a bar with the time left on a terminal, else a plain line every few seconds.

The rule it keeps: progress goes to standard error and never mixes with results; and whoever interrupts a
command reads what is done by then, and how to go on.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kosmo_billing_daemon.admin.explaining import duration
from kosmo_billing_daemon.cli.rendering import aside, line

LINE_EVERY = 5.0
"""Seconds between lines where no bar can be drawn; what is done sooner prints none."""

AGAIN = "run the same command again to continue"


class LongWork:
    """What is being done, how much of it there is (``None``: unknown), and how much is done."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=None)
        self.begin("starting", None)

    def begin(self, what: str, total: int | None = None) -> None:
        """Begin a part of the work, such as ``publishing``."""
        self._what, self._total, self._done, self._since = what, total, 0, time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, description=what, total=total)

    def done(self, number: int) -> None:
        """Say how much is done in all."""
        self._done = number
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=number)

    @property
    def said(self) -> str:
        """How far it is, in words."""
        lasted = time.monotonic() - self._since
        if not self._total:
            done = f"{self._done:,} so far, " if self._done else ""
            return f"{self._what}: {done}{_rough(lasted)}"
        share = f"{self._what}: {self._done:,} of {self._total:,} ({100 * self._done // self._total} %)"
        if not self._done:
            return f"{share}, {_rough(lasted)} so far"
        left = lasted / self._done * max(0, self._total - self._done)
        return f"{share}, about {_rough(left)} left"


@contextlib.contextmanager
def long_work(*, again: str = AGAIN) -> Iterator[LongWork]:
    """Show how far the work is; ``again`` tells whoever interrupts it how to go on."""
    out = aside()
    with _bar(out) if out.is_terminal else contextlib.nullcontext() as bar:
        work = LongWork(bar)
        is_over = threading.Event()

        def report() -> None:
            while not is_over.wait(LINE_EVERY):
                line(out, work.said)

        reporter = threading.Thread(target=report, daemon=True)
        if bar is None:
            reporter.start()
        try:
            yield work
        except (KeyboardInterrupt, asyncio.CancelledError):
            line(out, f"interrupted. {work.said}; {again}")
            raise
        finally:
            is_over.set()
            if bar is None:
                reporter.join()


def _bar(out: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=out,
        transient=True,
    )


def _rough(seconds: float) -> str:
    return duration(timedelta(seconds=round(seconds)))
