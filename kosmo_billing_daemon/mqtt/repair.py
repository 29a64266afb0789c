"""What the broker lost, found by reading it: the watermark at every connect, every document at leisure.

A retained replay has no end marker. So once a subscription is granted our own retained ``status`` is
subscribed too, which Mosquitto sends after what it replays for the one before. Other brokers promise no order
between the two: what is expected and did not come by then is waited for until it stops arriving.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import EntitlementDocument, Watermark, encode_document
from kosmo_billing_daemon.contract.topics import SHARDS, Topics
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, Message, PublishRefused, SubscribeRefused
from kosmo_billing_daemon.mqtt.reservation import GREATEST_CEILING
from kosmo_billing_daemon.services.entitlements import document
from kosmo_billing_daemon.store import entitlements, outbox
from kosmo_billing_daemon.store.entitlements import Versioned
from kosmo_billing_daemon.store.leader_lock import TermPool

log = logging.getLogger(__name__)

REPLAY_TIMEOUT = 10.0  # seconds; a broker that replays in another order is waited for no longer
LATE = 0.3  # seconds without an arrival after which what did not come by the end is missing
UNENDED_TIMEOUT = 1.0  # seconds a watermark gets to arrive while nothing ends the replay
ISSUED_AT = b'"issued_at":'  # the last field
EPOCH = datetime.fromtimestamp(0, UTC)
YIELD_AFTER = 50  # documents compared, a few milliseconds
PACE = 0.02  # seconds between shards, so that reading everything holds up nobody
GREATEST_VERSION = GREATEST_CEILING // 2
"""A forgery above it is not followed, or nobody could be told anything."""


class ReplayUnfinished(Unavailable):
    """The broker did not end a replay: it withholds our own ``status``, or is overloaded."""

    code = "replay_unfinished"


class Unfixed(Unavailable):
    """Altered documents are still on the broker."""

    code = "unfixed"


class RetainedReader:
    """Collects the retained messages of one filter at a time from the link's one stream."""

    def __init__(self, link: Link, topics: Topics) -> None:
        self._link = link
        self._topics = topics
        self._collected: dict[str, bytes] = {}
        self._wanted = False
        self._ended = asyncio.Event()
        self._arrived = asyncio.Event()
        self.is_ended = False  # set once our status is retained, and with it the end of every replay
        self.withheld: str | None = None  # why the last one could not be read

    def take(self, message: Message) -> None:
        """Be given a message that arrived and is no usage report."""
        if message.topic == self._topics.status:
            self._ended.set()
        elif self._wanted:
            self._collected[message.topic] = message.payload
            self._arrived.set()

    async def read(self, topic_filter: str, expected: Iterable[str] = ()) -> Mapping[str, bytes]:
        """Return what is retained below a filter, topic -> payload; raises ``ReplayUnfinished``."""
        if not self.is_ended:
            raise ReplayUnfinished(f"our own {self._topics.status} is not retained, which ends every replay")
        filters = [topic_filter, self._topics.status]
        try:
            async with self._collecting(filters), asyncio.timeout(REPLAY_TIMEOUT):
                await self._ended.wait()
                await self._wait_for_late(expected)
        except TimeoutError:
            self.withheld = (
                f"the broker did not end its replay of {topic_filter}: may we read {self._topics.status}?"
            )
            raise ReplayUnfinished(self.withheld) from None
        self.withheld = None
        return self._collected

    async def _wait_for_late(self, expected: Iterable[str]) -> None:
        wanted = set(expected)
        while wanted - self._collected.keys():
            self._arrived.clear()
            try:
                async with asyncio.timeout(LATE):
                    await self._arrived.wait()
            except TimeoutError:
                return

    async def read_one(self, topic: str) -> bytes | None:
        """Return what is retained under one topic, if anything; works without an end, but slower."""
        if self.is_ended:
            return (await self.read(topic)).get(topic)
        async with self._collecting([topic]):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNENDED_TIMEOUT):
                    await self._arrived.wait()
        return self._collected.get(topic)

    @contextlib.asynccontextmanager
    async def _collecting(self, filters: Sequence[str]) -> AsyncIterator[None]:
        self._collected, self._wanted = {}, True
        self._ended.clear()
        self._arrived.clear()
        for one in filters:  # one after another, since a broker may answer them in any order
            await self._link.subscribe([one])
        try:
            yield
        finally:
            self._wanted = False
            await self._link.unsubscribe(filters)


