"""A subscriber that watches everything the daemon says, over every outage of the broker."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, ConnectRefused, LinkLost, Message, connect
from tests.support.mosquitto import Mosquitto

TOPICS = Topics()


class Observer:
    """Keeps every message in order of arrival; ``versions`` are those seen of each user, replays included.

    ``unreserved`` are live documents above the ceiling of every watermark that was seen before.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.versions: dict[UUID, list[int]] = defaultdict(list)
        self.documents: dict[UUID, dict[str, Any]] = {}
        self.unreserved: list[dict[str, Any]] = []
        self._ceiling = 0
        self.arrived = asyncio.Event()
        self.is_connected = asyncio.Event()

    async def run(self, broker: Broker) -> None:
        """Watch until cancelled."""
        while True:
            with contextlib.suppress(LinkLost, ConnectRefused):
                async with connect(broker) as link:
                    await link.subscribe([f"{TOPICS.prefix}/#"])
                    self.is_connected.set()
                    while True:
                        for message in await link.receive():
                            link.acknowledge(message)
                            self._take(message)
            self.is_connected.clear()
            await asyncio.sleep(0.05)

    def events(self, user_id: UUID | None = None) -> list[str]:
        """The types of the events about a user, in order."""
        return [event["type"] for event in self.cloud_events(user_id)]

    def cloud_events(self, user_id: UUID | None = None) -> list[dict[str, Any]]:
        """The CloudEvents about a user, in order."""
        found = [json.loads(m.payload) for m in self.messages if m.topic.startswith(TOPICS.event(""))]
        return [event for event in found if user_id is None or event.get("subject") == str(user_id)]

    def states(self) -> list[str]:
        """What ``status`` said, in order."""
        return [json.loads(m.payload)["state"] for m in self.messages if m.topic == TOPICS.status]

    def last(self, topic: str) -> dict[str, Any] | None:
        """The last document under a topic."""
        payload = next((m.payload for m in reversed(self.messages) if m.topic == topic), b"")
        return json.loads(payload) if payload else None

    @property
    def watermark(self) -> dict[str, Any]:
        return self.last(TOPICS.watermark) or {"sequence": 0, "entitlements": 0}

    def assert_never_back(self) -> None:
        for user_id, versions in self.versions.items():
            assert versions == sorted(versions), f"{user_id} went back: {versions}"
        assert not self.unreserved, f"published before the watermark reserved it: {self.unreserved}"

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        if message.topic == TOPICS.watermark:
            with contextlib.suppress(ValueError):
                self._ceiling = max(self._ceiling, json.loads(message.payload).get("version_ceiling", 0))
        user_id = TOPICS.entitlement_user(message.topic)
        if user_id is not None and message.payload:
            with contextlib.suppress(ValueError):  # what a test wrote there by hand
                document = json.loads(message.payload)
                self.documents[user_id] = document
                self.versions[user_id].append(document["version"])
                if not message.retain and document["version"] > self._ceiling > 0:
                    self.unreserved.append(document)
        self.arrived.set()


@contextlib.asynccontextmanager
async def observing(mosquitto: Mosquitto, **identity: Any) -> AsyncIterator[Observer]:
    """An observer that is connected."""
    observer = Observer()
    broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="observer", clean=True, **identity)
    task = asyncio.create_task(observer.run(broker))
    try:
        async with asyncio.timeout(10):
            await observer.is_connected.wait()
        yield observer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def retained(mosquitto: Mosquitto, topic_filter: str, **identity: Any) -> dict[str, dict[str, Any]]:
    """What a subscriber that comes now is given, ended by a message of its own."""
    broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="late", clean=True, **identity)
    async with connect(broker) as link, asyncio.timeout(10):
        await link.subscribe([topic_filter, "end-of-replay"])
        await link.publish("end-of-replay", b"")
        found: dict[str, dict[str, Any]] = {}
        while True:
            for message in await link.receive():
                if message.topic == "end-of-replay":
                    return found
                link.acknowledge(message)
                found[message.topic] = _read(message.payload)


def _read(payload: bytes) -> dict[str, Any]:
    """What a test damaged on purpose is nothing that anybody said."""
    try:
        told: dict[str, Any] = json.loads(payload)
    except ValueError:
        return {}
    return told
