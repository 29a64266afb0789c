"""Subscriptions end when their time has come: the document and the news, at once and once."""

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.encoding import rfc3339
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


async def test_a_document_expires_at_its_end_with_one_event(world: World) -> None:
    await world.daemon()
    user_id, end = uuid4(), datetime.now(UTC) + timedelta(seconds=2)
    await grant(world, [user_id], end)
    await world.until_published(user_id, status="active", valid_until=rfc3339(end))
    await world.until_published(user_id, status="expired")
    seen_after = (datetime.now(UTC) - end).total_seconds()
    print(f"expired {(expired_at(world)[user_id] - end).total_seconds() * 1000:.0f} ms after its end")
    assert 0 <= seen_after < 0.3
    document = world.observer.documents[user_id]
    assert (document["plan_type"], document["scope"], document["messages_limit"]) == ("free", "none", 0)
    await until(lambda: "subscription.expired" in world.observer.events(user_id), "the news")
    assert world.observer.events(user_id).count("subscription.expired") == 1


@pytest.mark.timeout(90)
async def test_two_thousand_that_end_together_are_all_told(world: World) -> None:
    await world.daemon()
    users, end = [uuid4() for _ in range(2000)], datetime.now(UTC) + timedelta(seconds=4)
    await grant(world, users, end)
    await until(lambda: len(world.observer.documents) == 2000, "the documents")
    assert datetime.now(UTC) < end
    await until(lambda: len(expired_at(world)) == 2000, lambda: len(expired_at(world)), 30)
    last = (max(expired_at(world).values()) - end).total_seconds()
    print(f"2000 expired within {last:.2f} s of their end")
    assert last < 10.0  # 1 to 2 s on two quiet cores
    await until(lambda: world.observer.events().count("subscription.expired") == 2000, "the news", 30)
    # Their last hours began with their first, so each was also announced, once.
    assert Counter(world.observer.events()) == {"subscription.expiring": 2000, "subscription.expired": 2000}


async def has_none(world: World, count: str) -> bool:
    return bool(await world.value(count) == 0)


async def test_what_ended_while_nobody_ran_ends_at_the_start(world: World) -> None:
    user_id, end = uuid4(), datetime.now(UTC) - timedelta(minutes=1)
    await grant(world, [user_id], end)
    await world.daemon()
    await world.until_published(user_id, status="expired")
    assert world.observer.documents[user_id]["valid_until"] == rfc3339(end)


async def test_the_notice_before_the_end_comes_once(world: World) -> None:
    daemon = await world.daemon(REMIND_HOURS="1")
    user_id, later = uuid4(), uuid4()
    now = datetime.now(UTC)
    await grant(world, [later], now + timedelta(hours=2))
    await grant(world, [user_id], now + timedelta(minutes=30))
    began = time.monotonic()
    await until(lambda: "subscription.expiring" in world.observer.events(user_id), "the notice")
    assert time.monotonic() - began < 3.0
    # An event whose ack was not written would be published again: an end in between is another test's.
    await until(lambda: has_none(world, "SELECT count(*) FROM outbox"), "the ack is written")
    assert await daemon.stop() == 0
    await daemon.start()
    await world.until_ready(daemon)
    await world.execute("UPDATE subscriptions SET messages_used = 1")
    await world.until_published(user_id, messages_used=1)
    assert world.observer.events(user_id) == ["subscription.expiring"]
    assert world.observer.events(later) == []
