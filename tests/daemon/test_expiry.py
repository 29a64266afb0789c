"""Subscriptions end when their time has come: the document and the event, at once and once."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

from kosmo_billing_daemon.contract.encoding import rfc3339
from tests.daemon.conftest import on_shared_loop
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until


def expired_at(world: World) -> dict[UUID, datetime]:
    """When the documents that say "expired" were issued."""
    found: dict[UUID, datetime] = {}
    for message in world.observer.messages:
        user_id = TOPICS.entitlement_user(message.topic)
        if user_id is not None and message.payload:
            document = json.loads(message.payload)
            if document["status"] == "expired":
                found.setdefault(user_id, datetime.fromisoformat(document["issued_at"]))
    return found


def heard(world: World, user_id: UUID) -> bool:
    return "subscription.expired" in world.observer.events(user_id)


@on_shared_loop
async def test_a_document_expires_at_its_end_with_one_event(shared: World) -> None:
    """Three of them: of an end that a timer finds late each is late."""
    world, late = shared, []
    now = datetime.now(UTC)
    ends = {uuid4(): now + timedelta(seconds=seconds) for seconds in (2, 2.4, 2.8)}
    for user_id, end in ends.items():
        await grant(world, [user_id], end)
    for user_id, end in ends.items():
        await world.until_published(user_id, status="expired")
        late.append((expired_at(world)[user_id] - end).total_seconds())
        document = world.observer.documents[user_id]
        assert (document["plan_type"], document["scope"], document["messages_limit"]) == ("free", "none", 0)
        assert document["valid_until"] == rfc3339(end)
        await until(partial(heard, world, user_id), "the event")
        assert world.observer.events(user_id).count("subscription.expired") == 1
    assert min(late) >= 0
    assert min(late) < 0.3, late


@on_shared_loop
async def test_a_thousand_that_end_together_are_all_told(shared: World) -> None:
    world = shared
    users, end = [uuid4() for _ in range(1000)], datetime.now(UTC) + timedelta(seconds=3)
    await grant(world, users, end)
    documents = world.observer.documents

    def all_expired() -> bool:
        return all(documents.get(user_id, {}).get("status") == "expired" for user_id in users)

    await until(all_expired, lambda: len(expired_at(world)), 30)
    issued = expired_at(world)
    last = (max(issued[user_id] for user_id in users) - end).total_seconds()
    print(f"1000 expired within {last:.2f} s of their end")
    assert last < 10.0  # 1 s on two quiet cores

    # Their last hours began with their first, so each was also announced, once.
    steps = ("subscription.expiring", "subscription.expired")

    def all_heard() -> bool:
        topics = Counter(message.topic for message in world.observer.messages)
        return all(topics[TOPICS.event(step)] >= len(users) for step in steps)

    await until(all_heard, "an event of each step for everybody", 30)
    mine = {str(user_id) for user_id in users}
    events = world.observer.cloud_events()
    assert Counter(
        (event["subject"], event["type"]) for event in events if event["subject"] in mine
    ) == Counter((user_id, step) for user_id in mine for step in steps)


async def has_none(world: World, count: str) -> bool:
    return bool(await world.value(count) == 0)


async def test_the_notice_before_the_end_comes_once_and_an_end_missed_at_the_next_start(world: World) -> None:
    daemon = await world.daemon(REMIND_HOURS="1")
    user_id, later, missed = uuid4(), uuid4(), uuid4()
    now = datetime.now(UTC)
    await grant(world, [later], now + timedelta(hours=2))
    await grant(world, [user_id], now + timedelta(minutes=30))
    await until(lambda: "subscription.expiring" in world.observer.events(user_id), "the notice", 5.0)
    # An event whose ack was not written would be published again: an end in between is another test's.
    await until(lambda: has_none(world, "SELECT count(*) FROM outbox"), "the ack is written")
    assert await daemon.stop() == 0
    await grant(world, [missed], ended := datetime.now(UTC) - timedelta(minutes=1))
    await daemon.start()
    await world.until_published(missed, status="expired", valid_until=rfc3339(ended))
    await world.until_ready(daemon)
    await world.execute("UPDATE subscriptions SET messages_used = 1")
    await world.until_published(user_id, messages_used=1)
    assert world.observer.events(user_id) == ["subscription.expiring"]
    assert world.observer.events(later) == []
