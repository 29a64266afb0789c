"""Lease requests from the link to the database and back; what arrives during a commit shares the next one.

A request that cannot be answered now is dropped: its gate asks again with the same id.
"""

import asyncio
import logging

from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.lease_payloads import LeaseAnswer, LeaseRequest
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, Message, PublishRefused, SubscribeRefused
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.services.metering import check_reporter

log = logging.getLogger(__name__)

MOST_AT_ONCE = 200  # requests in one transaction
MOST_WAITING = 5000  # requests; those beyond come again
MOST_BYTES = 16 << 10  # of a request: a hundred leases are 8 KB


class LeaseSession:
    """The requests of one link that are not answered yet."""

    def __init__(self, leasing: Leasing, topics: Topics, link: Link, throttle: LogThrottle) -> None:
        self._leasing = leasing
        self._topics = topics
        self._link = link
        self._throttle = throttle
        self._waiting: asyncio.Queue[tuple[Message, str, LeaseRequest]] = asyncio.Queue(MOST_WAITING)

    def take(self, message: Message) -> bool:
        """Be given every message; returns whether it was a lease request, which is acknowledged here."""
        reporter = self._topics.leasing_reporter(message.topic)
        if reporter is None:
            return False
        try:
            check_reporter(reporter)
            if len(message.payload) > MOST_BYTES:
                raise Malformed(f"larger than {MOST_BYTES} bytes")
            self._waiting.put_nowait((message, reporter, LeaseRequest.decode(message.payload)))
        except Malformed as error:
            if self._throttle.allows("lease malformed"):
                log.warning("lease request of %r was malformed and ignored: %s", reporter, error)
            self._link.acknowledge(message)
        except asyncio.QueueFull:
            self._link.acknowledge(message)
        return True

    async def run(self) -> None:
        """Answer until the link is lost."""
        try:
            await self._link.subscribe([self._topics.leases_filter])
        except SubscribeRefused as error:
            self._refused(error)
            return
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and len(batch) < MOST_AT_ONCE:
                batch.append(self._waiting.get_nowait())
            answers: list[LeaseAnswer | None] = []
            try:
                answers = await self._leasing.answer([(name, one) for _, name, one in batch])
            except Unavailable as error:
                if self._throttle.allows("leases"):
                    log.warning("leases are not granted while the database is away: %s", error)
            for (_, reporter, _), answer in zip(batch, answers, strict=False):
                if answer is not None:
                    await self._publish(reporter, answer)
            for message, _, _ in batch:
                self._link.acknowledge(message)

    async def _publish(self, reporter: str, answer: LeaseAnswer) -> None:
        try:
            await self._link.publish(self._topics.lease_grant(reporter), answer.encode())
        except PublishRefused as error:
            self._refused(error)

    def _refused(self, error: PublishRefused | SubscribeRefused) -> None:
        if self._throttle.allows("leases refused"):
            log.error("no leases are granted: %s; fix the broker's ACL", error)
