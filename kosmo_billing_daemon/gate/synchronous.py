"""The gate for programs without an event loop: it runs in a thread of its own.

``check`` answers in the calling thread from memory; everything else is handed to the gate's thread and
waited for.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack
from uuid import UUID

from kosmo_billing_daemon.gate.decisions import Decision
from kosmo_billing_daemon.gate.gate import Gate, GateOptions
from kosmo_billing_daemon.gate.holds import Hold, HoldAnswer
from kosmo_billing_daemon.gate.status import GateStatus
from kosmo_billing_daemon.link import Broker

_T = TypeVar("_T")
_NOT_OPEN = "the gate is not open; use `with`"


class SyncHold(HoldAnswer):
    """A ``Hold`` for threads; the same methods."""

    __slots__ = ("_call", "_hold")

    def __init__(self, hold: Hold, call: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(hold.decision, hold.message_id)
        self._hold = hold
        self._call = call

    def commit(self) -> None:
        """As ``Hold.commit``."""
        self._call(self._hold.commit)

    def release(self, reason: str = "") -> bool:
        """As ``Hold.release``."""
        return bool(self._call(lambda: self._hold.release(reason)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.decision.allowed:
            self._call(lambda: self._hold.__exit__(kind))


class SyncGate:
    """A ``Gate`` for threads, used with ``with``; the same arguments and methods."""

    def __init__(self, broker: Broker, state: Path | None, **options: Unpack[GateOptions]) -> None:
        self._gate = Gate(broker, state, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._asked: set[concurrent.futures.Future[Any]] = set()  # by threads that wait for the answer

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a gate is opened once")
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        # A daemon thread: a program that forgets to close the gate still ends, and loses nothing recorded.
        self._thread = threading.Thread(target=self._run, args=(opened,), name="gate", daemon=True)
        self._thread.start()
        opened.result()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is None or self._leave is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()
        self._ended.result()

    def check(self, user_id: UUID | str, node_id: str, *, count: int = 1) -> Decision:
        """As ``Gate.check``."""
        return self._gate.check(user_id, node_id, count=count)

    def hold(
        self, user_id: UUID | str, node_id: str, message_id: str | None = None, *, count: int = 1
    ) -> SyncHold:
        """As ``Gate.hold``."""
        return SyncHold(
            self._call(lambda: self._gate.hold(user_id, node_id, message_id, count=count)), self._call
        )

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

    def leased(self, user_id: UUID | str, timeout: float | None = None) -> None:
        """As ``Gate.leased``."""
        self._wait(self._gate.leased(user_id, timeout))

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
        for unanswered in list(self._asked):  # the loop ended before their turn came
            unanswered.cancel()

    async def _serve(self, opened: concurrent.futures.Future[None]) -> None:
        async with self._gate:
            self._leave = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            opened.set_result(None)
            await self._leave.wait()

    def _call(self, function: Callable[[], _T]) -> _T:
        """Run a function in the gate's thread."""
        answer: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def work() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001  it rises in the thread that asked
                answer.set_exception(error)

        if self._loop is None:
            raise RuntimeError(_NOT_OPEN)
        self._asked.add(answer)
        try:
            try:
                self._loop.call_soon_threadsafe(work)
            except RuntimeError as error:  # its loop has ended
                raise RuntimeError(_NOT_OPEN) from error
            return answer.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the gate was closed meanwhile") from None
        finally:
            self._asked.discard(answer)

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._loop is None or self._ended.done():
            work.close()
            raise RuntimeError(_NOT_OPEN)
        answer = asyncio.run_coroutine_threadsafe(work, self._loop)
        either: set[concurrent.futures.Future[Any]] = {answer, self._ended}
        concurrent.futures.wait(either, return_when=concurrent.futures.FIRST_COMPLETED)
        if not answer.done():
            raise RuntimeError("the gate was closed meanwhile")
        return answer.result()
