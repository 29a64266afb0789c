"""What runs within the daemon: notes each passage of a point, and dies at the one it is told to die at.

The two talk through a directory. ``passed`` gets a line for each passage; ``armed`` names the one to die
at, and vanishes before the death, so that the daemon started next lives.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from functools import cache
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

from tests.crash.points import PACKAGE, PATHS, SHARED

T = TypeVar("T")

DIRECTORY = "KOSMO_CRASH_DIRECTORY"
_caller: ContextVar[str] = ContextVar("caller")

BEFORE, AFTER = "before", "after"
SENT = 0.005  # seconds within which bytes handed to the transport have left the process


class _Points:
    """Which passage ends the process."""

    def __init__(self, directory: Path) -> None:
        self._armed = directory / "armed"
        self._passed = os.open(directory / "passed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._order = ""
        self._left = 0

    def passed(self, when: str, site: str) -> None:
        """Note a passage, and die if it is the one."""
        point = _point(site)
        if point is None:
            return
        line = f"{when} {point}"
        os.write(self._passed, f"{line}\n".encode())
        try:
            order = self._armed.read_text()
        except FileNotFoundError:
            return
        _, number, wanted = order.split("\n")
        if wanted != line:
            return
        if order != self._order:
            self._order, self._left = order, int(number)
        self._left -= 1
        if self._left == 0:
            self._armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def directory() -> Path:
    return Path(os.environ[DIRECTORY])


@cache
def _points() -> _Points:
    return _Points(directory())


def _point(site: str) -> str | None:
    """The site's name, after its caller's when it serves everybody; ``None`` off the paths."""
    shared = any(site.startswith(f"{module}.") for module in SHARED)
    if not shared:
        return site
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        package, _, module = str(frame.f_globals.get("__name__")).partition(".")
        awaits = frame.f_code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)
        if package == PACKAGE and module not in SHARED and awaits:
            if module not in PATHS:
                return None
            _caller.set(f"{module}.{frame.f_code.co_qualname.replace('.<locals>', '')}")
            break
        frame = frame.f_back
    caller = _caller.get(None)  # a task of its own remembers who began it
    return None if caller is None else f"{caller} > {site}"


async def passage(site: str, awaited: Awaitable[T]) -> T:
    """Await what stood there."""
    _points().passed(BEFORE, site)
    result = await awaited
    _points().passed(AFTER, site)
    return result


class enclosure(Generic[T]):  # noqa: N801  stands where a call stood
    """``async with`` what stood there; entering and leaving are two sites."""

    def __init__(self, site: str, around: AbstractAsyncContextManager[T]) -> None:
        self._site = site
        self._around = around

    async def __aenter__(self) -> T:
        return await passage(f"{self._site} enter", self._around.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await passage(f"{self._site} leave", self._around.__aexit__(kind, error, trace))


async def stream(site: str, source: AsyncIterator[T]) -> AsyncIterator[T]:
    """``async for`` what stood there; its begin and its end are one passage."""
    _points().passed(BEFORE, site)
    async for item in source:
        yield item
    _points().passed(AFTER, site)


def effect(site: str, call: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Call what stood there. After a publication is when the broker answered, before anybody noted it."""
    _points().passed(BEFORE, site)
    if call.__name__ == "hand_over":
        topic, payload, told = values

        def heard(error: Exception | None) -> None:
            _points().passed(AFTER, site)
            told(error)

        call(topic, payload, heard, **named)
        return None
    result = call(*values, **named)
    if isinstance(result, asyncio.Future):
        result.add_done_callback(lambda done: None if done.cancelled() else _points().passed(AFTER, site))
    else:
        asyncio.get_running_loop().call_later(SENT, _points().passed, AFTER, site)
    return result
