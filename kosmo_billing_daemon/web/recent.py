"""One answer for all requests of a second: anybody may read health and metrics, as often as they like."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LASTS = 1.0
"""Seconds for which an answer serves; probes and scrapes come every few."""


class Recent(Generic[T]):
    """Reads once for all callers during the read and within ``lasts(answer)`` seconds after it."""

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        lasts: Callable[[T], float] = lambda _: LASTS,
    ) -> None:
        self._read = read
        self._lasts = lasts
        self._reading: asyncio.Future[T] | None = None
        self._ends = float("-inf")

    async def get(self) -> T:
        """Return the answer, read no longer ago than it lasts; raises what reading raised."""
        if self._reading is None or (self._reading.done() and time.monotonic() >= self._ends):
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._was_read)
        # A caller that hangs up must not take the answer from the others.
        return await asyncio.shield(self._reading)

    def _was_read(self, reading: "asyncio.Future[T]") -> None:
        failed = reading.cancelled() or reading.exception() is not None
        self._ends = float("-inf") if failed else time.monotonic() + self._lasts(reading.result())
