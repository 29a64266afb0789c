"""The broker as an operator should know it: what we may write is really written, and read back.

A broker with ``use_username_as_clientid`` gives every connection of one account the same session, so a
second one as the daemon would cut it off. Therefore beside a leading daemon its own publication is the
proof; without one we connect exactly as it would, keeping its session and what is queued there.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.contract.payloads import StatusDocument, TimeAnswer, UsageAck, cloud_event
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
from kosmo_billing_daemon.services.inspection import Finding
from kosmo_billing_daemon.store import entitlements, listings
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.together import together

PART = "broker"
NOBODY = UUID(int=0)
PROBE = "check"
READ_WITHIN = 5.0
PUBLISHED_WITHIN = 15.0
MEND_ACL = "mend the daemon's lines in the broker's acl_file and reload it"
_UNREADABLE = "with MQTT 3.1.1 a broker does not say that it refuses a publication"


async def inspect_as_daemon(
    broker: Broker, topics: Topics, clock: Clock, version: str
) -> AsyncIterator[Finding]:
    """Connect as the daemon, publish to each of its topics, and read our status back."""
    try:
        async with connect(broker) as link:
            yield Finding(PART, True, f"connected to {broker.host} port {broker.port} as {_account(broker)}")
            status = StatusDocument(state="offline", instance=PROBE, version=version, since=clock()).encode()
            yield await _written(link, topics.status, status, retain=True)
            yield await _read_back(link, topics.status, status)
            # An empty retained payload for the user who is nobody: clears what is not there.
            yield await _written(link, topics.entitlement(NOBODY), b"", retain=True)
            news = cloud_event(event_id=PROBE, event_type=PROBE, subject=str(NOBODY), time=clock(), data={})
            yield await _written(link, topics.event(PROBE), news, retain=False)
            ack = UsageAck(report_id=PROBE, accepted=0, duplicates=0).encode()
            yield await _written(link, topics.usage_ack(f"kosmo-billing-{PROBE}"), ack, retain=False)
            answer = TimeAnswer(PROBE, clock()).encode()
            yield await _written(link, topics.time_answer(f"kosmo-billing-{PROBE}"), answer, retain=False)
            if broker.protocol is Protocol.V311:
                yield Finding(PART, None, _UNREADABLE, "use MQTT_PROTOCOL=5 where the broker knows it")
    except Unavailable as error:
        yield _not_connected(error, broker)


async def inspect_beside_daemon(pool: Pool) -> Finding:
    """Have the leading daemon publish one document again and wait for the broker's acknowledgement.

    Before there is a document its own health has the answer: with every hello it publishes its status and
    reads it back.
    """
    async with pool.connection() as connection:
        users = await listings.load_users_after(connection, NOBODY, 1)
        if not users:
            fact = "no document waits for the running daemon (there is none yet)"
            return Finding(PART, True, fact)
        await together(connection, [entitlements.touching(users)])
        await listings.wake_publisher(connection)
    try:
        async with asyncio.timeout(PUBLISHED_WITHIN):
            while True:
                async with pool.connection() as connection:
                    if not await listings.count_waiting(connection, users):
                        return Finding(
                            PART, True, "the running daemon publishes, and the broker acknowledges"
                        )
                await asyncio.sleep(0.1)
    except TimeoutError:
        fact = f"the running daemon got no document published within {PUBLISHED_WITHIN:.0f} s"
        return Finding(PART, False, fact, "see its line above, and: journalctl -u kosmo-billing")


async def inspect_as_gateway(broker: Broker, topics: Topics) -> AsyncIterator[Finding]:
    """Make sure that a gateway's account cannot write what only the daemon may write."""
    forbidden = (
        topics.entitlement(NOBODY),
        topics.status,
        topics.watermark,
        topics.event(PROBE),
        topics.usage_ack(f"kosmo-billing-{PROBE}"),
        topics.usage(f"kosmo-billing-{PROBE}"),
        topics.time_answer(f"kosmo-billing-{PROBE}"),
    )
    account = _account(broker)
    try:
        async with connect(broker) as link:
            if broker.protocol is Protocol.V311:
                yield Finding(PART, None, _UNREADABLE, "the gateway's rights were not checked")
                return
            allowed = [topic for topic in forbidden if not await _is_refused(link, topic)]
    except Unavailable as error:
        yield _not_connected(error, broker)
        return
    if allowed:
        fact = f"{account} may write {', '.join(allowed)}: it could forge rights"
        yield Finding(
            PART, False, fact, "take these rights from the gateways' account in the broker's acl_file"
        )
    else:
        yield Finding(PART, True, f"{account} cannot write what only the daemon may")


def as_account(broker: Broker, username: str, password: str | None) -> Broker:
    """Return the same broker for another account, under a client id of its own."""
    return replace(broker, username=username, password=password, client_id=f"{username}-{PROBE}")


async def _written(link: Link, topic: str, payload: bytes, *, retain: bool) -> Finding:
    try:
        await link.publish(topic, payload, retain=retain)
    except PublishRefused as error:
        return Finding(PART, False, f"may not write {topic}: {error.reason}", MEND_ACL)
    return Finding(PART, True, f"may write {topic}")


async def _is_refused(link: Link, topic: str) -> bool:
    try:
        await link.publish(topic, b"", retain=False)
    except PublishRefused:
        return True
    return False


async def _read_back(link: Link, topic: str, payload: bytes) -> Finding:
    try:
        await link.subscribe([topic])
        try:
            async with asyncio.timeout(READ_WITHIN):
                await _arrival(link, topic, payload)
        finally:
            await link.unsubscribe([topic])
    except TimeoutError:
        return Finding(PART, False, f"{topic} does not come back: may we read it?", MEND_ACL)
    except SubscribeRefused as error:
        return Finding(PART, False, f"may not read {topic}: {error.reason}", MEND_ACL)
    return Finding(PART, True, f"may read {topic}, and it is retained")


async def _arrival(link: Link, topic: str, payload: bytes) -> None:
    """Wait for our message; usage reports of the daemon's session stay unacknowledged, so it gets them."""
    while True:
        if any(m.topic == topic and m.payload == payload for m in await link.receive()):
            return


def _not_connected(error: Unavailable, broker: Broker) -> Finding:
    if isinstance(error, LinkLost):
        advice = f"does the broker run, and is {broker.host} port {broker.port} right?"
    else:
        advice = f"put {_account(broker)} with its password into the broker's password_file and reload it"
    return Finding(PART, False, error.message, advice)


def _account(broker: Broker) -> str:
    return broker.username or "anonymous"
