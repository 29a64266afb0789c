"""What waits for the broker's ack: rows that triggers insert, read with what they name, deleted then.

A row is read once per connection to the broker. Ids are given before commits, so "everything up to id" would
skip late ones: reading goes on from an id once every transaction that may have drawn a smaller one has ended.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.entitlements import (
    CONTENT,
    FROM_DUE,
    USER,
    VERSION,
    WIDTH,
    Versioned,
    versioned,
)
from kosmo_billing_daemon.store.events import StoredEvent
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn


class Kind(StrEnum):
    """Why something is published, the most urgent first."""

    RIGHTS = "rights"
    EVENT = "event"
    USAGE = "usage"
    REPEAT = "repeat"


OF_DOCUMENTS = (Kind.RIGHTS, Kind.USAGE, Kind.REPEAT)


@dataclass(slots=True, eq=False)
class OutboxEntry:
    """A row of the outbox. ``left`` are those of its ``size`` members (users, or ids of events) that are not
    acknowledged.
    """

    id: int
    kind: Kind
    left: set[Any]
    size: int


@record
class OutboxEvent(StoredEvent):
    """An event that waits for the broker's ack."""

    entry: OutboxEntry


@record
class OutboxDocument:
    """The content of a document; an entry whose id is below ``first_version`` makes it the user's first."""

    versioned: Versioned
    first_version: int

    @property
    def user_id(self) -> UserId:
        return self.versioned.entitlement.user_id


@dataclass(slots=True)
class Unpublished:
    """Rows that were not read before, the events they name, and documents as they are at the same moment.

    Every transaction below ``ended`` had ended by then. Of the kinds in ``complete`` no more rows wait.
    """

    entries: list[OutboxEntry] = field(default_factory=list)
    events: list[OutboxEvent] = field(default_factory=list)
    documents: list[OutboxDocument] = field(default_factory=list)
    ended: int = 0
    complete: list[Kind] = field(default_factory=list)


def _waiting(kind: Kind, passed: int, order: str = "") -> str:
    """Write the part of ``_READ`` that finds rows of a kind, until they have enough members."""
    members, most = ("events" if kind is Kind.EVENT else "users"), passed + 1
    return f"""
{kind} AS MATERIALIZED (
    SELECT id, {members} FROM (
        SELECT id, {members},
            sum(cardinality({members})) OVER (ORDER BY id {order}) - cardinality({members}) AS before
        FROM (
            SELECT id, {members} FROM outbox WHERE kind = '{kind}' AND id > ${passed} AND id <> ALL ($1)
            ORDER BY id {order} LIMIT ${most}
        ) AS first
    ) AS counted WHERE before < ${most}
)"""


def _content(user_id: str = "NULL", version: str = "NULL") -> str:
    """Write columns in the place of ``CONTENT``."""
    return ", ".join({USER: user_id, VERSION: version}.get(place, "NULL") for place in range(WIDTH))


# The newest change of rights goes first. Each event, and each document, is looked up by itself (OFFSET 0),
# however many the planner expects.
_READ = f"""
WITH {_waiting(Kind.RIGHTS, 4, "DESC")}, {_waiting(Kind.EVENT, 6)}, {_waiting(Kind.USAGE, 8)},
{_waiting(Kind.REPEAT, 10)},
due AS MATERIALIZED (
    SELECT e.* FROM (
        SELECT unnest($2::uuid[])
        UNION SELECT unnest(users) FROM rights UNION SELECT unnest(users) FROM repeat
    ) AS named (user_id), LATERAL (
        SELECT user_id, version, first_version FROM entitlements WHERE user_id = named.user_id OFFSET 0) AS e
    WHERE named.user_id <> ALL ($3::uuid[])
)
SELECT {CONTENT}, 'document' AS what, due.first_version AS entry, NULL::uuid[] AS users,
    NULL::bigint[] AS events, NULL::text AS data, NULL::timestamptz AS occurred_at {FROM_DUE}
UNION ALL
SELECT {_content("n.user_id", "n.id")}, n.type, q.id, NULL, NULL, n.data::text, n.occurred_at
FROM event AS q, unnest(q.events) AS of (id), LATERAL (SELECT * FROM events WHERE id = of.id OFFSET 0) AS n
UNION ALL
SELECT {_content()}, kind, id, users, events, NULL, NULL FROM (
    SELECT 'rights' AS kind, id, users, NULL::bigint[] AS events FROM rights
    UNION ALL SELECT 'event', id, NULL, events FROM event
    UNION ALL SELECT 'usage', id, users, NULL FROM usage
    UNION ALL SELECT 'repeat', id, users, NULL FROM repeat
) AS entries
UNION ALL
SELECT {_content(version="pg_snapshot_xmin(pg_current_snapshot())::text::bigint")}, 'ended',
    NULL, NULL, NULL, NULL, NULL
"""


