"""Usage reports from the link to the database and back: acknowledged after COMMIT, never before.

What arrives while a batch is being committed is read meanwhile and is the next batch. Everything not
acknowledged comes again after the connection, so when the database is away the connection is given up.

Reporters take turns, and what one of them may have waiting here is bounded: the rest of a flood is left with
the broker, and called for by a new connection once what is here of it was counted.
"""

import asyncio
import logging
from collections import Counter, deque
from dataclasses import replace

from kosmo_billing_daemon.contract.payloads import UsageAck
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, LinkLost, Message, PublishRefused, SubscribeRefused
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.runtime.rate_limit import Allowance
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.metering import MOST_BYTES, Metering, Report
from kosmo_billing_daemon.store.errors import RetryTransaction
from kosmo_billing_daemon.store.usage import Quarantined

log = logging.getLogger(__name__)

MOST_EVENTS = 10_000  # in one transaction: the best size measured; more only makes the answers wait
MOST_REPORTS = 500  # in one transaction, of one event each
# Bytes not acknowledged, in all and of one reporter; Mosquitto before 2.0.13 exceeds receive_maximum by far.
MOST_HELD, MOST_OF_ONE = 64 << 20, 32 << 20
MOST_ACK = 64 << 10  # bytes; brokers may refuse more
KEEP_PER_REPORTER = 60  # malformed reports kept per minute; the rest is only counted,
KEEP_IN_ALL = 600  # so that a flood of them costs little and holds up nobody
PARKED_EVERY = 3.0  # seconds between tries at reports that need rows which somebody else had locked
SUBSCRIBE_AGAIN = 60.0  # seconds after the broker refused the subscription


@record
class _Item:
    """A message and what was read from it."""

    message: Message
    content: Report | Quarantined

    @property
    def weight(self) -> int:
        return max(1, len(self.content.columns)) if isinstance(self.content, Report) else 1


class UsageIntake:
    """Takes usage over one link at a time; counters and limits outlive the connections."""

    def __init__(self, *, metering: Metering, topics: Topics) -> None:
        self.metering = metering
        self.topics = topics
        self.allowance = Allowance(KEEP_PER_REPORTER, KEEP_IN_ALL)
        self.throttle = LogThrottle()
        self.refusal: str | None = None


