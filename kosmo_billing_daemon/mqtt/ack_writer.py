"""From acknowledgements to the database, many in one statement: only then is a publication done."""

import asyncio
from collections import deque
from collections.abc import Callable
from uuid import UUID

from kosmo_billing_daemon.errors import Locked, Unavailable
from kosmo_billing_daemon.mqtt.watermark_tracker import WatermarkTracker
from kosmo_billing_daemon.runtime.backoff import Backoff
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.store import entitlements, events
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.entitlements import Published
from kosmo_billing_daemon.store.leader_lock import TermPool

GATHER = 0.005  # seconds: answers to what was sent at once come close together, and nobody waits for a mark
LOCKED_WAIT = 0.1  # seconds; a row that a writer holds cannot be marked; it is looked at after this


class AckWriter:
    """What was acknowledged over one link and is not marked yet.

    ``advanced`` is called after each writing, ``passed_over`` when a look of meanwhile may have passed
    something over.
    """

    def __init__(
        self,
        pool: TermPool,
        clock: Clock,
        progress: WatermarkTracker,
        passed_over: Callable[[], None],
        advanced: Callable[[], None],
    ) -> None:
        self.events: set[int] = set()  # sent and not yet marked
        self.unmarked: dict[UUID, float] = {}  # published while a writer held the row: a time of the loop
        self.looks = 0  # of the publisher at the database, so far
        self._pool = pool
        self._clock = clock
        self._progress = progress
        self._passed_over = passed_over
        self._advanced = advanced
        self._published: deque[Published] = deque()
        self._told: deque[int] = deque()
        self._held: set[int] = set()  # told, and marked once nobody else holds the row
        self._lost: deque[UUID] = deque()
        self._woken = asyncio.Event()

    def published(self, published: Published) -> None:
        self._published.append(published)
        self._woken.set()

    def told(self, event_id: int) -> None:
        self._told.append(event_id)
        self._woken.set()

    def lost(self, user_id: UUID) -> None:
        """Note a document that is not on the broker although its row says so."""
        self._lost.append(user_id)
        self._woken.set()

    async def run(self) -> None:
        """Mark until cancelled."""
        backoff = Backoff(0.1, 5.0)
        while True:
            await self._woken.wait()
            await asyncio.sleep(GATHER)
            self._woken.clear()
            try:
                await self.write()
            except Unavailable as error:
                if isinstance(error, Locked):
                    self._set_told_aside()
                self._woken.set()
                await asyncio.sleep(backoff.failed())
            else:
                backoff.succeeded()

    def _set_told_aside(self) -> None:
        """Let events of which one may be held by somebody else keep no document from being marked."""
        self._held.update(self._told)
        self._told.clear()

    async def write(self) -> None:
        """Mark what there is now; raises ``Unavailable`` and keeps it."""
        published, told, lost = list(self._published), list(self._told), list(self._lost)
        looks = self.looks
        now = self._clock()
        async with self._pool.connection() as connection:
            rows = await combine(
                connection, [entitlements.mark_statement(published, now), events.mark_statement(told, now)]
            )
            # In statements of their own: one may be of the same rows, one is rarely needed.
            touched = await entitlements.touch(connection, lost)
            freed = await events.mark_free(connection, [*self._held], now)
        marked = entitlements.marked(rows) if published else {}
        for entry in published:
            self._published.popleft()
            self._progress.end(entry.user_id)
            if entry.user_id in marked:
                self._progress.mark(entry.sequence, first=marked[entry.user_id].is_first)
            else:
                self.unmarked[entry.user_id] = asyncio.get_running_loop().time() + LOCKED_WAIT
        for event_id in told:
            self._told.popleft()
            self.events.discard(event_id)
        self._held -= freed
        self.events -= freed
        for user_id in lost:
            self._lost.popleft()
            if user_id in touched:
                self._progress.end(user_id)
            else:
                self._lost.append(user_id)
        if len(touched) < len(lost) or self._held:
            asyncio.get_running_loop().call_later(LOCKED_WAIT, self._woken.set)
        # A change that came while its user was in flight was passed over: it is looked for again now.
        # So is one that a look of meanwhile may have passed over, which the marks do not tell of.
        is_behind = len(marked) < len(published) or any(row.is_behind for row in marked.values())
        if is_behind or lost or looks != self.looks:
            self._passed_over()
        self._advanced()
