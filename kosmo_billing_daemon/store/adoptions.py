"""Moving in from KosmoConnect v0.1 in the caller's transaction: its rows in, and what forbids going back."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.adoption.deciding import AdoptedUser, is_followed
from kosmo_billing_daemon.domain.adoption.mapping import AdoptionMap, written
from kosmo_billing_daemon.domain.adoption.old_tables import Part
from kosmo_billing_daemon.domain.ledger import Posting
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import invoices, ledger, quotes, subscriptions
from kosmo_billing_daemon.store.combining import Statement, combine
from kosmo_billing_daemon.store.old_moves import Name
from kosmo_billing_daemon.store.old_tables import quoted
from kosmo_billing_daemon.store.postgres import Connection

_COLLIDING = """
SELECT relname FROM pg_class
WHERE relnamespace = to_regnamespace($1) AND relname = ANY ($2::text[])
    AND relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY relname
"""


async def load_colliding(connection: Connection, schema: str, names: Sequence[str]) -> list[Name]:
    """Return what stands in our schema under names that we need."""
    rows = await connection.fetch(_COLLIDING, quoted(schema), list(names))
    return [(schema, row["relname"]) for row in rows]


_USERS = """
INSERT INTO adopted_users (user_id, old_id)
SELECT user_id, old_id FROM unnest($1::uuid[], $2::text[]) AS row (user_id, old_id)
"""

_ROWS = """
INSERT INTO adopted_rows (part, id, is_history, messages_used, old)
SELECT part, id, is_history, messages_used, old
FROM unnest($1::text[], $2::uuid[], $3::boolean[], $4::bigint[], $5::jsonb[])
    AS row (part, id, is_history, messages_used, old)
"""

# What is exhausted already gets no event.
_SUBSCRIPTIONS = subscriptions.COLUMNS.insert(
    "subscriptions", {"threshold_announced": "quota_threshold(messages_used, messages_limit)"}
)
_INVOICES = invoices.COLUMNS.insert("btcpay_invoices")

_FOLLOW = """
WITH followed AS (
    UPDATE btcpay_invoices SET next_check_at = $2 WHERE id = ANY ($1::uuid[]) RETURNING id)
INSERT INTO lookups (due_at, invoice_id) SELECT $2, id FROM followed
"""

_LEDGER = ledger.COLUMNS.insert(
    "ledger", {"at": "coalesce((SELECT settled_at FROM btcpay_invoices AS i WHERE i.id = invoice_id), $9)"}
)


async def append(
    connection: Connection, users: Sequence[AdoptedUser], now: datetime, *, by_old_id: bool
) -> None:
    """Write what becomes of users, in order; ``by_old_id`` where their ids are no UUIDs to v0.1."""
    rows = [row for user in users for row in user.subscriptions]
    bills = [invoice for user in users for invoice in user.invoices]
    postings: list[Posting] = [one for user in users for one in user.postings]
    plans = {row.plan for row in rows} | {invoice.plan for invoice in bills}
    await combine(connection, [quotes.save_statement(plans)])
    if by_old_id:
        await connection.execute(_USERS, [user.user_id for user in users], [user.old_id for user in users])
    if bills:
        await connection.execute(_INVOICES, *invoices.COLUMNS.values(bills))
        followed = [invoice.id for invoice in bills if is_followed(invoice, now)]
        await connection.execute(_FOLLOW, followed, now)
    if rows:
        await connection.execute(_SUBSCRIPTIONS, *subscriptions.COLUMNS.values(rows))
    if postings:
        await connection.execute(_LEDGER, *ledger.COLUMNS.values(postings), now)


@record
class KeptRow:
    """An old row, and which of ours it became; ``is_history`` if it is shown as it was."""

    part: Part
    id: UUID | None
    is_history: bool
    messages_used: int | None
    old: str


async def append_rows(connection: Connection, rows: Sequence[KeptRow]) -> None:
    """Keep old rows for the views."""
    values = [(row.part, row.id, row.is_history, row.messages_used, row.old) for row in rows]
    if values:
        await connection.execute(_ROWS, *zip(*values, strict=True))


_NODES = """
INSERT INTO whitelisted_nodes (user_id, node_id, label, added_at)
SELECT user_id, node_id, label, $4
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS row (user_id, node_id, label)
"""


@record
class OldNode:
    """A node of the old whitelist."""

    user_id: UserId
    node_id: str
    label: str | None
    old_id: str


async def append_nodes(connection: Connection, nodes: Sequence[OldNode], now: datetime) -> None:
    """List nodes."""
    columns = zip(*((one.user_id, one.node_id, one.label) for one in nodes), strict=True)
    if nodes:
        await connection.execute(_NODES, *columns, now)


_MISSING_USERS = f"{_USERS} ON CONFLICT DO NOTHING"


async def append_missing_users(connection: Connection, users: Mapping[UserId, str]) -> None:
    """Note old ids of users who have nothing but nodes."""
    await connection.execute(_MISSING_USERS, list(users), list(users.values()))


@record(kw_only=True)
class Adoption:
    """What was done once: what it came to, and the tables that were moved, from which schema."""

    at: datetime
    who: str
    counts: Mapping[str, int]
    moved: Sequence[Name]


_APPEND = """
INSERT INTO adoptions (at, who, map, counts, moved, users_in, last_entry, last_audit)
SELECT $1, $2, $3, $4, $5, $6, (SELECT coalesce(max(id), 0) FROM ledger), (
    SELECT coalesce(max(id), 0) FROM audit_log)
