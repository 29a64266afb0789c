"""The broker as an operator should know it: every right the daemon needs, proven by a real publication.

A broker grants subscriptions that it then does not serve, so only what comes back proves that we may read.
A broker with ``use_username_as_clientid`` gives every connection of one account the same session, so a
second one as the daemon would cut it off. Therefore beside a leading daemon its own publications are the
proof; without one we connect exactly as it would, keeping its session and what is queued there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import UUID, uuid4

from kosmo_billing_daemon.admin.checks import Finding
from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.contract.encoding import Malformed, dumps
from kosmo_billing_daemon.contract.lease_payloads import LeaseAnswer, LeaseRequest
from kosmo_billing_daemon.contract.payloads import StatusDocument, TimeAnswer, UsageAck
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import (
    Broker,
    Link,
    LinkLost,
    Protocol,
    PublishRefused,
    SubscribeRefused,
    connect,
)
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import inspection
from kosmo_billing_daemon.store.postgres import Pool

PART = "broker"
NOBODY = UUID(int=0)  # whose document the daemon is asked to publish; it allows nothing
NEVER = UUID(int=2**128 - 1)  # a user who never has a document
PROBE = "check"
REPORTER = f"kosmo-billing-{PROBE}"
READ_WITHIN = 3.0
RETAINED_WITHIN = 1.0
PUBLISHED_WITHIN = 8.0
ACKED_WITHIN = 5.0
FIX_ACL = "fix the daemon's lines in the broker's acl_file (see config/mosquitto/acl) and reload it"
FIX_GATEWAY = "fix this gateway's lines in the broker's acl_file (see config/mosquitto/acl) and reload it"
_UNREADABLE = "with MQTT 3.1.1 a broker does not say that it refuses a publication"


@record
class Right:
    """One right the daemon needs: to write ``topic``, and with ``is_read`` to read it back."""

    topic: str
    payload: bytes
    retain: bool = False
    is_read: bool = False


def rights(topics: Topics, clock: Clock, version: str, watermark: bytes) -> list[Right]:
    """Return what the daemon must be allowed to do, but for reading usage, which only a gateway can prove.

    Nothing that anybody relies on changes: the documents are of a user who has none, the watermark is the
    one that is retained, and not retained anew.
    """
    event = cloud_event(event_id=PROBE, event_type=PROBE, subject=str(NEVER), time=clock(), data={})
    lease = LeaseAnswer(request_id=PROBE, user_id=NEVER, at=clock())
    ack = UsageAck(report_id=PROBE, accepted=0, duplicates=0).encode()
    status = StatusDocument(state="offline", instance=PROBE, version=version, since=clock()).encode()
    return [
        Right(topics.status, status, retain=True, is_read=True),
        # An empty retained payload clears what is not there.
        Right(topics.entitlement(NEVER), b"", retain=True, is_read=True),
        Right(topics.watermark, watermark, is_read=True),
        Right(topics.event(PROBE), event),
        Right(topics.usage_ack(REPORTER), ack),
        Right(topics.time_answer(REPORTER), TimeAnswer(PROBE, clock()).encode()),
        Right(topics.lease_grant(REPORTER), lease.encode()),
    ]


async def inspect_as_daemon(
    broker: Broker, topics: Topics, clock: Clock, version: str, gateway: Broker | None
) -> AsyncIterator[Finding]:
    """Connect as the daemon and use each of its rights; with ``gateway`` also that to read reports."""
    try:
        async with connect(broker) as link:
            yield Finding(PART, True, f"connected to {broker.host} port {broker.port} as {_account(broker)}")
            watermark = await _retained(link, topics.watermark, RETAINED_WITHIN)
            for right in rights(topics, clock, version, watermark or b""):
                async for finding in _used(link, right):
                    yield finding
            if gateway is not None:
                yield await _reports_arrive(link, gateway, topics)
            if broker.protocol is Protocol.V311:
                yield Finding(PART, None, _UNREADABLE, "use MQTT_PROTOCOL=5 where the broker knows it")
    except Unavailable as error:
        yield _not_connected(error, broker)


async def inspect_beside_daemon(pool: Pool, clock: Clock) -> Finding:
    """Have the leading daemon publish a document of nobody and an event, and wait for the broker's acks.

    What is refused stays in the outbox: the daemon's own health names it until the broker takes it.
    """
    waiting = ["document", "event"]
    try:
        async with pool.connection() as connection:
            event = await inspection.append_probe(connection, NOBODY, PROBE, clock())
        async with asyncio.timeout(PUBLISHED_WITHIN):
            while True:
                waiting = await pool.read(inspection.load_waiting_probes, NOBODY, event)
                if not waiting:
                    return Finding(PART, True, "the running daemon publishes, and the broker acknowledges")
                await asyncio.sleep(0.1)
    except TimeoutError:
        fact = f"the running daemon got no {' and no '.join(waiting)} published in {PUBLISHED_WITHIN:.0f} s"
        advice = f"if nothing else is wrong with the daemon, {FIX_ACL}; see also: journalctl -u kosmo-billing"
        return Finding(PART, False, fact, advice)
    except Unavailable as error:
        fact = f"whether the running daemon publishes was not seen: {error.message}"
        return Finding(PART, False, fact, "first fix what is said of the database")


async def inspect_as_gateway(broker: Broker, topics: Topics, *, leads: bool) -> AsyncIterator[Finding]:
    """Make sure that a gateway's account can do what a gateway does, and nothing that only the daemon may.

    With ``leads`` a report of one event without a valid user is sent: it is answered, and counts nothing.
    """
    account = _account(broker)
    try:
        async with connect(broker) as link:
            if broker.protocol is Protocol.V311:
                yield Finding(PART, None, _UNREADABLE, "the gateway's rights were not checked")
            else:
                yield await _forges_nothing(link, topics, account)
            if not leads:
                return
            for topic in (topics.status, topics.watermark, topics.entitlement(NOBODY)):
                if await _retained(link, topic, READ_WITHIN) is None:
                    yield Finding(
                        PART, False, f"{account} does not get what is retained in {topic}", FIX_GATEWAY
                    )
                else:
                    yield Finding(PART, True, f"{account} may read {topic}")
            yield await _report_is_acked(link, topics, broker)
            yield await _lease_is_answered(link, topics, broker)
    except Unavailable as error:
        yield _not_connected(error, broker)


async def _forges_nothing(link: Link, topics: Topics, account: str) -> Finding:
    forbidden = (
        topics.entitlement(NEVER),
        topics.status,
        topics.watermark,
        topics.event(PROBE),
        topics.usage_ack(REPORTER),
        topics.usage(REPORTER),
        topics.time_answer(REPORTER),
        topics.lease(REPORTER),
        topics.lease_grant(REPORTER),
    )
    allowed = [topic for topic in forbidden if not await _is_refused(link, topic)]
    if not allowed:
        return Finding(PART, True, f"{account} cannot write what only the daemon may")
    fact = f"{account} may write {', '.join(allowed)}: it could forge rights"
    return Finding(PART, False, fact, "take these rights from the gateways' account in the broker's acl_file")


def _report(report_id: str) -> bytes:
    return dumps({"report_id": report_id, "events": [{"message_id": report_id, "user_id": "nobody"}]})


async def _report_is_acked(link: Link, topics: Topics, broker: Broker) -> Finding:
    """Send a report as this gateway; its ack proves two rights of the gateway and two of the daemon."""
    reporter, report_id = _account(broker), f"{PROBE}-{uuid4()}"
    usage, acks = topics.usage(reporter), topics.usage_ack(reporter)
    try:
        await _await_answer(
            link, usage, _report(report_id), acks, lambda ack: UsageAck.decode(ack).report_id == report_id
        )
        return Finding(PART, True, f"a report of {reporter} is acknowledged by the daemon")
    except PublishRefused as error:
        return Finding(PART, False, f"{reporter} may not write {error.topic}: {error.reason}", FIX_GATEWAY)
    except SubscribeRefused as error:
        return Finding(PART, False, f"{reporter} may not read {acks}: {error.reason}", FIX_GATEWAY)
    except TimeoutError:
        fact = f"a report of {reporter} got no ack within {ACKED_WITHIN:.0f} s"
        advice = (
            f"in the broker's acl_file the daemon must be allowed to read {topics.usage_filter} and to write"
            f" {topics.usage_ack('+')}, the gateway to write {usage} and to read {acks}"
        )
        return Finding(PART, False, fact, advice)


async def _lease_is_answered(link: Link, topics: Topics, broker: Broker) -> Finding:
    """Ask for no message of nobody; only strict gates need the answer, so its lack is only a warning."""
    reporter, request_id = _account(broker), f"{PROBE}-{uuid4()}"
    ask, grants = topics.lease(reporter), topics.lease_grant(reporter)
    asked = LeaseRequest(request_id=request_id, user_id=NEVER, want=0).encode()
    try:
        await _await_answer(
            link, ask, asked, grants, lambda answer: LeaseAnswer.decode(answer).request_id == request_id
        )
        return Finding(PART, True, f"{reporter} is answered when it asks for a lease")
    except (PublishRefused, SubscribeRefused, TimeoutError) as error:
        fact = f"{reporter} gets no lease, which only strict gates need: {str(error) or 'no answer came'}"
        advice = (
            f"in the broker's acl_file the daemon must be allowed to read {topics.leases_filter} and to write"
            f" {topics.lease_grant('+')}, the gateway to write {ask} and to read {grants}"
        )
        return Finding(PART, None, fact, advice)


async def _await_answer(
    link: Link, ask: str, asked: bytes, answers: str, is_ours: Callable[[bytes], bool]
) -> None:
    """Ask the daemon, and wait for the answer that is ours; raises ``TimeoutError``, and what is refused."""
    await link.subscribe([answers], qos=0)
    await link.publish(ask, asked)
    async with asyncio.timeout(ACKED_WITHIN):
        while True:
            for message in await link.receive():
                with contextlib.suppress(Malformed):
                    if is_ours(message.payload):
                        return


async def _reports_arrive(link: Link, gateway: Broker, topics: Topics) -> Finding:
    """Send a report as this gateway and see it arrive in the daemon's session, which keeps it."""
    reporter = _account(gateway)
    try:
        await link.subscribe([topics.usage_filter])  # as the daemon does; its session keeps it
        async with connect(gateway) as other:
            await other.publish(topics.usage(reporter), _report(f"{PROBE}-{uuid4()}"))
        async with asyncio.timeout(READ_WITHIN):
            while not any(topics.usage_reporter(message.topic) for message in await link.receive()):
                pass
    except PublishRefused as error:
        return Finding(PART, False, f"{reporter} may not write {error.topic}: {error.reason}", FIX_GATEWAY)
    except SubscribeRefused as error:
        return Finding(PART, False, f"may not read {topics.usage_filter}: {error.reason}", FIX_ACL)
    except TimeoutError:
        return Finding(
            PART,
            False,
            f"a report of {reporter} does not arrive: may we read {topics.usage_filter}?",
            FIX_ACL,
        )
    return Finding(PART, True, f"may read {topics.usage_filter}")


