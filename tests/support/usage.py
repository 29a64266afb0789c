"""Subscriptions to count on, and usage reports as gateways send them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import (
    Source,
    Status,
    Subscription,
    SubscriptionId,
    UserId,
    sole_lot,
)
from kosmo_billing_daemon.store import quotes, subscriptions
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.postgres import Connection

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
WANDERER, GUARDIAN, SANCTUARY = BUILT_IN.plans


def granted(user_id: UUID, **changes: Any) -> Subscription:
    """A wanderer subscription of five days ago, 25 days to go."""
    row_id = SubscriptionId(uuid4())
    row = Subscription(
        id=row_id,
        user_id=UserId(user_id),
        invoice_id=None,
        source=Source.GRANT,
        plan=WANDERER,
        status=Status.ACTIVE,
        valid_from=NOW - 5 * DAY,
        valid_until=NOW + 25 * DAY,
        messages_limit=WANDERER.quota,
        lots=(sole_lot(row_id, Source.GRANT, WANDERER, WANDERER.period, WANDERER.quota),),
    )
    return replace(row, **changes)


async def subscribe(connection: Connection, *rows: Subscription) -> None:
    quoting = quotes.save_statement(row.plan for row in rows)
    await combine(connection, [quoting, subscriptions.append_statement(rows)])


async def used(connection: Connection, row: Subscription) -> int:
    number: int = await connection.fetchval("SELECT messages_used FROM subscriptions WHERE id = $1", row.id)
    return number


async def event_types(connection: Connection, user_id: UUID) -> list[str]:
    rows = await connection.fetch("SELECT type FROM events WHERE user_id = $1 ORDER BY id", user_id)
    return [row["type"] for row in rows]


def event(user_id: UUID, message_id: str, sent_at: datetime = NOW, **more: Any) -> dict[str, Any]:
    sent = sent_at.isoformat().replace("+00:00", "Z")
    return {"message_id": message_id, "user_id": str(user_id), "node_id": "!0000000a", "sent_at": sent} | more


def messages(
    user_id: UUID, first: int, last: int, sent_at: datetime = NOW - timedelta(seconds=1)
) -> list[dict[str, Any]]:
    """The events of messages m<first> to m<last>, the last one not included."""
    return [event(user_id, f"m{number}", sent_at) for number in range(first, last)]


def payload(events: Sequence[dict[str, Any]], report_id: str = "r") -> bytes:
    return json.dumps({"report_id": report_id, "events": list(events)}).encode()