"""


async def append_adoption(connection: Connection, done: Adoption, made: AdoptionMap) -> None:
    """Note what was done, and by which map."""
    users_in = [
        {"part": part, "name": of.table.name, "of_user": of.columns["user_id"]}
        for part, of in made.parts.items()
    ]
    await connection.execute(
        _APPEND,
        done.at,
        done.who,
        written(made),
        json.dumps(done.counts),
        json.dumps(done.moved),
        json.dumps(users_in),
    )


async def load(connection: Connection) -> Adoption | None:
    """Return the adoption, if there was one; our tables must be there."""
    row = await connection.fetchrow("SELECT at, who, counts, moved FROM adoptions ORDER BY id LIMIT 1")
    if row is None:
        return None
    moved = [(schema, name) for schema, name in json.loads(row["moved"])]
    return Adoption(at=row["at"], who=row["who"], counts=json.loads(row["counts"]), moved=moved)


_IS_EMPTY = """
SELECT NOT EXISTS (SELECT FROM subscriptions) AND NOT EXISTS (SELECT FROM btcpay_invoices)
    AND NOT EXISTS (SELECT FROM whitelisted_nodes) AND NOT EXISTS (SELECT FROM entitlements)
"""


async def is_empty(connection: Connection) -> bool:
    """Say whether nobody ever bought or listed anything here."""
    return bool(await connection.fetchval(_IS_EMPTY))


_EFFECTS = """
WITH done AS (
    SELECT at, last_entry, last_audit, coalesce((counts ->> 'nodes')::bigint, 0) AS nodes FROM adoptions)
SELECT what, at FROM (
    SELECT 'a message of user ' || user_id || ' was counted' AS what, received_at AS at FROM usage_events
    UNION ALL
    SELECT 'messages of user ' || s.user_id || ' were counted', NULL FROM subscriptions AS s
    JOIN adopted_rows AS a ON a.id = s.id
    WHERE a.part = 'subscriptions' AND a.messages_used <> s.messages_used
    UNION ALL
    SELECT 'a subscription of user ' || user_id || ' began', valid_from FROM subscriptions
    WHERE source <> 'adopted'
    UNION ALL
    SELECT 'an invoice of user ' || user_id || ' was opened', created_at FROM btcpay_invoices AS i
    WHERE NOT EXISTS (SELECT FROM adopted_rows AS a WHERE a.id = i.id)
    UNION ALL
    SELECT 'money of user ' || user_id || ' was booked', l.at FROM ledger AS l, done WHERE id > last_entry
    UNION ALL
    SELECT who || ' did: ' || action, l.at FROM audit_log AS l, done WHERE id > last_audit
    UNION ALL
    SELECT 'node ' || node_id || ' was listed', added_at FROM whitelisted_nodes, done WHERE added_at > done.at
    UNION ALL
    SELECT 'nodes were taken off whitelists', NULL FROM done
    WHERE nodes <> (SELECT count(*) FROM whitelisted_nodes)
    UNION ALL
    SELECT 'user ' || user_id || ' chose whether to renew', chosen_at FROM auto_renewals
    UNION ALL
    SELECT 'messages were leased to ' || reporter, granted_at FROM leases
    UNION ALL
    SELECT 'a hook to ' || url || ' was added', added_at FROM hooks
    UNION ALL
    SELECT 'an old gateway wrote a row of user ' || s.user_id, NULL
    FROM adopted_rows AS a JOIN subscriptions AS s ON s.id = a.id
    WHERE a.part = 'subscriptions' AND a.messages_used IS NULL
) AS effects ORDER BY at NULLS LAST LIMIT 1
"""


async def load_first_effect(connection: Connection) -> tuple[str, datetime | None] | None:
    """Return the first thing that happened since, which the old tables know nothing of."""
    row = await connection.fetchrow(_EFFECTS)
    return None if row is None else (row["what"], row["at"])


def forget_statement(user_id: UUID) -> Statement:
    """Delete what v0.1 had of a user, before its rows of ours go or get a pseudonym."""
    return Statement("SELECT forget_old_user($1)", [user_id])


_COUNTED_TWICE = """
SELECT substr(s.reporter, 5) AS role, m.reporter, count(*) AS users FROM (
    SELECT DISTINCT user_id, reporter FROM (
        SELECT user_id, reporter FROM usage_events WHERE received_at >= $1 AND starts_with(reporter, 'sql:')
        ORDER BY received_at DESC LIMIT 10000) AS latest
) AS s, LATERAL (
    SELECT DISTINCT reporter FROM usage_events
    WHERE user_id = s.user_id AND sent_at >= $1 AND NOT starts_with(reporter, 'sql:') AND voided_at IS NULL
) AS m
GROUP BY s.reporter, m.reporter ORDER BY users DESC, 1, 2
"""


@record
class CountedTwice:
    """A role that counts by SQL for users whose messages a reporter reports over MQTT too."""

    role: str
    reporter: str
    users: int


async def load_counted_twice(connection: Connection, since: datetime) -> list[CountedTwice]:
    """Return who counted for the same users in both ways since then."""
    return [CountedTwice(**row) for row in await connection.fetch(_COUNTED_TWICE, since)]
