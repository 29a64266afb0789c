"""Work that arrives while a batch is being written becomes the next batch.

No timers: an idle system writes at once, a busy one shares each commit among many.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from kosmo_billing_daemon.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Batches(Generic[T, R]):
    """Gathers single items into calls of ``write``, one call at a time, ``parallel`` at most.

    ``write`` returns one result per item, in order, or raises and has written none of them. When it raises
    ``Unavailable``, all items of that batch get the error; after any other error each is written alone, so
    that one that cannot be written fails alone. More than ``waiting`` items that nobody has taken up are
    refused with ``Unavailable``.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        most: int = 500,
        parallel: int = 1,
        waiting: int = 20_000,
    ) -> None:
        self._write = write
        self._most = most
        self._parallel = parallel
        self._waiting = waiting
        self._queue: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._writers: set[asyncio.Task[None]] = set()

    async def submit(self, item: T) -> R:
        """Wait until ``item`` is written and return its result."""
        if len(self._queue) >= self._waiting:
            raise Unavailable("too much is waiting to be written", code="overloaded", retry_after=1)
        loop = asyncio.get_running_loop()
        result: asyncio.Future[R] = loop.create_future()
        self._queue.append((item, result))
        if len(self._writers) < self._parallel:
            self._writers.add(loop.create_task(self._drain()))
        return await result

    async def _drain(self) -> None:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
                await self._write_batch(batch)
        except BaseException:  # cancelled: nobody may wait for a writer that has gone
            _fail([*batch, *self._queue], Unavailable("the daemon is stopping"))
            self._queue.clear()
            raise
        finally:
            # Not by a callback of the task: that comes after whoever was told a result, and an item
            # submitted in between would wait for a writer that has gone.
            self._writers.discard(_this_task())

    async def _write_batch(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._write([item for item, _ in batch])
            if len(results) != len(batch):
                raise ValueError(f"{len(batch)} items were written with {len(results)} results")
        except Unavailable as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            log.exception("a batch of %d failed; each is written alone", len(batch))
            for single in batch:
                await self._write_batch([single])
        else:
            for (_, waiting), result in zip(batch, results, strict=True):
                if not waiting.done():
                    waiting.set_result(result)


def _this_task() -> "asyncio.Task[None]":
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - it is a coroutine that asks
    return task


def _fail(batch: Sequence[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
    for _, waiting in batch:
        if not waiting.done():
            waiting.set_exception(error)
