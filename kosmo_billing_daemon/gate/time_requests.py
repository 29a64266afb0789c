"""Asking the daemon what time it is: at the beginning of every connection, when a daemon comes online, and
now and then. The answer to a nonce that nobody ever used is younger than the question, whatever brokers and
bridges repeat.

An older daemon does not answer, and an older ACL does not let us ask; then the gate goes on as it did before.
"""

import asyncio
import logging
from contextlib import suppress
from uuid import uuid4

from kosmo_billing_daemon.contract.payloads import TimeAnswer, TimeRequest
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.gate.timekeeping import Timekeeper
from kosmo_billing_daemon.link import Link, PublishRefused, SubscribeRefused
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)

FIRST_PAUSE = 5.0  # seconds until a request that nobody answered is repeated; doubled each time
EVERY = 600.0  # seconds between answers: a clock that a daemon with a wrong clock set wrong is right by then
REFUSED_PAUSE = 60.0  # after a request that the broker's rights forbid
MOST_CUT_OFF = 3  # connections lost while asking; some brokers cut off who publishes what is forbidden
MOST_UNANSWERED = 2  # requests in a row until it is a problem


class TimeRequests:
    """Asks as ``name``, the MQTT user name; one per gate, one ``run`` per connection."""

    def __init__(self, timekeeper: Timekeeper, topics: Topics, name: str) -> None:
        self.answers = topics.time_answer(name)
        self._requests = topics.time_request(name)
        self._time = timekeeper
        self._asked: dict[str, float] = {}  # nonces without an answer, and when they were sent
        self._unanswered = 0
        self._refusal: str | None = None
        self._cut_off = 0
        self._wake = asyncio.Event()
        self._throttle = LogThrottle()

    def ask_again(self) -> None:
        """Ask at once: a daemon came online."""
        self._wake.set()

    def receive(self, answer: TimeAnswer) -> None:
        """Apply an answer; one to a question nobody asked on this connection proves nothing."""
        asked = self._asked.get(answer.nonce)
        if asked is not None:
            self._time.prove(answer.at.timestamp(), asked)
            self._asked.clear()
            self._wake.set()

    async def run(self, link: Link) -> None:
        """Ask until the link is lost."""
        self._asked.clear()
        self._unanswered = 0
        self._wake.clear()
        if self._cut_off >= MOST_CUT_OFF:
            await asyncio.sleep(EVERY)
        self._cut_off += 1
        pause = FIRST_PAUSE
        while True:
            try:
                await link.subscribe([self.answers])
                await self._ask(link)
            except (PublishRefused, SubscribeRefused) as error:
                self._refused(error)
                await self._sleep(REFUSED_PAUSE)
                continue
            self._cut_off = 0
            self._refusal = None
            await self._sleep(pause)
            if self._asked:
                self._unanswered += 1
                pause = min(2 * pause, EVERY)
            else:
                self._unanswered = 0
                pause = FIRST_PAUSE
                await self._sleep(EVERY)

    def problem(self) -> str | None:
        """Say why the daemon does not tell the time, while it is online and its usage-acks do not either."""
        since = self._time.proven_since
        if since is not None and self._time.elapsed() - since <= 2 * EVERY:
            return None
        if self._refusal is not None:
            return f"the daemon cannot be asked for the time: {self._refusal}"
        if self._unanswered >= MOST_UNANSWERED:
            return (
                f"the daemon does not say what time it is: it is older than this gate, or the broker's ACL"
                f" has no lines for {self._requests} and {self.answers}"
            )
        return None

    async def _ask(self, link: Link) -> None:
        nonce = uuid4().hex
        self._asked[nonce] = self._time.elapsed()
        while len(self._asked) > MOST_UNANSWERED:
            del self._asked[next(iter(self._asked))]
        await link.publish(self._requests, TimeRequest(nonce).encode())

    async def _sleep(self, seconds: float) -> None:
        """Sleep until then, an answer, or a reason to ask again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _refused(self, error: PublishRefused | SubscribeRefused) -> None:
        self._refusal = str(error)
        self._asked.clear()
        if self._throttle.allows("refused"):
            log.warning("the daemon cannot be asked for the time: error=%s", error)
