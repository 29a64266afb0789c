"""Webhooks: who is told of which event, and how a delivery is sent.

The rule it keeps: what BTCPay Server promises and no more. One queue per webhook, in memory and in order;
a retry runs inline and holds back what follows; only 5xx, 408, 429 and no answer are retried.
"""

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import Any

import aiohttp

from kosmo_billing_daemon.btcpay.signature import HEADER, sign
from kosmo_billing_daemon.demo.btcpay.faults import WebhookFaults
from kosmo_billing_daemon.demo.btcpay.invoices import new_id
from kosmo_billing_daemon.demo.btcpay.sending import SendOutcome, send
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record

BTCPAY_RETRY_WAITS: tuple[float, ...] = (10, 60, 600, 600, 600, 600, 600, 600)
_REORDER_PATIENCE_SECONDS = 0.05  # long enough for the events of one payment, short enough for a test
KEPT_FOR = 0.1  # seconds that a connection without a delivery stays open


@record(kw_only=True)
class SimulatedWebhook:
    """One registration; ``specific_events`` has effect only without ``everything``."""

    id: str
    store_id: str
    url: str
    secret: str
    enabled: bool = True
    automatic_redelivery: bool = True
    everything: bool = True
    specific_events: tuple[str, ...] = ()

    def wants(self, event_type: str) -> bool:
        return self.enabled and (self.everything or event_type in self.specific_events)


@dataclass(slots=True, kw_only=True)
class SimulatedDelivery:
    """One delivery: its body, and the outcome once it was attempted."""

    id: str
    webhook_id: str
    created: datetime
    event: dict[str, Any]
    sent: datetime | None = None
    body: bytes = b""
    outcome: SendOutcome | None = None


_Queued = tuple[SimulatedWebhook, SimulatedDelivery]


