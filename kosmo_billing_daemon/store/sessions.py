"""Sessions of the database, lent and given back; the one that was used last goes first.

Not asyncpg's pool: what that does each time (a task, timers, a proxy) costs as much as the statement that a
session is mostly lent for.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg

Session: TypeAlias = "asyncpg.Connection[Any]"

IDLE = 300.0
"""Seconds after which a session that nobody needed is ended."""

NEVER = float("-inf")

LIFE = 3600.0
"""Seconds after which any is: whatever the server keeps for it stays bounded."""


def is_read_only(session: Session) -> bool:
    """Say whether the server takes no writes in this session, as it reported last; costs nothing.

    It reports by itself when a standby is promoted, or when its configuration is read again.
    """
    reported = session.get_settings()
    return "on" in (
        getattr(reported, "in_hot_standby", "off"),
        getattr(reported, "default_transaction_read_only", "off"),
    )


class Sessions:
    """At most so many; each is opened by ``open_one`` when none is idle, and ended after ``life`` seconds,
    or ``idle`` ones without use. One that was opened while the server took no writes is lent once: the server
    may take them soon, and say so only to those who connect then.
    """

    def __init__(
        self,
        open_one: Callable[[], Awaitable[Session]],
        *,
        most: int,
        idle: float = IDLE,
        life: float = LIFE,
    ) -> None:
        self._open_one = open_one
        self._most = most
        self._idle_seconds, self._life_seconds = idle, life
        self._free = asyncio.Semaphore(most)
        self._idle: deque[tuple[Session, float]] = deque()  # and since when, the longest first
        self._opened: dict[int, tuple[Session, float]] = {}  # by the server's process, and when
        self._renewed = NEVER  # what was opened before is not kept
        self._is_closed = False

    def has(self, process_id: int) -> bool:
        """Say whether a session of the server is one of these."""
        opened = self._opened.get(process_id)
        return opened is not None and not opened[0].is_closed()

    async def lend(self, wait: float) -> Session:
        """Wait for a session; ``TimeoutError`` after ``wait`` seconds, ``InterfaceError`` after the end."""
        self._require_open()
        while self._idle and self._idle[-1][0].is_closed():
            self._idle.pop()[0].terminate()
        if self._idle and not self._free.locked():
            return await self._lend()  # at once: no need of a timer
        async with asyncio.timeout(wait):
            return await self._lend()

    async def _lend(self) -> Session:
        await self._free.acquire()
        try:
            self._require_open()  # it may have been closed meanwhile
            while self._idle:
                session, _ = self._idle.pop()
                if not session.is_closed():
                    return session
                session.terminate()
            session = await self._open_one()
        except BaseException:
            self._free.release()
            raise
        process_id = session.get_server_pid()
        self._opened[process_id] = session, NEVER if is_read_only(session) else time.monotonic()
        session.add_termination_listener(lambda _: self._ended(process_id))
        return session

    def _is_young(self, session: Session) -> bool:
        _, opened = self._opened.get(session.get_server_pid(), (session, NEVER))
        return opened > self._renewed and time.monotonic() - opened <= self._life_seconds

    def renew(self) -> None:
        """Keep none of the sessions there are now: something has changed for new ones."""
        self._renewed = time.monotonic()
        while self._idle:
            self._idle.pop()[0].terminate()

    def _require_open(self) -> None:
        if self._is_closed:
            raise asyncpg.InterfaceError("the pool is closed")

    def _ended(self, process_id: int) -> None:
        self._opened.pop(process_id, None)

    def take_back(self, session: Session, *, is_sound: bool) -> None:
        """Keep a session for the next one, or end it: not ``is_sound`` is one in the middle of something."""
        now = time.monotonic()
        if (
            is_sound
            and not session.is_closed()
            and not session.is_in_transaction()
            and self._is_young(session)
        ):
            self._idle.append((session, now))
        else:
            session.terminate()  # again, if it was: asyncpg tells of one that broke only now
        while self._idle and now - self._idle[0][1] > self._idle_seconds:
            self._idle.popleft()[0].terminate()
        self._free.release()

    async def close(self, within: float) -> None:
        """Lend no more, and end all sessions as they come back; after ``within`` seconds, all there are."""
        self._is_closed = True
        try:
            async with asyncio.timeout(within):
                for _ in range(self._most):
                    await self._free.acquire()
                while self._idle:
                    await self._idle.pop()[0].close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            for session, _ in list(self._opened.values()):
                session.terminate()
