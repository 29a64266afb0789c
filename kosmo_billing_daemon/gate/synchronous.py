"""The gate for programs without an event loop: it runs in a thread of its own.

``check`` answers in the calling thread from memory; everything else is handed to the gate's thread and
waited for.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.gate.decisions import Decision
from kosmo_billing_daemon.gate.gate import ACK_TIMEOUT, JOURNAL_LIMIT, REFRESH, Gate
from kosmo_billing_daemon.gate.status import GateStatus
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.clock import Clock, utc_now

_T = TypeVar("_T")


class SyncGate:
    """A ``Gate`` for threads, used with ``with``; the same arguments and methods."""

    def __init__(
        self,
        broker: Broker,
        state: Path | None,
        *,
        reporter: str | None = None,
        topics: Topics | None = None,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        journal_limit: int = JOURNAL_LIMIT,
        ack_timeout: float = ACK_TIMEOUT,
        refresh: float = REFRESH,
    ) -> None:
        self._gate = Gate(
            broker,
            state,
            reporter=reporter,
            topics=topics,
            clock=clock,
            monotonic=monotonic,
            journal_limit=journal_limit,
            ack_timeout=ack_timeout,
            refresh=refresh,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a gate is opened once")
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        # A daemon thread: a program that forgets to close the gate still ends, and loses nothing recorded.
        self._thread = threading.Thread(target=self._run, args=(opened,), name="gate", daemon=True)
        self._thread.start()
        opened.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is None or self._leave is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()
        self._ended.result()

    def check(self, user_id: UUID | str, node_id: str, *, count: int = 1) -> Decision:
        """As ``Gate.check``."""
        return self._gate.check(user_id, node_id, count=count)

    def record(
        self,
        user_id: UUID | str,
        node_id: str,
        message_id: str | None = None,
        *,
        count: int = 1,
        sent_at: datetime | None = None,
    ) -> str:
        """As ``Gate.record``."""
        return self._call(
            lambda: self._gate.record(user_id, node_id, message_id, count=count, sent_at=sent_at)
        )

    def durable(self) -> None:
        """As ``Gate.durable``."""
        self._wait(self._gate.durable())

    def ready(self, timeout: float | None = None) -> None:
        """As ``Gate.ready``."""
        self._wait(self._gate.ready(timeout))

    @property
    def status(self) -> GateStatus:
        """As ``Gate.status``."""
        return self._call(lambda: self._gate.status)

    def _run(self, opened: concurrent.futures.Future[None]) -> None:
        try:
            asyncio.run(self._serve(opened))
        except BaseException as error:  # noqa: BLE001  it rises in the thread that opens or closes
            if not opened.done():
                opened.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _serve(self, opened: concurrent.futures.Future[None]) -> None:
        async with self._gate:
            self._leave = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            opened.set_result(None)
            await self._leave.wait()

    def _call(self, function: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return function()

        return self._wait(call())

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._loop is None or self._ended.done():
            work.close()
            raise RuntimeError("the gate is not open; use `with`")
        answer = asyncio.run_coroutine_threadsafe(work, self._loop)
        either: set[concurrent.futures.Future[Any]] = {answer, self._ended}
        concurrent.futures.wait(either, return_when=concurrent.futures.FIRST_COMPLETED)
        if not answer.done():
            raise RuntimeError("the gate was closed meanwhile")
        return answer.result()
