"""Changed entitlements and events to topics: always the current row, one publication per topic in
flight, and a mark in the database only for what the broker acknowledged.

Changes of rights go first and at once, changes of use at most once a second per user. Publications
are numbered; the retained watermark says up to which number the broker has acknowledged everything,
and rolls back together with the documents when a broker loses its memory.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.contract.payloads import cloud_event
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, LinkLost, PublishRefused
from kosmo_billing_daemon.mqtt.ack_writer import LOCKED_WAIT, AckWriter
from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT, Refusals
from kosmo_billing_daemon.mqtt.reservation import Start
from kosmo_billing_daemon.mqtt.watermark import WatermarkWriter
from kosmo_billing_daemon.mqtt.watermark_tracker import WatermarkTracker
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.services.entitlements import document
from kosmo_billing_daemon.store import entitlements, outbox
from kosmo_billing_daemon.store.entitlements import Published, Versioned
from kosmo_billing_daemon.store.leader_lock import TermPool
from kosmo_billing_daemon.store.outbox import OutboxEvent, Unpublished

log = logging.getLogger(__name__)

CHUNK = 200  # rows of a kind in one look; a few round trips of 50 publications in flight
SWEPT_AT_ONCE = 500  # documents repeated between two glances at what is newly waiting
COALESCE = timedelta(seconds=1)  # changes of use alone: at most one publication per user in this time
REFUSED_MOST = (
    1000  # more refused documents (or events) than this and all of them wait: the whole ACL is wrong
)
FINISH_WITHIN = 1.0  # seconds for the broker's last answers at an orderly end
POLL = 30.0  # seconds; wake-ups are for speed, this is for truth


class Publisher:
    """Publishes over one link at a time; ``run`` returns only by ``LinkLost`` or cancellation."""

    def __init__(self, *, topics: Topics, clock: Clock) -> None:
        self.topics = topics
        self.clock = clock
        self.woken = asyncio.Event()
        self.swept = asyncio.Event()  # the broker has acknowledged again whatever it may have lost
        self.throttle = LogThrottle()
        self.refusals = Refusals(topics, clock)
        self.published = 0
        self.told: Callable[[OutboxEvent], None] = lambda _: None  # called for events the broker acknowledged

    def wake(self) -> None:
        """Look for changes now."""
        self.woken.set()

    async def run(self, link: Link, pool: TermPool, start: Start, *, repeats: bool) -> None:
        """Publish what changes, and again everything numbered above ``start.after``, until the link goes.

        ``repeats`` says that gates hold nothing newer than that, so it may be told word for word. Else what
        an earlier term published gets new versions.
        """
        self.swept.clear()
        session = _Session(self, link, pool, start, repeats=repeats)
        self.woken.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(session.feed())
                group.create_task(session.marks.run())
                group.create_task(session.watermark.run())
                group.create_task(_raise_when_lost(link))
        except asyncio.CancelledError:
            await session.finish()
            raise
        finally:
            self.refusals.forget()


async def _raise_when_lost(link: Link) -> None:
    raise await link.wait_lost()


class _Session:
    """The state of publishing over one link; it dies with it, so nothing can be acknowledged twice."""

    def __init__(
        self, publisher: Publisher, link: Link, pool: TermPool, start: Start, *, repeats: bool
    ) -> None:
        self._publisher = publisher
        self._pool = pool
        self._topics = publisher.topics
        self._clock = publisher.clock
        self._link = link
        self._progress = WatermarkTracker(start.position, start.after, start.reservation)
        self._reservation = start.reservation
        self._repeats = repeats
        self._database = start.position.database
        self.watermark = WatermarkWriter(
            link,
            publisher.topics.watermark,
            pool=pool,
            progress=self._progress,
            reservation=start.reservation,
            refusals=publisher.refusals,
            swept=publisher.swept.set,
        )
        self.marks = AckWriter(
            pool, publisher.clock, self._progress, publisher.wake, self.watermark.advanced.set
        )
        self._room = asyncio.Event()
        # What waits here waits until a time of the loop: the system clock may be set.
        self._refused: dict[UUID, float] = {}
        self._refused_events: dict[int, float] = {}
        self._flying = 0
        self._loop = asyncio.get_running_loop()
        self._look_at = 0.0  # loop time; a sweep is interrupted for it
        self._ahead: asyncio.Task[Sequence[Any]] | None = None  # reads the next documents of the sweep

    async def finish(self) -> None:
        """Mark what the broker still acknowledges, so that an orderly end has nothing told again."""
        with contextlib.suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(FINISH_WITHIN):
                while self._flying:
                    self._room.clear()
                    await self._room.wait()
                await self.marks.write()

    # --- from the database to the broker

    async def feed(self) -> None:
        """Send what waits, urgent first, as long as the link has room for it."""
        backoff = Backoff(0.1, 5.0)
        woken = self._publisher.woken
        try:
            while True:
                try:
                    idle = await self._feed_once()
                except Unavailable as error:
                    if isinstance(error, LinkLost):
                        raise
                    if self._publisher.throttle.allows("database"):
                        log.warning("publishing waits for the database: %s", error)
                    await asyncio.sleep(backoff.failed())
                    continue
                if backoff.succeeded():
                    log.info("publishing goes on")
                if idle:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(idle):
                            await woken.wait()
        finally:
            if self._ahead is not None:
                self._ahead.cancel()

    async def _feed_once(self) -> float:
        """Send one look's worth; returns for how many seconds nothing more is to be looked for."""
        may_sweep = self._progress.is_sweeping and len(self._refused) <= REFUSED_MOST
        found = Unpublished()
        if not may_sweep or self._publisher.woken.is_set() or self._loop.time() >= self._look_at:
            self._publisher.woken.clear()
            self._look_at = self._loop.time() + COALESCE.total_seconds()
            found = await self._look()
            await self._raise_low(found)
        for versioned in found.urgent:
            await self._send_document(versioned)
        for event in found.events:
            await self._send_event(event)
        for versioned in found.used:
            await self._send_document(versioned)
        if may_sweep:  # what is new goes before, and only interrupts it
            await self._sweep()
            return 0.0
        if max(len(found.urgent), len(found.events), len(found.used)) >= CHUNK:
            return 0.0
        if self.marks.unmarked:
            return LOCKED_WAIT
        return COALESCE.total_seconds() if found.later or self._refused or self._refused_events else POLL

    async def _look(self) -> Unpublished:
        now, at = self._clock(), self._loop.time()
        _drop_past(self._refused, at)
        _drop_past(self._refused_events, at)
        unmarked = self.marks.unmarked
        _drop_past(unmarked, at - COALESCE.total_seconds())
        self.marks.looks += 1
        busy = [*self._progress.users, *self._refused]
        async with self._pool.connection() as connection:
            return await outbox.load(
                connection,
                documents=CHUNK if len(self._refused) <= REFUSED_MOST else 0,
                events=CHUNK if len(self._refused_events) <= REFUSED_MOST else 0,
                but=[*busy, *(user for user, until in unmarked.items() if until > at)],
                but_used=[*busy, *unmarked],
                but_events=[*self.marks.events, *self._refused_events],
                told_before=now - COALESCE,
                now=now,
            )

    async def _raise_low(self, found: Unpublished) -> None:
        """Have those looked at again whose version may lie below what gates hold."""
        low = [v.entitlement.user_id for v in (*found.urgent, *found.used) if self._is_low(v)]
        if low:
            until = self._loop.time() + LOCKED_WAIT
            self.marks.unmarked.update(dict.fromkeys(await self._raise(low), until))

    def _is_low(self, versioned: Versioned) -> bool:
        return versioned.version <= self._reservation.floor

    async def _raise(self, users: Sequence[UUID]) -> set[UUID]:
        """Give documents a new version, with which they wait; returns those whose row a writer holds."""
        async with self._pool.connection() as connection:
            raised = await entitlements.raise_versions(connection, users)
        self._publisher.woken.set()
        return {*users} - raised

    async def _sweep(self) -> None:
        """Repeat the next documents that the broker may have lost; those after them are read meanwhile."""
        progress = self._progress
        ahead, self._ahead = self._ahead, None
        rows = await (self._read_published() if ahead is None else ahead)
        last = rows[-1][0] if len(rows) == SWEPT_AT_ONCE else progress.sweep_until
        anew = {
            user_id
            for _, user_id, version, said in rows
            if not (said and (self._repeats or version > self._reservation.floor))
            and not progress.has_spoken_of(user_id)
        }
        held = await self._raise([*anew]) if anew else anew
        progress.sweep_from = last
        if progress.is_sweeping:
            self._ahead = asyncio.create_task(self._read_published())
        for user_id in held:
            progress.begin(user_id)
            self.marks.lost(user_id)
        for _, user_id, _, said in rows:
            if user_id in anew or progress.has_spoken_of(user_id):
                continue  # something newer went over this link, or will
            if self._flying >= self._link.max_in_flight:
                await self._room_for_one()
            progress.begin(user_id)
            topic = self._topics.entitlement(user_id)
            self._flying += 1
            told = partial(self._swept, topic, user_id, self.marks.looks)
            self._link.hand_over(topic, said.encode(), told, retain=True)
        if not progress.is_sweeping:
            progress.sweep_sent()
            self.watermark.advanced.set()

    async def _read_published(self) -> Sequence[Any]:
        progress = self._progress
        async with self._pool.connection() as connection:
            return await outbox.load_published(
                connection, progress.sweep_from, progress.sweep_until, SWEPT_AT_ONCE
            )

    async def _room_for_one(self) -> None:
        while self._flying >= self._link.max_in_flight:
            self._room.clear()
            await self._room.wait()

    async def _send_document(self, versioned: Versioned) -> None:
        if self._is_low(versioned):
            return
        self._reservation.greatest = max(self._reservation.greatest, versioned.version)
        if versioned.version > self._reservation.acknowledged:
            await self.watermark.until_acknowledged(versioned.version)
        await self._room_for_one()
        user_id = versioned.entitlement.user_id
        sequence = self._progress.begin(user_id)
        topic = self._topics.entitlement(user_id)
        payload = document(versioned, self._clock()).encode()
        self._flying += 1
        told = partial(
            self._published, topic, Published(user_id, versioned.version, sequence, payload.decode())
        )
        self._link.hand_over(topic, payload, told, retain=True)

    async def _send_event(self, event: OutboxEvent) -> None:
        await self._room_for_one()
        self.marks.events.add(event.id)
        topic = self._topics.event(event.type)
        payload = cloud_event(
            event_id=f"{self._database}/{_event_id(event)}",
            event_type=event.type,
            subject=str(event.user_id),
            time=event.occurred_at,
            data=event.data,
        )
        self._flying += 1
        self._link.hand_over(topic, payload, partial(self._told, topic, event))

    # --- what the broker answers; a link that was lost answers nobody, and takes all of this with it

    def _published(self, topic: str, published: Published, error: Exception | None) -> None:
        if self._accepted(topic, error):
            self.marks.published(published)
        elif isinstance(error, PublishRefused):
            self._refused[published.user_id] = self._loop.time() + REFUSED_WAIT
            self._progress.end(published.user_id)

    def _told(self, topic: str, event: OutboxEvent, error: Exception | None) -> None:
        if self._accepted(topic, error):
            self.marks.told(event.id)
            self._publisher.told(event)
        elif isinstance(error, PublishRefused):
            self.marks.events.discard(event.id)
            self._refused_events[event.id] = self._loop.time() + REFUSED_WAIT

    def _swept(self, topic: str, user_id: UUID, looks: int, error: Exception | None) -> None:
        if self._accepted(topic, error):
            # Its row says that it was published, as of before the loss; if it waits, it goes again.
            self._progress.end(user_id)
            if not self._progress.is_sweeping:
                self.watermark.advanced.set()
            if looks != self.marks.looks:
                self._publisher.woken.set()  # a look of meanwhile passed it over
        elif isinstance(error, PublishRefused):
            self._refused[user_id] = self._loop.time() + REFUSED_WAIT
            self.marks.lost(user_id)

    def _accepted(self, topic: str, error: Exception | None) -> bool:
        self._flying -= 1
        self._room.set()
        if error is None:
            self._publisher.published += 1
            self._publisher.refusals.accepted(topic)
            return True
        if isinstance(error, PublishRefused):
            self._publisher.refusals.refused(error)
        return False


def _event_id(event: OutboxEvent) -> str:
    """Return the same for the same event, and never the same for another: numbers come again in a database
    that went back.
    """
    said = f"{event.type} {event.user_id} {event.occurred_at.isoformat()} {event.data}"
    return f"{event.id}-{hashlib.blake2b(said.encode(), digest_size=8).hexdigest()}"


def _drop_past(waits: dict[Any, float], now: float) -> None:
    for key in [key for key, until in waits.items() if until <= now]:
        del waits[key]