@dataclass(slots=True)
class _Queue:
    """The queue of one webhook; ``idle`` is set while nothing waits and nothing is under way."""

    waiting: deque[_Queued] = field(default_factory=deque)
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    several: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Webhooks:
    """The registrations of all stores and the queue of each."""

    def __init__(
        self, *, clock: Clock, retry_waits: Sequence[float], user_agent: str, chance: Random
    ) -> None:
        self.registered: dict[str, SimulatedWebhook] = {}
        self.faults = WebhookFaults()
        self._deliveries: dict[str, dict[str, SimulatedDelivery]] = {}
        self._queues: dict[str, _Queue] = {}
        self._released = asyncio.Event()
        self._released.set()
        self._clock = clock
        self._retry_waits = tuple(retry_waits)
        self._user_agent = user_agent
        self._chance = chance
        self._session: aiohttp.ClientSession | None = None

    def add(self, store_id: str, url: str, secret: str = "", **settings: Any) -> SimulatedWebhook:
        """Register a webhook; an empty secret is replaced by a random one."""
        webhook = SimulatedWebhook(
            id=new_id(), store_id=store_id, url=url, secret=secret or new_id(), **settings
        )
        self.registered[webhook.id] = webhook
        self._deliveries[webhook.id] = {}
        return webhook

    def update(self, webhook: SimulatedWebhook, secret: str, **settings: Any) -> SimulatedWebhook:
        """Replace all settings; an empty secret keeps the present one."""
        changed = replace(webhook, secret=secret or webhook.secret, **settings)
        self.registered[webhook.id] = changed
        return changed

    def remove(self, webhook_id: str) -> None:
        del self.registered[webhook_id]
        del self._deliveries[webhook_id]

    def deliveries(self, webhook_id: str) -> list[SimulatedDelivery]:
        """Return the attempted deliveries of one webhook, newest first."""
        return list(reversed(self._deliveries.get(webhook_id, {}).values()))

    def delivery(self, webhook_id: str, delivery_id: str) -> SimulatedDelivery | None:
        return self._deliveries.get(webhook_id, {}).get(delivery_id)

    def set_faults(self, faults: WebhookFaults) -> None:
        self.faults = faults
        if faults.hold:
            self._released.clear()
        else:
            self._released.set()

    def publish(
        self, store_id: str, event_type: str, specific: dict[str, Any], common: dict[str, Any]
    ) -> None:
        """Queue one event for every webhook that wants it, in its own envelope."""
        for webhook in self.registered.values():
            if webhook.store_id == store_id and webhook.wants(event_type) and not self._dropped():
                self._enqueue(webhook, self._first_delivery(webhook, event_type, specific, common))

    def redeliver(self, delivery: SimulatedDelivery) -> str:
        """Queue an attempted delivery again and return the id of the new one."""
        again = self._redelivery(delivery)
        self._enqueue(self.registered[delivery.webhook_id], again)
        return again.id

    async def open(self) -> None:
        # The answer body is never read and cookies are never kept, as with the real server's client.
        # A connection that is kept longer would only make a daemon that stops wait for one more request.
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(keepalive_timeout=KEPT_FOR)
        )
        for queue in self._queues.values():
            self._start(queue)

    async def close(self) -> None:
        await self._stop_queues()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def lose_queued(self) -> None:
        """Forget every queued event and pending retry, as a restart of the server does."""
        await self._stop_queues()
        self._queues.clear()

    async def drained(self) -> None:
        """Wait until no event is queued or under way."""
        for queue in list(self._queues.values()):
            await queue.idle.wait()

    def _dropped(self) -> bool:
        return self.faults.drop > 0 and self._chance.random() < self.faults.drop

    def _first_delivery(
        self, webhook: SimulatedWebhook, event_type: str, specific: dict[str, Any], common: dict[str, Any]
    ) -> SimulatedDelivery:
        now = self._clock()
        delivery_id = new_id()
        envelope = {
            "deliveryId": delivery_id,
            "webhookId": webhook.id,
            "originalDeliveryId": delivery_id,
            "isRedelivery": False,
            "type": event_type,
            "timestamp": int(now.timestamp()),
        }
        event = {**specific, **envelope, **common}
        return SimulatedDelivery(id=delivery_id, webhook_id=webhook.id, created=now, event=event)

    def _redelivery(self, delivery: SimulatedDelivery) -> SimulatedDelivery:
        delivery_id = new_id()
        known = ("webhookId", "originalDeliveryId", "isRedelivery", "type", "timestamp")
        # A redelivery is read back without its specific type, so those fields move behind the envelope.
        envelope = {"deliveryId": delivery_id, **{name: delivery.event[name] for name in known}}
        event = {**envelope, **delivery.event, "deliveryId": delivery_id, "isRedelivery": True}
        return SimulatedDelivery(
            id=delivery_id, webhook_id=delivery.webhook_id, created=self._clock(), event=event
        )

    def _enqueue(self, webhook: SimulatedWebhook, delivery: SimulatedDelivery) -> None:
        queue = self._queues.setdefault(webhook.id, _Queue())
        queue.idle.clear()
        queue.waiting.append((webhook, delivery))
        queue.filled.set()
        if len(queue.waiting) > 1:
            queue.several.set()
        self._start(queue)

    def _start(self, queue: _Queue) -> None:
        if queue.task is None and self._session is not None:
            queue.task = asyncio.create_task(self._run(queue), name="btcpay-simulator-webhook")

    async def _stop_queues(self) -> None:
        tasks = [queue.task for queue in self._queues.values() if queue.task is not None]
        for queue in self._queues.values():
            queue.task = None
            queue.idle.set()
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome  # a queue never ends by itself, so this is a fault of the simulator

    async def _run(self, queue: _Queue) -> None:
        while True:
            await queue.filled.wait()
            await self._released.wait()
            for webhook, delivery in await self._next_batch(queue):
                await self._process(webhook, delivery)
            if not queue.waiting:
                queue.filled.clear()
                queue.idle.set()

    async def _next_batch(self, queue: _Queue) -> list[_Queued]:
        if not self.faults.reorder:
            return [queue.waiting.popleft()]
        with suppress(TimeoutError):
            async with asyncio.timeout(_REORDER_PATIENCE_SECONDS):
                await queue.several.wait()
        batch = list(reversed(queue.waiting))
        queue.waiting.clear()
        queue.several.clear()
        return batch

    async def _process(self, webhook: SimulatedWebhook, delivery: SimulatedDelivery) -> None:
        present = self.registered.get(webhook.id)
        event_type = delivery.event["type"]
        if present is None or not present.wants(event_type):
            return
        await self._attempt(webhook, delivery)
        if self.faults.duplicate:
            await self._attempt(webhook, delivery)
        if not webhook.automatic_redelivery:
            return
        for wait in self._retry_waits:
            if delivery.outcome is None or not delivery.outcome.is_retried:
                return
            await asyncio.sleep(wait)
            present = self.registered.get(webhook.id)
            if present is None or not present.automatic_redelivery or not present.wants(event_type):
                return
            delivery = self._redelivery(delivery)
            await self._attempt(present, delivery)

    async def _attempt(self, webhook: SimulatedWebhook, delivery: SimulatedDelivery) -> None:
        if self._session is None:
            return
        if self.faults.delay_ms:
            await asyncio.sleep(self.faults.delay_ms / 1000)
        delivery.body = json.dumps(delivery.event, indent=2, ensure_ascii=False).encode(errors="replace")
        delivery.sent = self._clock()
        headers = {
            "Content-Type": "application/json",
            HEADER: sign(delivery.body, webhook.secret.encode()),
            "User-Agent": self._user_agent,
        }
        delivery.outcome = await send(self._session, webhook.url, delivery.body, headers)
        if webhook.id in self._deliveries:
            self._deliveries[webhook.id][delivery.id] = delivery