def as_account(broker: Broker, username: str, password: str | None) -> Broker:
    """Return the same broker for another account, under a client id of its own."""
    return replace(broker, username=username, password=password, client_id=f"{username}-{PROBE}")


async def _used(link: Link, right: Right) -> AsyncIterator[Finding]:
    """Use a right. With QoS 0, since queued reports may fill what the broker may send us unacknowledged."""
    if not right.is_read:
        yield await _written(link, right)
        return
    try:
        await link.subscribe([right.topic], qos=0)
        try:
            written = await _written(link, right)
            yield written
            if written.ok:
                async with asyncio.timeout(READ_WITHIN):
                    await _arrival(link, right)
                yield Finding(PART, True, f"may read {right.topic}")
        finally:
            await link.unsubscribe([right.topic])
    except TimeoutError:
        yield Finding(PART, False, f"{right.topic} does not come back: may we read it?", FIX_ACL)
    except SubscribeRefused as error:
        yield Finding(PART, False, f"may not read {right.topic}: {error.reason}", FIX_ACL)


async def _written(link: Link, right: Right) -> Finding:
    try:
        await link.publish(right.topic, right.payload, retain=right.retain)
    except PublishRefused as error:
        return Finding(PART, False, f"may not write {right.topic}: {error.reason}", FIX_ACL)
    return Finding(PART, True, f"may write {right.topic}")


async def _is_refused(link: Link, topic: str) -> bool:
    try:
        await link.publish(topic, b"", retain=False)
    except PublishRefused:
        return True
    return False


async def _retained(link: Link, topic: str, seconds: float) -> bytes | None:
    """Return what is retained under a topic; ``None`` if nothing comes."""
    await link.subscribe([topic], qos=0)
    try:
        async with asyncio.timeout(seconds):
            while True:
                for message in await link.receive():
                    if message.topic == topic and message.retain:
                        return message.payload
    except TimeoutError:
        return None
    finally:
        await link.unsubscribe([topic])


async def _arrival(link: Link, right: Right) -> None:
    """Wait for our message; usage reports of the daemon's session stay unacknowledged, so it gets them."""
    while True:
        if any(m.topic == right.topic and m.payload == right.payload for m in await link.receive()):
            return


def _not_connected(error: Unavailable, broker: Broker) -> Finding:
    if isinstance(error, LinkLost):
        advice = f"does the broker run, and is {broker.host} port {broker.port} right?"
    else:
        advice = f"put {_account(broker)} with its password into the broker's password_file and reload it"
    return Finding(PART, False, error.message, advice)


def _account(broker: Broker) -> str:
    return broker.username or "anonymous"
