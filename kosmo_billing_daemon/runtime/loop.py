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

CALM = 0.05
"""Seconds without a wake-up after which it is asked when more is due: a busy loop need not know."""


class Loop:
    """Runs ``run_once`` until it finds less than ``batch``, then waits to be woken, ``next_due`` or ``poll``.

    Where it is woken meanwhile, up to ``parallel`` runs are under way at once. Wake-ups are gathered for
    ``gather`` seconds, so that those of a busy time cost one look together; what is due meanwhile is not
    held up.
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
        parallel: int = 1,
    ) -> None:
        self.name = name
        self.failing_since: datetime | None = None
        self.last_error: str | None = None
        self._run_once = run_once
        self._next_due = next_due
        self._clock = clock
        self._poll = poll
        self._gather = gather
        self._batch = batch
        self._parallel = parallel
        self._is_wanted = False
        self._turn = asyncio.Event()  # woken, or a run has ended
        self._runs: dict[asyncio.Task[int], float] = {}
        self._backoff = Backoff(0.1, 5.0)
        self._throttle = LogThrottle()

    @property
    def step_began(self) -> float | None:
        """When the oldest run that is under way began, monotonic; for the watchdog."""
        return min(self._runs.values(), default=None)

    def wake(self) -> None:
        """Look for work now."""
        self._is_wanted = True
        self._turn.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            try:
                await self._work()
                if not self._gather and await self._is_woken(CALM):
                    continue
                wait = await self._next_wait()
            except Unavailable as error:
                self._note(error)
                await asyncio.sleep(self._backoff.failed())
                continue
            await self._is_woken(wait)

    async def _is_woken(self, within: float) -> bool:
        """Wait for a wake-up, and for those that are gathered with it; returns whether one came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._turn.wait()
                if self._gather:
                    await asyncio.sleep(self._gather)
                return True
        return False

    async def _work(self) -> None:
        """Run until nothing is found; what is under way when one run fails is waited for."""
        self._is_wanted = True
        try:
            while self._goes_on():
                await self._turn.wait()
                self._collect()
        except Unavailable:
            if self._runs:
                await asyncio.wait(self._runs)
            while self._runs:
                with contextlib.suppress(Unavailable):
                    self._collect()
            raise
        finally:
            for run in self._runs:
                run.cancel()
            await asyncio.gather(*self._runs, return_exceptions=True)
            self._runs.clear()

    def _goes_on(self) -> bool:
        """Begin another run if one is wanted and has room; returns whether any is under way."""
        self._turn.clear()
        if self._is_wanted and len(self._runs) < self._parallel:
            self._is_wanted = False
            run = asyncio.ensure_future(self._run_once())
            run.add_done_callback(lambda _: self._turn.set())
            self._runs[run] = time.monotonic()
        return bool(self._runs)

    def _collect(self) -> None:
        """Take what has ended, and raise what ended it."""
        for run in [run for run in self._runs if run.done()]:
            del self._runs[run]
            self._is_wanted |= run.result() >= self._batch
            if self._backoff.succeeded():
                log.info("%s goes on", self.name)
                self.failing_since = self.last_error = None
                self._throttle.forget(self.name)

    async def _next_wait(self) -> float:
        """Return the seconds until work may be there without anybody's call."""
        due = None if self._next_due is None or self._is_wanted else await self._next_due()
        if due is None:
            return self._poll
        return min(self._poll, max(0.0, (due - self._clock()).total_seconds()))

    def _note(self, error: Unavailable) -> None:
        self.failing_since = self.failing_since or self._clock()
        self.last_error = str(error)
        if self._throttle.allows(self.name):
            log.warning("%s waits: %s", self.name, error)
