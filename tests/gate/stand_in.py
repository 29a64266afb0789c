"""The other end of the gate's contract: documents published, usage counted once, over the real link."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from kosmo_billing_daemon.contract.payloads import (
    EntitlementDocument,
    QuotaState,
    Rejection,
    Scope,
    Standing,
    StatusDocument,
    TimeAnswer,
    TimeRequest,
    UsageAck,
    UsageReport,
    Watermark,
)
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker, Link, connect
from kosmo_billing_daemon.runtime.clock import Clock, utc_now
from tests.support.mosquitto import Mosquitto
from tests.support.usage_reports import read_report

TOPICS = Topics()
NODE = "!a1b2c3d4"
ISSUED = datetime(2026, 3, 1, 12, tzinfo=UTC)


def document(user_id: UUID | None = None, **changes: Any) -> EntitlementDocument:
    """A wanderer's entitlement, valid for 30 days from now."""
    now = datetime.now(UTC)
    whole = EntitlementDocument(
        version=1,
        user_id=user_id or uuid4(),
        plan_type="wanderer",
        status=Standing.ACTIVE,
        scope=Scope.ANY_NODE,
        allowed_nodes=(),
        features=(),
        messages_limit=50,
        messages_used=0,
        quota_state=QuotaState.OK,
        subscription_id=uuid4(),
        valid_from=now - timedelta(minutes=1),
        valid_until=now + timedelta(days=30),
        grace_until=None,
        issued_at=now,
    )
    return replace(whole, **changes)


def at(mosquitto: Mosquitto, client_id: str = "gateway-1") -> Broker:
    return Broker(host=mosquitto.host, port=mosquitto.port, client_id=client_id)


def gate(mosquitto: Mosquitto, state: Path, **settings: Any) -> Gate:
    """A gateway's gate, quick to send again."""
    return Gate(at(mosquitto), state, **{"reporter": "gateway-1", "ack_timeout": 2.0, **settings})


@dataclass
class Ledger:
    """What survives the daemon's end: its database."""

    documents: dict[UUID, EntitlementDocument] = field(default_factory=dict)
    counted: dict[tuple[UUID, str], int] = field(default_factory=dict)
    sent_at: dict[str, datetime] = field(default_factory=dict)
    reports: int = 0

    def used(self, user_id: UUID) -> int:
        return sum(count for (user, _), count in self.counted.items() if user == user_id)


class Daemon:
    """Publishes documents and counts, acknowledges and republishes usage as the real one does.

    Without ``clock`` it is an older one, which tells nobody what time it is.
    """

    def __init__(self, link: Link, ledger: Ledger) -> None:
        self.link = link
        self.ledger = ledger
        self.acknowledging = True
        self.publishing = True
        self.refusing: set[str] = set()
        self.clock: Clock | None = utc_now

    async def publish(self, entitlement: EntitlementDocument) -> None:
        self.ledger.documents[entitlement.user_id] = entitlement
        topic = TOPICS.entitlement(entitlement.user_id)
        await self.link.publish(topic, entitlement.encode(), retain=True)

    async def publish_all(self, entitlements: Iterable[EntitlementDocument]) -> None:
        sending = []
        for entitlement in entitlements:
            self.ledger.documents[entitlement.user_id] = entitlement
            topic = TOPICS.entitlement(entitlement.user_id)
            sending.append(self.link.send(topic, entitlement.encode(), retain=True))
            if len(sending) == 50:
                await asyncio.gather(*sending)
                sending.clear()
        await asyncio.gather(*sending)
        await self.watermark()

    async def change(self, user_id: UUID, **changes: Any) -> None:
        before = self.ledger.documents[user_id]
        issued_at = changes.pop("issued_at", datetime.now(UTC))
        await self.publish(replace(before, version=before.version + 1, issued_at=issued_at, **changes))

    async def watermark(self, **changes: Any) -> None:
        mark = Watermark(
            sequence=1, entitlements=len(self.ledger.documents), version_ceiling=1_000_000, database="one"
        )
        await self.link.publish(TOPICS.watermark, replace(mark, **changes).encode(), retain=True)

    async def status(self, state: str) -> None:
        said = StatusDocument(state=state, instance="one", version="1", since=datetime.now(UTC))
        await self.link.publish(TOPICS.status, said.encode(), retain=True)

    async def run(self) -> None:
        await self.link.subscribe([TOPICS.usage_filter])
        await self.link.subscribe([TOPICS.time_requests_filter], qos=0)
        while True:
            for message in await self.link.receive():
                if (name := TOPICS.time_requester(message.topic)) is not None:
                    await self._tell_the_time(name, TimeRequest.decode(message.payload))
                    continue
                reporter = TOPICS.usage_reporter(message.topic)
                assert reporter is not None
                await self._count(reporter, read_report(message.payload)[0])
                self.link.acknowledge(message)

    async def _tell_the_time(self, name: str, request: TimeRequest) -> None:
        if self.clock is not None:
            answer = TimeAnswer(request.nonce, self.clock()).encode()
            await self.link.publish(TOPICS.time_answer(name), answer)

    async def _count(self, reporter: str, report: UsageReport) -> None:
        self.ledger.reports += 1
        accepted = duplicates = 0
        rejected = []
        for event in report.events:
            key = (event.user_id, event.message_id)
            if event.message_id in self.refusing:
                rejected.append(Rejection(event.message_id, "too old"))
            elif key in self.ledger.counted:
                duplicates += 1
            else:
                self.ledger.counted[key] = event.count
                self.ledger.sent_at[event.message_id] = event.sent_at
                accepted += 1
        if self.acknowledging:
            ack = UsageAck(
                report_id=report.report_id,
                accepted=accepted,
                duplicates=duplicates,
                rejected=tuple(rejected),
                at=None if self.clock is None else self.clock(),
            )
            await self.link.publish(TOPICS.usage_ack(reporter), ack.encode())
        if self.publishing:
            await self.publish_usage()

    async def publish_usage(self) -> None:
        for user_id, held in list(self.ledger.documents.items()):
            used = self.ledger.used(user_id)
            if used != held.messages_used:
                await self.change(user_id, messages_used=used)


@asynccontextmanager
async def daemon(
    mosquitto: Mosquitto, ledger: Ledger | None = None, clock: Clock | None = utc_now
) -> AsyncIterator[Daemon]:
    """A running stand-in; leaving it is its end without a word, its session stays."""
    broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="daemon")
    async with connect(broker) as link:
        one = Daemon(link, ledger or Ledger())
        one.clock = clock
        running = asyncio.create_task(one.run())
        try:
            await one.status("online")
            await one.watermark()
            yield one
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled() or running.exception() is not None
