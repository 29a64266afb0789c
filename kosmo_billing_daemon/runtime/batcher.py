"""Work that arrives while a batch is being written becomes the next batch, and one item holds up no other.

No timers: an idle system writes at once, a busy one shares each commit among many.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from kosmo_billing_daemon.errors import Locked, Unavailable
from kosmo_billing_daemon.runtime.backoff import LogBudget, LogThrottle

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)

TOGETHER = 5
"""Turns of the event loop in which another request of the same moment comes, if there is one."""

hurries: ContextVar[bool] = ContextVar("hurries", default=False)
"""Set while a failed batch is split to find the item that fails: then no statement waits long for locks."""

STUCK_FOR = timedelta(seconds=5)
"""How long an item is left alone whose rows another session has locked."""

BROKEN_FOR = timedelta(minutes=1)
"""How long an item is left alone that cannot be written for another reason."""


async def write_each(
    items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[Sequence[R]]]
) -> list[R | Exception]:
    """Write items together; if that fails, in halves of halves, so that each bad one fails alone.

    ``write`` returns one result per item, in order, or raises and has written none of them. Returns the
    result of each item, or why it could not be written. Raises ``Unavailable`` when none can be, save for
    ``Locked``, which is about some of them.
    """
    try:
        return await _written(items, write)
    except Locked as error:
        if len(items) == 1:
            return [error]
    except Unavailable:
        raise
    except Exception as error:
        if len(items) == 1:
            return [error]
        log.debug("a batch of %d failed; parts of it are written alone", len(items), exc_info=True)
    token = hurries.set(True)
    try:
        return await _halves(items, write)
    finally:
        hurries.reset(token)


async def _halves(
    items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[Sequence[R]]]
) -> list[R | Exception]:
    results: list[R | Exception] = []
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        try:
            results += await _written(half, write)
        except Exception as error:
            if isinstance(error, Unavailable) and not isinstance(error, Locked):
                raise
            results += [error] if len(half) == 1 else await _halves(half, write)
    return results


async def _written(
    items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[Sequence[R]]]
) -> list[R | Exception]:
    results = await write(items)
    if len(results) != len(items):
        raise ValueError(f"{len(items)} items were written with {len(results)} results")
    return list(results)


class Cooldown(Generic[K]):
    """What could not be written, and until when it is left alone.

    ``logger`` is told ``what`` became of each; ``known`` errors say enough without the way to them.
    """

    def __init__(self, logger: logging.Logger, what: str, *, known: type[Exception] = Locked) -> None:
        self._logger, self._what, self._known = logger, what, known
        self._until: dict[K, datetime] = {}
        self._budget = LogBudget("things set aside", 10)
        self._traced = LogThrottle(3600.0)

    def put(self, key: K, error: Exception, now: datetime, named: Mapping[str, Any]) -> None:
        """Leave ``key`` alone for a while, shorter if it is only locked, and log it.

        The log gets a few lines a minute, and the way to each error once an hour.
        """
        self._until[key] = now + (STUCK_FOR if isinstance(error, Locked) else BROKEN_FOR)
        if self._budget.allows(self._logger):
            is_clear = isinstance(error, Locked | self._known) or not self._traced.allows(repr(error)[:200])
            told = str(error) if is_clear else repr(error)
            self._logger.warning(
                "%s: %s", self._what, told, extra=named, exc_info=None if is_clear else error
            )

    def resting(self, now: datetime) -> list[K]:
        """Return what is left alone now; a clock that was set back keeps nothing longer."""
        for key in [key for key, until in self._until.items() if not now < until <= now + BROKEN_FOR]:
            del self._until[key]
        return list(self._until)

    def next_end(self) -> datetime | None:
        """Return when the first of them is tried again."""
        return min(self._until.values(), default=None)


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    item: T
    result: "asyncio.Future[R]"
    hurries: bool


class Batcher(Generic[T, R]):
    """Gathers single items into calls of ``write``, one call at a time.

    The first item waits ``turns`` of the event loop for those that come in the same moment, and again as long
    as more come: alone it would cost as much as all, and they would wait for its end.

    Each item gets its result, or why it could not be written (``write_each``); when nothing can be, all of
    the batch get that ``Unavailable``. More than ``waiting`` items that no writer has taken up are
    refused with ``Unavailable``.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        most: int = 500,
        waiting: int = 20_000,
        turns: int = 0,
    ) -> None:
        self._write = write
        self._most = most
        self._waiting = waiting
        self._turns = turns
        self._queue: deque[_Waiting[T, R]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Wait until ``item`` is written and return its result."""
        if len(self._queue) >= self._waiting:
            raise Unavailable("too much is waiting to be written", code="overloaded", retry_after=1)
        loop = asyncio.get_running_loop()
        result: asyncio.Future[R] = loop.create_future()
        self._queue.append(_Waiting(item, result, hurries.get()))
        if self._writer is None:
            self._writer = loop.create_task(self._drain())
        return await result

    async def _drain(self) -> None:
        batch: list[_Waiting[T, R]] = []
        try:
            known = 0
            while self._turns and known < len(self._queue) < self._most:  # as long as more come
                known = len(self._queue)
                for _ in range(self._turns):
                    await asyncio.sleep(0)
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
                await self._write_batch(batch)
        except BaseException:  # cancelled: no item may wait for a writer that has gone
            _fail([*batch, *self._queue], Unavailable("the daemon is stopping"))
            self._queue.clear()
            raise
        finally:
            # Not by a callback of the task: that runs after the callers have their results, and an item
            # submitted in between would wait for a writer that has gone.
            self._writer = None

    async def _write_batch(self, batch: Sequence[_Waiting[T, R]]) -> None:
        # For this batch alone: the task inherited the flag of the item that started it, and outlives it.
        hurries.set(any(one.hurries for one in batch))
        try:
            results = await write_each([one.item for one in batch], self._write)
        except Unavailable as error:
            _fail(batch, error)
            return
        for one, result in zip(batch, results, strict=True):
            if one.result.done():
                continue
            if isinstance(result, Exception):
                one.result.set_exception(result)
            else:
                one.result.set_result(result)


def _fail(batch: Sequence[_Waiting[T, R]], error: Exception) -> None:
    for one in batch:
        if not one.result.done():
            one.result.set_exception(error)
