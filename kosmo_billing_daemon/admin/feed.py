"""What crosses the topics, from the database: so every daemon can show it, whether it speaks MQTT or not.

The rule it keeps: whatever happens at once, no look reads more than a few hundred rows. A document is shown
with the event or message that changed it.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.entitlements import document
from kosmo_billing_daemon.store import entitlements, events, feed
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.feed import ArrivedUsage
from kosmo_billing_daemon.store.postgres import Connection, Pool

READ: Final = 300  # rows of each kind in one look
USAGE_LASTS: Final = timedelta(days=1)
_LONGEST: Final = 300  # characters of what an event says

TOPICS: Final = (
    ("entitlements/", "Entitlements"),
    ("events/", "Events"),
    ("events/subscription.", "Events: subscriptions"),
    ("events/quota.", "Events: quotas"),
    ("events/credit.", "Events: credit"),
    ("events/invoice.", "Events: invoices"),
    ("usage/", "Usage"),
)
"""How topics can begin, below their prefix, and what that is called."""

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(?:\.\d+)?Z")
_BARE: Final = Topics(prefix="")


@record(kw_only=True)
class FeedItem:
    """One thing that crossed a topic, named below the prefix; ``key`` tells it from all others."""

    key: str
    at: datetime
    topic: str
    user_id: UUID | None
    words: str


async def load(pool: Pool, clock: Clock, user_id: UserId | None, topic: str, limit: int) -> list[FeedItem]:
    """Return the last items, newest first, of one user if one is given, and of topics that begin so."""
    now = clock()
    async with pool.connection() as connection:
        if user_id is None:
            happened = await events.load_newest(connection, READ)
        else:
            happened = await events.load_of_user(connection, user_id, READ)
        used = await feed.load_usage(connection, user_id, now - USAGE_LASTS, READ)
        found = [*map(_of_event, happened), *map(_of_usage, used)]
        named = dict.fromkeys([user_id] if user_id is not None else [one.user_id for one in found])
        found += await _documents(connection, [one for one in named if one is not None], now)
    wanted = [one for one in found if one.topic.startswith(topic)]
    return sorted(wanted, key=lambda one: (one.at, one.key), reverse=True)[:limit]


async def _documents(connection: Connection, users: Sequence[UUID], now: datetime) -> list[FeedItem]:
    """Return the documents of those users as they are now, each at the time of its last change."""
    users = users[:READ]
    changed = await feed.load_changed(connection, users)
    found: list[FeedItem] = []
    for user_id, versioned in (await entitlements.load_of_users(connection, users)).items():
        told = document(versioned, now)
        limit = "unlimited" if told.messages_limit is None else f"{told.messages_limit:,}"
        until = "" if told.valid_until is None else f" until {told.valid_until:%Y-%m-%d %H:%M}"
        plan = f"{told.plan_type}{until}, {told.messages_used:,} of {limit} used"
        found.append(
            FeedItem(
                key=f"d{user_id}.{told.version}",
                at=changed.get(user_id, now),
                topic=_below(_BARE.entitlement(user_id)),
                user_id=user_id,
                words=f"version {told.version}: {told.status}, {plan}",
            )
        )
    return found


def _of_event(event: Event) -> FeedItem:
    return FeedItem(
        key=f"e{event.id}",
        at=event.occurred_at,
        topic=_below(_BARE.event(event.type)),
        user_id=event.user_id,
        words=_words(event.data),
    )


def _of_usage(one: ArrivedUsage) -> FeedItem:
    messages = "1 message" if one.count == 1 else f"{one.count} messages"
    node = "" if one.node_id is None else f" to node {one.node_id}"
    over = ", over the limit" if one.over_limit else ""
    return FeedItem(
        key=f"u{one.user_id}.{one.message_id}",
        at=one.received_at,
        topic=_below(_BARE.usage(one.reporter)),
        user_id=one.user_id,
        words=f"{messages}{node}{over}",
    )


def _below(topic: str) -> str:
    return topic.removeprefix("/")


def _short(value: object) -> str:
    """Write times to the minute."""
    return _TIME.sub(r"\1 \2", str(value))


def _words(data: Mapping[str, Any]) -> str:
    """Say what an event carries, without ids, and without links, which let in whoever has one."""
    told = ", ".join(
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in data.items()
        if value is not None and not isinstance(value, dict | list) and not name.endswith(("_url", "_id"))
    )
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}…"
