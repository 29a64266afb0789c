"""A loop waits; what it runs works. Outages are waited out, bugs end the process."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.runtime.clock import Clock

log = logging.getLogger(__name__)

POLL = 30.0  # seconds; notifications are for speed, this is for truth


class Loop:
    """Runs ``run_once`` until it finds less than ``batch``, then waits to be woken, ``next_due`` or ``poll``.

    Wake-ups are gathered for ``gather`` seconds, so that those of a busy time cost one look together; what
    is due meanwhile is not held up.
    """

    def __init__(
        self,
        name: str,
        run_once: Callable[[], Awaitable[int]],
        *,
        clock: Clock,
        next_due: Callable[[], Awaitable[datetime | None]] | None = None,
        poll: float = POLL,
        gather: float = 0.0,
        batch: int = 1,
    ) -> None:
        self.name = name
        self.failing_since: datetime | None = None
        self.last_error: str | None = None
        self.step_began: float | None = None  # monotonic; for the watchdog
        self._run_once = run_once
        self._next_due = next_due
        self._clock = clock
        self._poll = poll
        self._gather = gather
        self._batch = batch
        self._woken = asyncio.Event()
        self._throttle = LogThrottle()

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        backoff = Backoff(0.1, 5.0)
        while True:
            self._woken.clear()
            try:
                due = await self._work()
            except Unavailable as error:
                self._note(error)
                await asyncio.sleep(backoff.failed())
                continue
            if backoff.succeeded():
                log.info("%s goes on", self.name)
                self.failing_since = self.last_error = None
                self._throttle.forget(self.name)
            wait = self._poll
            if due is not None:
                wait = min(wait, max(0.0, (due - self._clock()).total_seconds()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._woken.wait()
                    await asyncio.sleep(self._gather)

    async def _work(self) -> datetime | None:
        """Run until nothing is found; return when to look again."""
        self.step_began = time.monotonic()
        try:
            while await self._run_once() >= self._batch:
                self.step_began = time.monotonic()
            if self._next_due is None or self._woken.is_set():
                return None
            return await self._next_due()
        finally:
            self.step_began = None

    def _note(self, error: Unavailable) -> None:
        self.failing_since = self.failing_since or self._clock()
        self.last_error = str(error)
        if self._throttle.allows(self.name):
            log.warning("%s waits: %s", self.name, error)
