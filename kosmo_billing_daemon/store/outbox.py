"""What waits for the publisher, found in one look; and what it published before, word for word."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.entitlements import CONTENT, FROM_DUE, Versioned, versioned
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn
from kosmo_billing_daemon.store.subscriptions import COLUMNS


@record
class OutboxEvent:
    """An event as it is published; ``data`` is JSON."""

    id: int
    type: str
    user_id: UUID
    occurred_at: datetime
    data: str


@dataclass(slots=True)
class Unpublished:
    """Changes of rights, events in order, and other changes of documents.

    ``later`` says that more wait, only because their users were told a moment ago.
    """

    urgent: list[Versioned] = field(default_factory=list)
    events: list[OutboxEvent] = field(default_factory=list)
    used: list[Versioned] = field(default_factory=list)
    later: bool = False


# The newest change of rights goes first, and so does who was told longest ago. Who was told after "now" was
# told before a clock stepped back, and must not wait for it.
_LOOK = f"""
WITH urgent AS MATERIALIZED (
    SELECT user_id, version FROM entitlements
    WHERE urgent_version > published_version AND user_id <> ALL ($2::uuid[])
    ORDER BY urgent_version DESC LIMIT $1
), used AS MATERIALIZED (
    (SELECT user_id, version FROM entitlements
     WHERE waits AND coalesce(published_at, '-infinity') <= $4 AND user_id <> ALL ($3::uuid[])
     ORDER BY coalesce(published_at, '-infinity') LIMIT $1)
    UNION ALL
    (SELECT user_id, version FROM entitlements
     WHERE waits AND coalesce(published_at, '-infinity') > $5 AND user_id <> ALL ($3::uuid[])
     ORDER BY coalesce(published_at, '-infinity') LIMIT $1)
), due AS MATERIALIZED (
    SELECT 'urgent' AS what, user_id, version FROM urgent
    UNION ALL
    SELECT 'used', user_id, version FROM used WHERE user_id NOT IN (SELECT user_id FROM urgent)
)
SELECT {CONTENT}, what, NULL::text, NULL::timestamptz {FROM_DUE}
UNION ALL
(SELECT {"NULL, " * COLUMNS.width} user_id, id, NULL, type, data::text, occurred_at FROM events
 WHERE published_at IS NULL AND id <> ALL ($6::bigint[]) ORDER BY id LIMIT $7)
UNION ALL
SELECT {"NULL, " * COLUMNS.width} NULL, NULL, NULL, 'later', NULL, NULL WHERE EXISTS (
    SELECT FROM entitlements
    WHERE waits AND coalesce(published_at, '-infinity') > $4 AND coalesce(published_at, '-infinity') <= $5)
"""


async def load(
    connection: Connection,
    *,
    documents: int,
    events: int,
    but: Collection[UUID],
    but_used: Collection[UUID],
    but_events: Collection[int],
    told_before: datetime,
    now: datetime,
) -> Unpublished:
    """Return at most so many ``documents`` of each kind and ``events``, none of those named in ``but``.

    Changes of use alone wait until their user was told ``told_before``.
    """
    found = Unpublished()
    rows = await connection.fetch(_LOOK, documents, but, but_used, told_before, now, but_events, events)
    for row in await learn(connection, rows):
        user_id, number, _, what, data, occurred_at = row[COLUMNS.width :]
        if what == "urgent":
            found.urgent.append(versioned(row))
        elif what == "used":
            found.used.append(versioned(row))
        elif what == "later":
            found.later = True
        else:
            found.events.append(OutboxEvent(number, what, user_id, occurred_at, data))
    found.events.sort(key=lambda event: event.id)
    return found


_PUBLISHED = """
SELECT published_sequence, user_id, published_version, published_document FROM entitlements
WHERE published_sequence > $1 AND published_sequence <= $2 ORDER BY published_sequence LIMIT $3
"""


async def load_published(connection: Connection, after: int, until: int, limit: int) -> Sequence[Any]:
    """Return ``(sequence, user, version, document)`` of what was published in ``(after, until]``, in order.

    The document is missing where an earlier release published it.
    """
    return await connection.fetch(_PUBLISHED, after, until, limit)