class UsageSession:
    """What came over one link and is not acknowledged yet."""

    def __init__(self, intake: UsageIntake, link: Link) -> None:
        self._intake = intake
        self._metering = intake.metering
        self._topics = intake.topics
        self._link = link
        self._arrived: dict[str, deque[Message]] = {}  # by reporter; the first of them is next
        self._read: deque[_Item] = deque()
        self._weight = 0  # events read and not taken for a transaction
        self._held: Counter[str] = Counter()  # bytes not acknowledged, by reporter
        self._held_in_all = 0
        self._left: set[str] = set()  # reporters of whom nothing more is taken over this link
        self._to_read = asyncio.Event()
        self._to_count = asyncio.Event()
        self._room = asyncio.Event()

    def take(self, message: Message) -> bool:
        """Be given every message; returns whether it was usage, which is acknowledged here."""
        reporter = self._topics.usage_reporter(message.topic)
        if reporter is None:
            return False
        size = _held_size(message)
        if (
            reporter in self._left
            or self._held[reporter] + size > MOST_OF_ONE
            or self._held_in_all + size > MOST_HELD
        ):
            self._leave(reporter)
            return True
        self._held[reporter] += size
        self._held_in_all += size
        self._arrived.setdefault(reporter, deque()).append(message)
        self._to_read.set()
        return True

    def _leave(self, reporter: str) -> None:
        """Leave a message, and all that follow of its reporter, to the next connection."""
        self._left.add(reporter)
        if self._intake.throttle.allows("flood"):
            log.warning("more usage of %r came than can be held; the rest is called for later", reporter)
        self._call_for_the_rest()

    def _call_for_the_rest(self) -> None:
        if not any(self._held[reporter] for reporter in self._left):
            self._link.drop("what is here was counted; the usage left with the broker is called for")

    def _next(self) -> Message:
        """Take the next message of the reporter whose turn it is."""
        reporter = next(iter(self._arrived))
        waiting = self._arrived.pop(reporter)
        message = waiting.popleft()
        if waiting:
            self._arrived[reporter] = waiting
        return message

    async def run(self) -> None:
        """Count usage until the link is lost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._subscribe())
            group.create_task(self._keep_reading())
            group.create_task(self._keep_counting(group))
            group.create_task(self._keep_counting_parked())

    async def _subscribe(self) -> None:
        """Ask for usage on every connection: a broker that lost its memory lost the session too."""
        while True:
            try:
                await self._link.subscribe([self._topics.usage_filter])
            except SubscribeRefused as error:
                self._intake.refusal = str(error)
                if self._intake.throttle.allows("subscribe"):
                    log.error("no usage is received: %s; fix the broker's ACL", error)  # noqa: TRY400
                await asyncio.sleep(SUBSCRIBE_AGAIN)
            else:
                self._intake.refusal = None
                return

    async def _keep_reading(self) -> None:
        while True:
            while not self._arrived:
                self._to_read.clear()
                await self._to_read.wait()
            while self._weight >= MOST_EVENTS:
                self._room.clear()
                await self._room.wait()
            message = self._next()
            item = _Item(message, self._metering.read(self._reporter(message), message.payload))
            if isinstance(item.content, Quarantined):
                self._note(item.content)
                if not self._intake.allowance.allows(item.content.reporter):
                    self._acknowledge(message)
                    await asyncio.sleep(0)
                    continue
            self._read.append(item)
            self._weight += item.weight
            self._to_count.set()
            await asyncio.sleep(0)  # one report is up to a millisecond of reading: let others in

    def _reporter(self, message: Message) -> str:
        return self._topics.usage_reporter(message.topic) or ""

    def _note(self, report: Quarantined) -> None:
        if self._intake.throttle.allows("malformed"):
            why = "too much; see kosmo-billing usage cases" if report.is_too_much else report.reason
            log.warning("a usage report of %r was quarantined: %s", report.reporter, why)

    async def _keep_counting(self, group: asyncio.TaskGroup) -> None:
        backoff = Backoff(0.05, 2.0)
        while True:
            while not self._read:
                self._to_count.clear()
                await self._to_count.wait()
            batch = self._next_batch()
            while True:
                try:
                    await self._count(batch, group)
                except RetryTransaction as error:
                    log.info("usage is counted again: %s", error)
                    await asyncio.sleep(backoff.failed())
                except Unavailable as error:
                    if isinstance(error, LinkLost):
                        raise
                    if self._intake.throttle.allows("database"):
                        log.warning("usage waits at the broker for the database: %s", error)
                    self._link.drop("the database is away, so usage stays with the broker")
                    raise await self._link.wait_lost() from error
                else:
                    backoff.succeeded()
                    break

    async def _keep_counting_parked(self) -> None:
        """Count what had to wait for somebody else's lock, and answer it."""
        after = 0
        while True:
            if not after:
                await asyncio.sleep(PARKED_EVERY)
            try:
                answers, after = await self._metering.count_parked(after)
            except Unavailable as error:
                log.debug("parked usage waits for the database: %s", error)
                after = 0
                continue
            for reporter, answer in answers:
                await self._publish_ack(reporter, answer)

    def _next_batch(self) -> list[_Item]:
        batch: list[_Item] = []
        events = 0
        while self._read and len(batch) < MOST_REPORTS and events < MOST_EVENTS:
            item = self._read.popleft()
            events += item.weight
            batch.append(item)
        self._weight -= events
        self._room.set()
        return batch

    async def _count(self, batch: list[_Item], group: asyncio.TaskGroup) -> None:
        reports = [(item.message, item.content) for item in batch if isinstance(item.content, Report)]
        quarantined = [item.content for item in batch if isinstance(item.content, Quarantined)]
        answers = await self._metering.count([report for _, report in reports], quarantined)
        for item in batch:
            if isinstance(item.content, Quarantined):
                self._acknowledge(item.message)
        for (message, report), answer in zip(reports, answers, strict=True):
            group.create_task(self._answer(message, report.reporter, answer))

    async def _answer(self, message: Message, reporter: str, answer: UsageAck | None) -> None:
        """Tell the reporter, then the broker; a broker that forbids the former still gets the latter."""
        if answer is not None:
            await self._publish_ack(reporter, answer)
        self._acknowledge(message)

    async def _publish_ack(self, reporter: str, answer: UsageAck) -> None:
        try:
            await self._link.publish(self._topics.usage_ack(reporter), encoded(answer))
        except PublishRefused as error:
            if self._intake.throttle.allows("ack"):
                log.error("usage-ack was refused: %s; fix the broker's ACL", error)  # noqa: TRY400

    def _acknowledge(self, message: Message) -> None:
        self._link.acknowledge(message)
        reporter, size = self._reporter(message), _held_size(message)
        self._held[reporter] -= size
        self._held_in_all -= size
        if self._left and not self._held[reporter]:
            self._call_for_the_rest()


def _held_size(message: Message) -> int:
    """Count what may have to wait; a message too large for a report is put aside unread, so it never does.

    If it counted, it could be more than is ever held, and would come first over every connection.
    """
    return 0 if len(message.payload) > MOST_BYTES else len(message.payload)


def encoded(answer: UsageAck) -> bytes:
    """Encode an answer, with fewer of its rejections named where the packet would become too large."""
    payload = answer.encode()
    named = answer.rejected
    while len(payload) > MOST_ACK:
        named = named[: len(named) // 2]
        payload = replace(answer, rejected=named).encode()
    return payload
