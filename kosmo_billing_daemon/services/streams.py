"""Users who watch their own document: each change reaches them, without a poll or a timer of their own.

Notifications say that something changed; one statement then asks for all watching users at once whose
version rose. What waits for a watcher is the newest document only, so a slow one costs nothing. Truth
does not depend on notifications: the beat that keeps connections alive looks as well.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.rate_limit import TooMany
from kosmo_billing_daemon.services.entitlements import Entitlements, document
from kosmo_billing_daemon.store import entitlements
from kosmo_billing_daemon.store.postgres import Pool

log = logging.getLogger(__name__)

BEAT = 15.0
"""Seconds between signs of life: proxies commonly cut what is silent for 30 or 60."""

MOST = 6000  # streams of all users
MOST_PER_USER = 10
PAUSE = 0.05
"""Seconds between two looks: what changes meanwhile is seen by the second."""

LONGEST = 3600.0
"""Seconds that a stream may last: its reader comes back, and is asked again who it is."""

_UNKNOWN = -1


class Watcher:
    """One open stream: gives the newest document not given before, or ``None`` for a beat.

    ``gone`` says whether its reader has left, which nobody else notices before the next beat.
    """

    def __init__(self, gone: Callable[[], bool]) -> None:
        self.gone = gone
        self.opened_at = asyncio.get_running_loop().time()
        self._newest: EntitlementDocument | None = None
        self._given = _UNKNOWN
        self._closed = False
        self._woken = asyncio.Event()

    def offer(self, offered: EntitlementDocument) -> None:
        """Put a document in the place of an older one."""
        if self._newest is None or offered.version > self._newest.version:
            self._newest = offered
            self._woken.set()

    def skip(self, version: int) -> None:
        """The reader has this version already."""
        self._given = version

    def beat(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self._closed = True
        self._woken.set()

    async def documents(self) -> AsyncIterator[EntitlementDocument | None]:
        """Wait for documents and beats until the watcher is closed."""
        while not self._closed:
            if self._newest is not None and self._newest.version > self._given:
                self._given = self._newest.version
                yield self._newest
                continue
            self._woken.clear()
            await self._woken.wait()
            if self._is_beat():
                yield None

    def _is_beat(self) -> bool:
        """Say whether it was woken for neither events nor the end."""
        return not self._closed and (self._newest is None or self._newest.version <= self._given)


@dataclass(slots=True)
class _Watched:
    version: int = _UNKNOWN
    watchers: set[Watcher] = field(default_factory=set)


class EntitlementStreams:
    """Holds all watchers of this process; ``run`` is its only task."""

    def __init__(
        self,
        *,
        pool: Pool,
        clock: Clock,
        beat: float = BEAT,
        longest: float = LONGEST,
        most: int = MOST,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._beat = beat
        self._longest = longest
        self._most = most
        self._entitlements = Entitlements(pool=pool, clock=clock)
        self._users: dict[UserId, _Watched] = {}
        self._open = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._throttle = LogThrottle()

    @property
    def watchers(self) -> int:
        """How many streams are open."""
        return self._open

    def wake(self) -> None:
        """Some document may have changed."""
        if self._users:
            self._changed.set()

    @contextlib.contextmanager
    def watching(self, user_id: UserId, gone: Callable[[], bool]) -> Iterator[Watcher]:
        """Open a watcher; raises ``TooMany`` when the user has too many, ``Unavailable`` when all have.

        Those whose reader has left make room: a page that is reloaded often is not refused for its past.
        """
        if self._closed:
            raise Unavailable("the daemon is stopping", code="stopping", retry_after=1)
        if self._open >= self._most:
            raise Unavailable(f"{self._most} streams are open", code="overloaded", retry_after=self._beat)
        watched = self._users.setdefault(user_id, _Watched())
        if len(watched.watchers) >= MOST_PER_USER:
            for left in [watcher for watcher in watched.watchers if watcher.gone()]:
                watched.watchers.discard(left)
                left.close()
        if len(watched.watchers) >= MOST_PER_USER:
            raise TooMany(
                f"at most {MOST_PER_USER} streams of a user are open at once; close one first",
                code="too_many_streams",
                retry_after=int(self._beat) + 1,
            )
        watcher = Watcher(gone)
        watched.watchers.add(watcher)
        self._open += 1
        try:
            yield watcher
        finally:
            self._open -= 1
            watched.watchers.discard(watcher)
            if not watched.watchers and self._users.get(user_id) is watched:
                del self._users[user_id]

    async def begin(self, user_id: UserId, watcher: Watcher) -> EntitlementDocument:
        """Give the watcher the document as it is now, and return it.

        The watcher is registered before, so no change falls between this look and the next.
        """
        shown = await self._entitlements.show(user_id)
        watched = self._users[user_id]
        watched.version = max(watched.version, shown.version)
        watcher.offer(shown)
        return shown

    def close(self) -> None:
        """End all streams; their readers come back to whoever serves next."""
        self._closed = True
        for watched in list(self._users.values()):
            for watcher in watched.watchers:
                watcher.close()

    async def run(self) -> None:
        """Push changes and beats until cancelled."""
        backoff = Backoff(0.1, 5.0)
        loop = asyncio.get_running_loop()
        next_beat = loop.time() + self._beat
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_beat):
                    await self._changed.wait()
            if loop.time() >= next_beat:
                self._beat_all()
                next_beat = loop.time() + self._beat
            self._changed.clear()
            try:
                await self._look()
            except Unavailable as error:
                if self._throttle.allows("database"):
                    log.warning("live updates wait: %s", error)
                self._changed.set()
                await asyncio.sleep(backoff.failed())
            else:
                backoff.succeeded()
                await asyncio.sleep(PAUSE)

    def _beat_all(self) -> None:
        """Show that the streams live, and end those that lasted long enough."""
        opened_before = asyncio.get_running_loop().time() - self._longest
        for watched in self._users.values():
            for watcher in watched.watchers:
                if watcher.opened_at < opened_before:
                    watcher.close()
                else:
                    watcher.beat()

    async def _look(self) -> None:
        known = {user_id: watched.version for user_id, watched in self._users.items()}
        if not known:
            return
        async with self._pool.connection() as connection:
            risen = await entitlements.load_risen(connection, known)
        now = self._clock()
        for versioned in risen:
            watched = self._users.get(versioned.entitlement.user_id)
            if watched is None:
                continue
            if versioned.version < 0:  # erased, or lapsed long ago: its readers ask again
                for watcher in watched.watchers:
                    watcher.close()
                continue
            watched.version = max(watched.version, versioned.version)
            shown = document(versioned, now)
            for watcher in watched.watchers:
                watcher.offer(shown)