async def read(
    connection: Connection,
    *,
    known: Collection[int],
    users: Collection[UUID],
    busy: Collection[UUID],
    passed: Mapping[Kind, int],
    most: Mapping[Kind, int],
) -> Unpublished:
    """Return rows above ``passed`` that are not ``known``, of each kind about ``most`` members.

    The documents are those of ``users`` and of rights and repetitions, without users that are ``busy``.
    """
    bounds = [bound for kind in Kind for bound in (passed[kind], most[kind])]
    rows = await connection.fetch(_READ, known, users, busy, *bounds)
    found = Unpublished()
    entries: dict[int, OutboxEntry] = {}
    events: list[tuple[int, int, str, UUID, datetime, str]] = []
    for row in await learn(connection, rows):
        user_id, number = row[USER], row[VERSION]
        what, entry, of_users, of_events, data, occurred_at = row[WIDTH:]
        if what == "document":
            found.documents.append(OutboxDocument(versioned(row), entry))
        elif what == "ended":
            found.ended = number
        elif data is not None:
            events.append((entry, number, what, user_id, occurred_at, data))
        else:
            left = {*(of_users or of_events)}
            entries[entry] = OutboxEntry(entry, Kind(what), left, len(left))
    found.entries = list(entries.values())
    for entry, number, what, user_id, occurred_at, data in sorted(events):
        found.events.append(OutboxEvent(number, what, user_id, occurred_at, data, entries[entry]))
    for kind in Kind:
        if sum(entry.size for entry in found.entries if entry.kind is kind) < most[kind]:
            found.complete.append(kind)
    return found


# Nothing is lost if a crash of the server undoes it: what was published is published again, as it was.
_DELETE = """
DELETE FROM outbox WHERE kind = ANY ($1::text[]) AND id = ANY ($2::bigint[])
    AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
"""


async def delete(connection: Connection, entries: Iterable[OutboxEntry]) -> None:
    """Delete what was acknowledged as a whole."""
    kinds = {entry.id: entry.kind for entry in entries}
    if kinds:
        await connection.execute(_DELETE, {*kinds.values()}, list(kinds))


_REDUCE = """
UPDATE outbox SET users = rest.users, events = rest.events FROM (
    SELECT id, array_agg(user_id) FILTER (WHERE user_id IS NOT NULL) AS users,
        array_agg(event ORDER BY event) FILTER (WHERE event IS NOT NULL) AS events
    FROM unnest($2::bigint[], $3::uuid[], $4::bigint[]) AS each (id, user_id, event) GROUP BY id
) AS rest
WHERE outbox.kind = ANY ($1::text[]) AND outbox.id = rest.id
"""


async def reduce(connection: Connection, entries: Iterable[OutboxEntry]) -> None:
    """Leave of these rows what was not acknowledged, so that nothing of them is published twice."""
    ids: list[int] = []
    users: list[UUID | None] = []
    events: list[int | None] = []
    kinds = set()
    for entry in entries:
        kinds.add(entry.kind)
        for member in entry.left:
            ids.append(entry.id)
            users.append(None if entry.kind is Kind.EVENT else member)
            events.append(member if entry.kind is Kind.EVENT else None)
    if ids:
        await connection.execute(_REDUCE, kinds, ids, users, events)


@record
class Drawn:
    """The greatest id drawn, by transactions that all have a smaller number than ``before``."""

    id: int
    before: int


_DRAWN = """
WITH drawn AS MATERIALIZED (
    SELECT last_value - (NOT is_called)::int AS id FROM entitlement_versions)
SELECT id, pg_current_xact_id()::text::bigint AS before FROM drawn
"""


async def load_drawn(connection: Connection) -> Drawn:
    """Return how far ids are drawn. Takes a transaction number, so it is not for every row."""
    (row,) = await connection.fetch(_DRAWN)
    return Drawn(**row)


async def repeat(connection: Connection, users: Sequence[UUID]) -> set[UUID]:
    """Give these users' documents new versions and queue them; returns all but those a writer holds."""
    if not users:
        return set()
    return {row[0] for row in await connection.fetch("SELECT repeat_documents($1)", users)}


_OLDEST = """
SELECT (SELECT queued_at FROM outbox WHERE kind = 'rights' ORDER BY id LIMIT 1) AS rights,
    (SELECT queued_at FROM outbox WHERE kind = 'event' ORDER BY id LIMIT 1) AS event
"""


async def load_oldest(connection: Connection) -> tuple[datetime | None, datetime | None]:
    """Return since when the oldest change of rights and the oldest event have been waiting."""
    (row,) = await connection.fetch(_OLDEST)
    return row["rights"], row["event"]


def newest_rights(entries: Iterable[OutboxEntry]) -> int:
    """Return the id of the newest change of rights; 0 without one."""
    return max((entry.id for entry in entries if entry.kind is Kind.RIGHTS), default=0)


_COUNT_WAITING = """
SELECT count(DISTINCT user_id) FROM outbox, unnest(users) AS of (user_id)
WHERE kind IN ('rights', 'usage', 'repeat') AND ($1::uuid[] IS NULL OR user_id = ANY ($1::uuid[]))
"""


async def count_waiting(connection: Connection, users: Sequence[UUID] | None = None) -> int:
    """Count the documents (of these users) that wait to be published."""
    return int(await connection.fetchval(_COUNT_WAITING, users))