async def read_watermark(replay: RetainedReader, topics: Topics) -> Watermark | None:
    """Return what the broker remembers; ``None`` when it remembers nothing that can be read."""
    try:
        payload = await replay.read_one(topics.watermark)
        watermark = Watermark.decode(payload) if payload else None
        if watermark and max(watermark.version_ceiling, watermark.sequence) > GREATEST_CEILING:
            raise Malformed("version_ceiling, sequence: greater than any of ours")
    except (Malformed, ReplayUnfinished, SubscribeRefused) as error:
        log.warning("the retained watermark cannot be read (%s); everything is published again", error)
        return None
    return watermark


async def repair(
    link: Link, replay: RetainedReader, pool: TermPool, topics: Topics, *, changed: Callable[[], None]
) -> None:
    """Compare every retained document with the database, shard by shard.

    Missing, outdated and altered documents, and those of a version that we never gave (a forgery, or another
    past of this database), get a new version, since an edge may have believed them. Documents of nobody are
    cleared, and whatever is published later lies above them. ``changed`` wakes the publisher.
    """
    fixed = cleared = 0
    held: set[UUID] = set()
    for shard in SHARDS:
        # The database first: what is published in between may be newer on the broker, never older.
        async with pool.connection() as connection:
            first, last = UUID(shard + "0" * 30), UUID(shard + "f" * 30)
            expected = await entitlements.load_published_between(connection, first, last)
        documents = [topics.entitlement(user_id) for user_id in expected]
        retained = await replay.read(topics.shard_filter(shard), documents)
        found: dict[UUID, EntitlementDocument | None] = {}
        orphans: list[str] = []
        for place, (topic, payload) in enumerate(retained.items()):
            named = topics.entitlement_user(topic)
            user_id = None if named is None else UserId(named)
            if user_id is None:
                orphans.append(topic)
            elif payload and user_id in expected and _says(payload, expected[user_id]):
                del expected[user_id]
            elif payload:
                found[user_id] = _document(payload, user_id)
            if place % YIELD_AFTER == 0:
                await asyncio.sleep(0)
        async with pool.connection() as connection:
            # And again: nothing on the broker may be ahead of it now.
            known = await entitlements.load_of_users(connection, [*found.keys() | expected.keys()])
            orphans += [topics.entitlement(user_id) for user_id in found if user_id not in known]
            wrong = [
                found[user_id] for user_id, truth in known.items() if _is_wrong(found.get(user_id), truth)
            ]
            # What nobody has was published by a later past of this database, or forged: whoever still
            # remembers it must find everything we say from now on newer.
            strange = [document for user_id, document in found.items() if user_id not in known]
            ahead = [document.version for document in (*wrong, *strange) if document is not None]
            if ahead:
                await entitlements.begin_versions_above(connection, max(ahead))
            to_fix = {document.user_id for document in wrong if document is not None}
            to_fix |= {
                user_id
                for user_id, published in expected.items()
                if (document := found.get(user_id)) is None or document.version < published.version
            }
            held |= to_fix - await outbox.repeat(connection, list(to_fix))
        if to_fix:
            changed()
        for topic in orphans:
            try:
                await link.publish(topic, b"", retain=True)
            except PublishRefused as error:
                log.warning("an orphaned document stays on the broker: %s", error)
        fixed += len(to_fix)
        cleared += len(orphans)
        await asyncio.sleep(PACE)
    if fixed or cleared:
        log.warning("the broker had lost or altered %d documents and held %d orphaned ones", fixed, cleared)
    if held:
        raise Unfixed(f"a writer holds the rows of {len(held)} users")


def _says(payload: bytes, truth: Versioned) -> bool:
    """Say whether that is what we would publish now; only when it was issued may differ."""
    (said, _, _), (ours, _, _) = (
        each.rpartition(ISSUED_AT)
        for each in (payload, encode_document(truth.entitlement, truth.version, EPOCH))
    )
    return said == ours


def _is_wrong(found: EntitlementDocument | None, truth: Versioned) -> bool:
    """Say whether a retained document says what we never said."""
    if found is None or found.version < truth.version:
        return False
    return found != document(truth, found.issued_at)


def _document(payload: bytes, user_id: UUID) -> EntitlementDocument | None:
    """Read a retained document; one that cannot be read or is another's is none."""
    try:
        document = EntitlementDocument.decode(payload)
    except Malformed:
        return None
    return document if document.user_id == user_id and document.version <= GREATEST_VERSION else None
