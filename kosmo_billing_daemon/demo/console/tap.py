"""What crosses MQTT, kept for a while and told to every open page.

The rule it keeps: a page that reads slowly, or came late, costs nothing; it misses what is older than the
newest ``KEPT`` messages.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from typing import Any

from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, ConnectRefused, LinkLost, Message, connect
from kosmo_billing_daemon.runtime.backoff import Backoff
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.runtime.records import record

log = logging.getLogger(__name__)

KEPT = 200
MOST_WORDS = 4000  # characters of what is not JSON


@record
class Passed:
    """One message as the page shows it; ``topic`` is without the prefix."""

    number: int
    at: datetime
    topic: str
    retained: bool
    payload: Any

    def encode(self) -> str:
        """Write JSON; lone surrogates, which JSON may spell and UTF-8 may not, stay spelled."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(told, default=datetime.isoformat)


class Tap:
    """A subscriber to everything below the prefix, over every outage of the broker, while ``run`` runs."""

    def __init__(self, broker: Broker, topics: Topics) -> None:
        self.connected = False
        # What the next message sets, or the broker that comes or goes; take it before looking.
        self.changed = asyncio.Event()
        self._broker, self._topics = broker, topics
        self._kept: deque[Passed] = deque(maxlen=KEPT)
        self._number = 0

    async def run(self) -> None:
        backoff = Backoff(0.2, 2.0)
        while True:
            try:
                await self._listen(backoff)
            except (LinkLost, ConnectRefused) as error:
                if backoff.failures == 0:
                    log.info("the console's tap lost the broker: %s", error)
            finally:
                self._say(connected=False)
            await asyncio.sleep(backoff.failed())

    def after(self, number: int) -> Iterator[Passed]:
        """Give what is kept and newer; all of it to who counts further than we do, as after a restart."""
        begin = number if number <= self._number else 0
        return iter([passed for passed in self._kept if passed.number > begin])

    async def _listen(self, backoff: Backoff) -> None:
        async with connect(self._broker) as link:
            await link.subscribe([f"{self._topics.prefix}/#"])
            backoff.succeeded()
            self._say(connected=True)
            while True:
                for message in await link.receive():
                    link.acknowledge(message)
                    self._keep(message)
                self._wake()

    def _keep(self, message: Message) -> None:
        self._number += 1
        topic = message.topic.removeprefix(f"{self._topics.prefix}/")
        payload = _payload(message.payload)
        self._kept.append(Passed(self._number, utc_now(), topic, message.retain, payload))

    def _say(self, *, connected: bool) -> None:
        self.connected = connected
        self._wake()

    def _wake(self) -> None:
        """Let everybody who waits now go on, and whoever waits later wait for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()


def _payload(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload[:MOST_WORDS].decode("utf-8", "backslashreplace")
