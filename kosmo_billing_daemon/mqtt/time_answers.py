"""What time it is, for gates and bridges that ask: the answer to a nonce cannot be older than the question.

Requests come with QoS 0, so none waits at the broker for a daemon that is away: a late answer is worthless
to who asked, and asked again long before. For the same reason a request beyond the limits is dropped.
"""

import asyncio
import logging

from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH, Malformed
from kosmo_billing_daemon.contract.payloads import TimeAnswer, TimeRequest
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Link, Message, PublishRefused, SubscribeRefused
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.rate_limit import Allowance

log = logging.getLogger(__name__)

PER_NAME = 10  # answers a minute: a gate asks five times in its first minute at most, then every ten minutes
IN_ALL = 6000  # answers a minute, 2 % of a core: so many gates may come back at once
MOST_WAITING = 1000  # requests; the sender has given up those behind them


class TimeAnswers:
    """Answers over one link at a time; the limits outlive the connections."""

    def __init__(self, topics: Topics, clock: Clock) -> None:
        self._topics = topics
        self._clock = clock
        self._allowance = Allowance(PER_NAME, IN_ALL)
        self._waiting: asyncio.Queue[tuple[str, str]] = asyncio.Queue(MOST_WAITING)  # name, nonce
        self._throttle = LogThrottle()

    def take(self, message: Message) -> bool:
        """Be given every message; returns whether it was a time request."""
        name = self._topics.time_requester(message.topic)
        if name is None:
            return False
        if not message.retain and len(name) <= MAX_ID_LENGTH and self._allowance.allows(name):
            try:
                request = TimeRequest.decode(message.payload)
            except Malformed as error:
                log.debug("time request was malformed and ignored: name=%r error=%s", name, error)
                return True
            if self._waiting.full():
                self._waiting.get_nowait()
            self._waiting.put_nowait((name, request.nonce))
        return True

    async def run(self, link: Link) -> None:
        """Answer until the link is lost."""
        try:
            await link.subscribe([self._topics.time_requests_filter], qos=0)
        except SubscribeRefused as error:
            self._refused(error)
            return
        while True:
            name, nonce = await self._waiting.get()
            try:
                answer = TimeAnswer(nonce, self._clock())
                await link.publish(self._topics.time_answer(name), answer.encode())
            except PublishRefused as error:
                self._refused(error)

    def _refused(self, error: PublishRefused | SubscribeRefused) -> None:
        if self._throttle.allows("refused"):
            log.error("time requests are not answered: %s; fix the broker's ACL", error)
