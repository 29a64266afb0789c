"""Changed entitlements and events to topics: always the current row, one publication per topic in
flight, and a mark in the database only for what the broker acknowledged.

Changes of rights go first and at once, changes of use at most once a second per user. Publications
are numbered; the retained watermark says up to which number the broker has acknowledged everything,
and rolls back together with the documents when a broker loses its memory.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.backoff import Backoff, Quiet
from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.contract.payloads import Watermark, cloud_event
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, LinkLost, PublishRefused
from kosmo_billing_daemon.mqtt.progress import Progress
from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT, Refusals
from kosmo_billing_daemon.services.entitlements import document
from kosmo_billing_daemon.store import entitlements, events
from kosmo_billing_daemon.store.entitlements import Marked, Position, Published, Versioned
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection, Pool

log = logging.getLogger(__name__)

CHUNK = 200  # rows in one look; a few round trips of 50 publications in flight
COALESCE = timedelta(seconds=1)  # changes of use alone: at most one publication per user in this time
REFUSED_MOST = 1000  # more refused documents (or news) than this and all of them wait: the whole ACL is wrong
LOCKED_WAIT = timedelta(seconds=0.1)  # a row that a writer holds cannot be marked; it is looked at after this
POLL = 30.0  # seconds; wake-ups are for speed, this is for truth


class Publisher:
    """Publishes over one link at a time; ``run`` returns only by ``LinkLost`` or cancellation."""

    def __init__(self, *, pool: Pool, topics: Topics, clock: Clock) -> None:
        self.pool = pool
        self.topics = topics
        self.clock = clock
        self.woken = asyncio.Event()
        self.swept = asyncio.Event()  # the broker has acknowledged again whatever it may have lost
        self.quiet = Quiet()
        self.refusals = Refusals(topics, clock)
        self.published = 0
        self.told: Callable[[Event], None] = lambda _: None  # called for news the broker acknowledged

    def wake(self) -> None:
        """Look for changes now."""
        self.woken.set()

    async def run(self, link: Link, *, position: Position, after: int) -> None:
        """Publish what changes, and again everything numbered above ``after``, until the link goes.

        ``position`` is where the database stands; nothing numbered below its sequence is given again.
        """
        self.swept.clear()
        session = _Session(self, link, Progress(position, after), position.database)
        self.woken.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(session.feed())
                group.create_task(session.mark())
                group.create_task(session.keep_watermark())
                group.create_task(_raise_when_lost(link))
        finally:
            self.refusals.forget()


async def _raise_when_lost(link: Link) -> None:
    raise await link.wait_lost()


class _Session:
    """The state of publishing over one link; it dies with it, so nothing can be acknowledged twice."""

    def __init__(self, publisher: Publisher, link: Link, progress: Progress, database: str) -> None:
        self._publisher = publisher
        self._pool = publisher.pool
        self._topics = publisher.topics
        self._clock = publisher.clock
        self._link = link
        self._progress = progress
        self._database = database
        self._news: set[int] = set()  # sent and not yet marked
        self._acknowledged: deque[Published] = deque()
        self._told: deque[int] = deque()
        self._rejected: deque[UUID] = deque()  # of the sweep: their rows do not say yet that they wait
        self._to_mark = asyncio.Event()
        self._advanced = asyncio.Event()
        self._room = asyncio.Event()
        self._refused: dict[UUID, datetime] = {}
        self._refused_news: dict[int, datetime] = {}
        self._unmarked: dict[UUID, datetime] = {}  # published while a writer held the row
        self._flying = 0
        self._looks = 0  # at the database, so far
        self._advanced.set()

    # --- from the database to the broker

    async def feed(self) -> None:
        """Send what waits, urgent first, as long as the link has room for it."""
        backoff = Backoff(0.1, 5.0)
        woken = self._publisher.woken
        while True:
            try:
                more = await self._feed_once()
                idle = None if more or woken.is_set() else await self._idle_time()
            except Unavailable as error:
                if isinstance(error, LinkLost):
                    raise
                if self._publisher.quiet.allows("database"):
                    log.warning("publishing waits for the database: %s", error)
                await asyncio.sleep(backoff.failed())
                continue
            if backoff.succeeded():
                log.info("publishing goes on")
            if idle is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(idle):
                        await woken.wait()

    async def _feed_once(self) -> bool:
        """Send one look's worth; says whether more may wait than was looked for."""
        self._publisher.woken.clear()
        self._looks += 1
        now = self._clock()
        _drop_past(self._refused, now)
        _drop_past(self._refused_news, now)
        _drop_past(self._unmarked, now - COALESCE)
        chunk: list[Versioned] = []
        untold: list[Event] = []
        used: list[Versioned] = []
        swept = False
        may_publish = len(self._refused) <= REFUSED_MOST
        async with self._pool.connection() as connection:
            if may_publish:
                locked = [user for user, until in self._unmarked.items() if until > now]
                busy = [*self._progress.users, *self._refused, *locked]
                chunk = await entitlements.load_urgent(connection, CHUNK, busy)
            if len(chunk) < CHUNK and len(self._refused_news) <= REFUSED_MOST:
                untold = await events.load_unpublished(connection, CHUNK, [*self._news, *self._refused_news])
            if may_publish and len(chunk) + len(untold) < CHUNK:
                urgent = [versioned.entitlement.user_id for versioned in chunk]
                busy = [*self._progress.users, *self._refused, *self._unmarked, *urgent]
                used = await entitlements.load_used(connection, CHUNK, busy, now - COALESCE)
                if not chunk and not untold and not used and self._progress.is_sweeping:
                    used, swept = await self._next_of_sweep(connection), True
        for versioned in chunk:
            await self._room_for_one()
            self._send_document(versioned, swept=False)
        for event in untold:
            await self._room_for_one()
            self._send_event(event)
        for versioned in used:
            await self._room_for_one()
            self._send_document(versioned, swept=swept)
        if swept:
            self._progress.sweep_sent()
            self._advanced.set()
        sweeps = swept or (may_publish and self._progress.is_sweeping)  # a purchase only interrupts it
        return sweeps or len(chunk) + len(untold) >= CHUNK or len(used) >= CHUNK

    async def _next_of_sweep(self, connection: Connection) -> list[Versioned]:
        """Take the next documents that the broker may have lost."""
        progress = self._progress
        rows = await entitlements.load_published_after(
            connection, progress.sweep_from, progress.sweep_until, CHUNK
        )
        progress.sweep_from = rows[-1][0] if len(rows) == CHUNK else progress.sweep_until
        return [versioned for _, versioned in rows if not progress.flies(versioned.entitlement.user_id)]

    async def _idle_time(self) -> float:
        if self._unmarked:
            return LOCKED_WAIT.total_seconds()
        if self._refused_news:
            return COALESCE.total_seconds()
        async with self._pool.connection() as connection:
            waiting = await entitlements.is_waiting(connection)
        return COALESCE.total_seconds() if waiting else POLL

    async def _room_for_one(self) -> None:
        while self._flying >= self._link.max_in_flight:
            self._room.clear()
            await self._room.wait()

    def _send_document(self, versioned: Versioned, *, swept: bool) -> None:
        user_id = versioned.entitlement.user_id
        sequence = self._progress.begin(user_id)
        topic = self._topics.entitlement(user_id)
        payload = document(versioned, self._clock()).encode()
        looks = self._looks

        def acknowledged() -> None:
            self._progress.acknowledged(versioned.version)
            if not swept:
                self._acknowledged.append(Published(user_id, versioned.version, sequence))
                self._to_mark.set()
                return
            # Its row says that it was published, as of before the loss; if it waits, it goes again.
            self._progress.end(user_id)
            self._advanced.set()
            if looks != self._looks and not self._progress.is_sweeping:
                self._publisher.woken.set()  # a look of meanwhile passed it over

        def refused() -> None:
            self._refused[user_id] = self._clock() + REFUSED_WAIT
            if swept:
                self._rejected.append(user_id)
                self._to_mark.set()
            else:
                self._progress.end(user_id)

        self._send(topic, payload, acknowledged, refused, retain=True)

    def _send_event(self, event: Event) -> None:
        self._news.add(event.id)
        payload = cloud_event(
            event_id=f"{self._database}/{event.id}",
            event_type=event.type,
            subject=str(event.user_id),
            time=event.occurred_at,
            data=event.data,
        )

        def acknowledged() -> None:
            self._told.append(event.id)
            self._to_mark.set()
            self._publisher.told(event)

        def refused() -> None:
            self._news.discard(event.id)
            self._refused_news[event.id] = self._clock() + REFUSED_WAIT

        self._send(
            self._topics.event(event.type),
            payload,
            acknowledged,
            refused,
            retain=False,
        )

    def _send(
        self,
        topic: str,
        payload: bytes,
        acknowledged: Callable[[], None],
        refused: Callable[[], None],
        *,
        retain: bool,
    ) -> None:
        """Hand one publication to the link; only its acknowledgement counts as published."""

        def done(future: asyncio.Future[None]) -> None:
            self._flying -= 1
            self._room.set()
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                self._publisher.published += 1
                self._publisher.refusals.accepted(topic)
                acknowledged()
            elif isinstance(error, PublishRefused):
                self._publisher.refusals.refused(error)
                refused()

        self._flying += 1
        self._link.send(topic, payload, retain=retain).add_done_callback(done)

    # --- from acknowledgements to the database

    async def mark(self) -> None:
        """Note acknowledged publications, many in one statement."""
        backoff = Backoff(0.1, 5.0)
        while True:
            await self._to_mark.wait()
            self._to_mark.clear()
            published, told, rejected = list(self._acknowledged), list(self._told), list(self._rejected)
            marked: dict[UUID, Marked] = {}
            looks = self._looks
            try:
                async with self._pool.connection() as connection:
                    if published:
                        marked = await entitlements.mark_published(connection, published, self._clock())
                    if told:
                        await events.mark_published(connection, told, self._clock())
                    if rejected:
                        await entitlements.touch(connection, rejected)
            except Unavailable:
                self._to_mark.set()
                await asyncio.sleep(backoff.failed())
                continue
            backoff.succeeded()
            for entry in published:
                self._acknowledged.popleft()
                self._progress.end(entry.user_id)
                if entry.user_id in marked:
                    self._progress.mark(entry.sequence, first=marked[entry.user_id].is_first)
                else:
                    self._unmarked[entry.user_id] = self._clock() + LOCKED_WAIT
            for event_id in told:
                self._told.popleft()
                self._news.discard(event_id)
            for user_id in rejected:
                self._rejected.popleft()
                self._progress.end(user_id)
            # A change that came while its user was in flight was passed over: it is looked for again now.
            # So is one that a look of meanwhile may have passed over, which the marks do not tell of.
            is_behind = len(marked) < len(published) or any(row.is_behind for row in marked.values())
            if is_behind or rejected or looks != self._looks:
                self._publisher.woken.set()
            self._advanced.set()

    # --- the watermark

    async def keep_watermark(self) -> None:
        """Write the watermark after what it covers was acknowledged and marked; once a second is enough."""
        topic = self._topics.watermark
        written: Watermark | None = None
        while True:
            await self._advanced.wait()
            self._advanced.clear()
            if self._progress.is_swept:
                self._publisher.swept.set()
            now = self._progress.watermark()
            if now == written:
                continue
            try:
                await self._link.publish(topic, now.encode(), retain=True)
            except PublishRefused as error:
                self._publisher.refusals.refused(error)
                self._advanced.set()
                await asyncio.sleep(REFUSED_WAIT.total_seconds())
                continue
            self._publisher.refusals.accepted(topic)
            written = now
            await asyncio.sleep(COALESCE.total_seconds())


def _drop_past(waits: dict[Any, datetime], now: datetime) -> None:
    for key in [key for key, until in waits.items() if until <= now]:
        del waits[key]
