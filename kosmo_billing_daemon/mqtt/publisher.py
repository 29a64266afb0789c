"""Changed entitlements and events to topics: always the current row, one publication per topic in flight.
A row of the outbox is deleted only when the broker has acknowledged everything in it.

Changes of rights go first and at once, changes of use at most once a second per user.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from kosmo_billing_daemon.contract.payloads import encode_document
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, LinkLost, PublishRefused
from kosmo_billing_daemon.mqtt.ack_writer import AckWriter
from kosmo_billing_daemon.mqtt.outbox_reader import OutboxReader
from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT, Refusals
from kosmo_billing_daemon.mqtt.republisher import Republisher
from kosmo_billing_daemon.mqtt.reservation import Start
from kosmo_billing_daemon.mqtt.waiting import COALESCE, WaitingUsers
from kosmo_billing_daemon.mqtt.watermark import WatermarkWriter
from kosmo_billing_daemon.mqtt.watermark_tracker import WatermarkTracker
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.services.event_messages import message
from kosmo_billing_daemon.services.topups import TopUps
from kosmo_billing_daemon.store import outbox
from kosmo_billing_daemon.store.entitlements import Versioned
from kosmo_billing_daemon.store.leader_lock import TermPool
from kosmo_billing_daemon.store.outbox import Kind, OutboxDocument, OutboxEntry, OutboxEvent, Unpublished

log = logging.getLogger(__name__)

Count = Callable[[UUID], None] | None  # what is told of an ack that changes how many documents there are

CHUNK = 200  # documents (or events) of a kind in one reading; a few round trips of 50 publications in flight
USERS_AT_ONCE = 5000  # users with changes of use in one reading: most of them wait for their second
MOST_WAITING = 20_000  # users; more changes of use are not read before some of these are published
LOCKED_WAIT = 0.1  # seconds after which a document whose row a writer held gets its new version
REFUSED_MOST = 1000  # more refused documents (or events) than this and all wait: the whole ACL is wrong
FINISH_WITHIN = 1.0  # seconds for the broker's last answers at an orderly end
POLL = 30.0  # seconds; wake-ups are for speed, this is for truth


class Publisher:
    """Publishes over one link at a time; ``run`` returns only by ``LinkLost`` or cancellation."""

    def __init__(self, *, topics: Topics, clock: Clock, topups: TopUps) -> None:
        self.topics, self.clock, self.topups = topics, clock, topups
        self.woken = asyncio.Event()
        self.republished = asyncio.Event()  # the broker has acknowledged again whatever it may have lost
        self.throttle = LogThrottle()
        self.refusals = Refusals(topics)
        self.published = 0
        self.on_event_ack: Callable[[OutboxEvent], None] = lambda _: None

    def wake(self) -> None:
        """Look for changes now."""
        self.woken.set()

    async def run(self, link: Link, pool: TermPool, start: Start, *, repeats: bool) -> None:
        """Publish what changes, and again everything above ``start.after``, until the link goes.

        ``repeats`` says that gates hold nothing newer, so it may have the same version. Else what an earlier
        term published gets new versions.
        """
        self.republished.clear()
        session = _Session(self, link, pool, start, repeats=repeats)
        self.woken.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(session.feed())
                group.create_task(session.acks.run())
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
        self._link = link
        self._pool = pool
        self._topics = publisher.topics
        self._start, self._reservation = start, start.reservation
        self._repeats = repeats
        self._loop = asyncio.get_running_loop()
        self._reader = OutboxReader(pool, start.position.sequence)
        self._republisher = Republisher(pool, start.after, start.lost)
        self._tracker = WatermarkTracker(start)
        self.acks = AckWriter(pool, self._deleted)
        parts = publisher.topics.watermark, self._reader, self._tracker
        self.watermark = WatermarkWriter(link, *parts, refusals=publisher.refusals, wake=publisher.wake)
        self._waiting = WaitingUsers()
        self._in_flight: set[UUID] = set()
        self._to_raise: set[UUID] = set()  # whose version gates may not believe
        self._republishing: set[UUID] = set()  # not acknowledged, and not in the outbox
        self._refused_events: dict[int, tuple[float, OutboxEvent]] = {}
        self._unanswered, self._answered = 0, asyncio.Event()
        self._read_at = self._raise_at = 0.0  # loop times; republishing is interrupted for the first

    async def finish(self) -> None:
        """Delete what the broker still acknowledges, so that an orderly end has nothing published again."""
        with contextlib.suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(FINISH_WITHIN):
                await self._until_fewer(1)
                await self.acks.write([e for e in self._reader.entries if 0 < len(e.left) < e.size])

    async def feed(self) -> None:
        """Send what waits, urgent first, as long as the link has room for it."""
        backoff = Backoff(0.1, 5.0)
        woken = self._publisher.woken
        self._note_republished()
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
                if idle > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(idle):
                            await woken.wait()
        finally:
            self._republisher.stop()

    async def _feed_once(self) -> float:
        """Send what one reading finds; returns for how many seconds nothing more is to be looked for."""
        republishes = not self._republisher.is_read and len(self._waiting.refused) <= REFUSED_MOST
        idle = 0.0
        if not republishes or self._publisher.woken.is_set() or self._loop.time() >= self._read_at:
            self._publisher.woken.clear()
            self._read_at = self._loop.time() + COALESCE
            await self._raise_versions()
            idle = await self._publish_waiting()
        if republishes:  # what is new goes before, and only interrupts it
            await self._republish()
            return 0.0
        return idle

    async def _publish_waiting(self) -> float:
        now, busy, promised = self._loop.time(), list(self._in_flight), self._reader.published_to
        users = [user_id for user_id in self._waiting.due(now, CHUNK) if user_id not in self._in_flight]
        most = self._most()
        try:
            found = await self._reader.read(users, busy, most)
        except Unavailable:
            for user_id in users:
                self._waiting.add(user_id, (), now)
            raise
        if promised != self._reader.published_to:
            self.watermark.advanced.set()
        self._waiting.queue((e for e in found.entries if e.kind is not Kind.EVENT), self._loop.time())
        await self._clear_missing(found, {*users}, busy)
        current = [(one, self._waiting.take(one.user_id)) for one in found.documents]
        current.sort(key=lambda each: -outbox.newest_rights(each[1]))
        urgent = sum(outbox.newest_rights(entries) > 0 for _, entries in current)
        issued_at = self._publisher.clock()
        for one, entries in current[:urgent]:
            await self._send_document(one, entries, issued_at)
        now = self._loop.time()
        again = [event for at, event in self._refused_events.values() if at <= now]
        for event in (*again, *await self._publisher.topups.add(found.events)):
            self._refused_events.pop(event.id, None)
            await self._send_event(event)
        for one, entries in current[urgent:]:
            await self._send_document(one, entries, issued_at)
        if any(most[kind] and kind not in found.complete for kind in Kind):
            return 0.0
        times = [self._waiting.next_at(), now + POLL, *(at for at, _ in self._refused_events.values())]
        times += [self._raise_at] if self._to_raise else []
        times += [now + COALESCE] if self._reader.is_behind else []
        return min(times) - self._loop.time()

    def _most(self) -> dict[Kind, int]:
        """Return how many users or events of each kind are to be read."""
        documents = CHUNK if len(self._waiting.refused) <= REFUSED_MOST else 0
        return {
            Kind.RIGHTS: documents,
            Kind.EVENT: CHUNK if len(self._refused_events) <= REFUSED_MOST else 0,
            Kind.USAGE: USERS_AT_ONCE if documents and len(self._waiting) < MOST_WAITING else 0,
            Kind.REPEAT: documents,
        }

    async def _clear_missing(self, found: Unpublished, asked: set[UUID], busy: Collection[UUID]) -> None:
        """Clear documents of users who have none any more, and take deleted events for acknowledged."""
        events = {event.id for event in found.events}
        for entry in found.entries:
            if entry.kind is Kind.EVENT:
                for event_id in entry.left - events:
                    self._acknowledge(event_id, [entry])
            elif entry.kind is not Kind.USAGE:
                asked |= entry.left
        for user_id in asked.difference(busy, (one.user_id for one in found.documents)):
            if entries := self._waiting.take(user_id):
                self._waiting.sent[user_id] = self._loop.time()  # no page that was read before is republished
                await self._publish(user_id, b"", entries, self._tracker.forget)

    async def _raise_versions(self) -> None:
        """Give new versions to documents whose version gates may not believe; they are queued with them."""
        if self._to_raise and self._loop.time() >= self._raise_at:
            async with self._pool.connection() as connection:
                raised = await outbox.repeat(connection, list(self._to_raise))
            self._to_raise -= raised
            self._republishing -= raised
            self._raise_at = self._loop.time() + LOCKED_WAIT
            self._note_republished()

    async def _republish(self) -> None:
        """Publish the next documents that the broker may have lost."""
        page = await self._republisher.next_page()
        now = self._publisher.clock()
        for versioned in page:
            user_id = versioned.entitlement.user_id
            if user_id in self._waiting.sent or user_id in self._in_flight:
                continue  # something as new went over this link
            self._republishing.add(user_id)
            if not self._repeats and versioned.version <= self._reservation.floor:
                self._to_raise.add(user_id)
                self._publisher.woken.set()
            else:
                await self._hand_over(versioned, [], now, is_first=False)
        self._note_republished()

    def _note_republished(self) -> None:
        if self._republisher.is_read and not self._republishing and not self._tracker.is_republished:
            self._tracker.is_republished = True
            self._publisher.republished.set()
            self.watermark.advanced.set()

    async def _send_document(
        self, current: OutboxDocument, entries: list[OutboxEntry], issued_at: datetime
    ) -> None:
        user_id = current.user_id
        if current.versioned.version <= self._reservation.floor:
            self._to_raise.add(user_id)
            self._waiting.add(user_id, entries, self._loop.time() + LOCKED_WAIT)
            self._publisher.woken.set()
            return
        if self._republisher.is_read:
            self._waiting.forget_sent(self._loop.time())
        self._waiting.sent[user_id] = self._loop.time()
        is_first = any(entry.id < current.first_version for entry in entries)
        await self._hand_over(current.versioned, entries, issued_at, is_first=is_first)

    async def _hand_over(
        self, versioned: Versioned, entries: list[OutboxEntry], issued_at: datetime, *, is_first: bool
    ) -> None:
        self._reservation.greatest = max(self._reservation.greatest, versioned.version)
        if versioned.version > self._reservation.acknowledged:
            await self.watermark.until_acknowledged(versioned.version)
        payload = encode_document(versioned.entitlement, versioned.version, issued_at)
        count = self._tracker.count_first if is_first else None
        await self._publish(versioned.entitlement.user_id, payload, entries, count)

    async def _publish(self, user_id: UUID, payload: bytes, entries: list[OutboxEntry], count: Count) -> None:
        await self._take_room()
        self._in_flight.add(user_id)
        topic = self._topics.entitlement(user_id)
        on_ack = partial(self._document_acked, topic, user_id, entries, count)
        self._link.hand_over(topic, payload, on_ack, retain=True)

    async def _send_event(self, event: OutboxEvent) -> None:
        await self._take_room()
        topic, body = self._topics.event(event.type), message(event, self._start.position.database)
        self._link.hand_over(topic, body, partial(self._event_acked, topic, event))

    async def _take_room(self) -> None:
        await self._until_fewer(self._link.max_in_flight)
        self._unanswered += 1

    async def _until_fewer(self, unanswered: int) -> None:
        while self._unanswered >= unanswered:
            self._answered.clear()
            await self._answered.wait()

    # What the broker answers. A link that was lost answers nobody, and takes all of this with it.

    def _document_acked(
        self, topic: str, user_id: UUID, entries: list[OutboxEntry], count: Count, error: Exception | None
    ) -> None:
        self._in_flight.discard(user_id)
        if self._accepted(topic, error):
            self._waiting.refused.pop(user_id, None)
            self._republishing.discard(user_id)
            if count is not None:
                count(user_id)
            self._acknowledge(user_id, entries)
            self._note_republished()
            if self._waiting.is_passed_over(user_id):  # since it was in flight
                self._waiting.add(user_id, (), self._loop.time())
                self._publisher.woken.set()
        elif isinstance(error, PublishRefused):
            self._waiting.refuse(user_id, entries, self._loop.time())
            if user_id in self._republishing:
                self._to_raise.add(user_id)
            self._publisher.woken.set()

    def _event_acked(self, topic: str, event: OutboxEvent, error: Exception | None) -> None:
        if self._accepted(topic, error):
            self._acknowledge(event.id, [event.entry])
            self._publisher.on_event_ack(event)
        elif isinstance(error, PublishRefused):
            self._refused_events[event.id] = self._loop.time() + REFUSED_WAIT, event
            self._publisher.woken.set()

    def _acknowledge(self, member: UUID | int, entries: Collection[OutboxEntry]) -> None:
        for entry in entries:
            entry.left.discard(member)
            if not entry.left:
                self.acks.done(entry)

    def _deleted(self, entries: Sequence[OutboxEntry]) -> None:
        self._reader.deleted(entries)
        if any(entry.kind is not Kind.EVENT for entry in entries):
            self.watermark.advanced.set()

    def _accepted(self, topic: str, error: Exception | None) -> bool:
        self._unanswered -= 1
        self._answered.set()
        if error is None:
            self._publisher.published += 1
            self._publisher.refusals.accepted(topic)
            return True
        if isinstance(error, PublishRefused):
            self._publisher.refusals.refused(error)
        return False
