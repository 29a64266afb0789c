"""Subscriptions in and out. Loading locks the rows; the users are locked before (``locking_users``)."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import (
    Carried,
    Rule,
    Source,
    Status,
    Subscription,
    UserId,
    sole_lot,
)
from kosmo_billing_daemon.store import stacks
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn, plan


def _stack(row: Subscription) -> str | None:
    """Return the stack as it is stored: nothing where the row itself says it all, as most do."""
    lasts = row.valid_until - row.valid_from
    sole = sole_lot(row.id, row.source, row.plan, lasts, row.messages_limit)
    if row.lots == (sole,) and not row.carried.released:
        return None
    return stacks.encode(row.lots, row.carried.released)


COLUMNS = Columns(
    ("id", "uuid", "id"),
    ("user_id", "uuid", "user_id"),
    ("quote_id", "uuid", "plan.quote_id"),
    ("invoice_id", "uuid", "invoice_id"),
    ("source", "text", "source"),
    ("status", "text", "status"),
    ("valid_from", "timestamptz", "valid_from"),
    ("valid_until", "timestamptz", "valid_until"),
    ("grace_until", "timestamptz", "grace_until"),
    ("ended_at", "timestamptz", "ended_at"),
    ("revoked_at", "timestamptz", "revoked_at"),
    ("cashed_at", "timestamptz", "cashed_at"),
    ("messages_limit", "bigint", "messages_limit"),
    ("messages_used", "bigint", "messages_used"),
    ("carried_rule", "text", "carried.rule"),
    ("carried_from", "uuid", "carried.from_id"),
    ("carried_time", "interval", "carried.time"),
    ("carried_messages", "bigint", "carried.messages"),
    ("stack", "jsonb", _stack),
)

LOADED = f"""{COLUMNS}, coalesce((
    SELECT sum(l.messages - l.used)::bigint FROM leases AS l
    WHERE l.subscription_id = subscriptions.id AND l.used < l.messages), 0) AS messages_leased"""
"""What is read of a subscription: its columns, and what its leases still hold."""

WIDTH = COLUMNS.width + 1

_CARRIED = 14
"""Where in a row stands what was carried, followed by the stack and the leases."""

_PLAIN = [name for name, _, _ in COLUMNS][6:_CARRIED]
"""The columns before it whose values are the fields of the same names as they are."""


def subscription(row: Any) -> Subscription:
    """Build the domain object from a row that begins with ``LOADED`` and whose quote is learned."""
    subscription_id, user_id, quote_id, invoice_id, source, status, *values = row[:_CARRIED]
    rule, from_id, time, messages, stack, messages_leased = row[_CARRIED:WIDTH]
    plain = dict(zip(_PLAIN, values, strict=True))
    sold = plan(quote_id)
    lasts = plain["valid_until"] - plain["valid_from"]
    lots, released = (
        ((sole_lot(subscription_id, Source(source), sold, lasts, plain["messages_limit"]),), ())
        if stack is None
        else stacks.decode(stack)
    )
    return Subscription(
        id=subscription_id,
        user_id=user_id,
        invoice_id=invoice_id,
        source=Source(source),
        plan=sold,
        status=Status(status),
        messages_leased=messages_leased,
        lots=lots,
        carried=Carried(Rule(rule), from_id, time, messages, released),
        **plain,
    )


async def fetched(connection: Connection, rows: Sequence[Any]) -> tuple[Subscription, ...]:
    """Build the domain objects from rows that begin with ``LOADED``."""
    return tuple(subscription(row) for row in await learn(connection, rows))


_LOCK_CURRENT = f"""
SELECT {LOADED} FROM subscriptions
WHERE user_id = ANY ($1::uuid[]) AND status IN ('active', 'grace')
ORDER BY user_id FOR UPDATE
"""


async def lock_current(connection: Connection, users: Iterable[UUID]) -> dict[UserId, Subscription]:
    """Return and lock the current subscription of each user who has one."""
    rows = await fetched(connection, await connection.fetch(_LOCK_CURRENT, sorted(users)))
    return {row.user_id: row for row in rows}


def ended_since(alias: str, time: str) -> str:
    """Return the condition that a plan ended since then with messages left, and is the user's last."""
    return f"""
{alias}.status = 'expired' AND {alias}.ended_at >= {time} AND {alias}.cashed_at IS NULL
AND ({alias}.messages_limit IS NULL OR {alias}.messages_used < {alias}.messages_limit)
AND NOT EXISTS (
    SELECT FROM subscriptions AS later
    WHERE later.user_id = {alias}.user_id AND later.number > {alias}.number AND later.revoked_at IS NULL)
"""


_LOCK_ENDED = f"""
SELECT {LOADED} FROM subscriptions WHERE user_id = ANY ($1::uuid[]) AND {ended_since("subscriptions", "$2")}
ORDER BY user_id FOR UPDATE
"""


async def lock_ended(
    connection: Connection, users: Iterable[UUID], since: datetime
) -> dict[UserId, Subscription]:
    """Return and lock the last plan of each user whose plan ended since then."""
    rows = await fetched(connection, await connection.fetch(_LOCK_ENDED, sorted(users), since))
    return {row.user_id: row for row in rows}


_LOCK_HISTORY = f"""
SELECT {LOADED} FROM subscriptions WHERE user_id = $1 ORDER BY number FOR UPDATE
"""


async def lock_history(connection: Connection, user_id: UUID) -> tuple[Subscription, ...]:
    """Return and lock everything a user ever bought, in the order of fulfilment."""
    return await fetched(connection, await connection.fetch(_LOCK_HISTORY, user_id))


_LOAD_HISTORY = f"""
SELECT {LOADED} FROM subscriptions WHERE user_id = $1 ORDER BY number DESC LIMIT $2
"""


async def load_history(connection: Connection, user_id: UUID, limit: int) -> tuple[Subscription, ...]:
    """Return a user's last purchases, newest first."""
    return await fetched(connection, await connection.fetch(_LOAD_HISTORY, user_id, limit))


async def count_history(connection: Connection, user_id: UUID) -> int:
    """Return how many purchases of a user there are in all."""
    return int(await connection.fetchval("SELECT count(*) FROM subscriptions WHERE user_id = $1", user_id))


_APPEND = COLUMNS.insert("subscriptions")


def append_statement(rows: Sequence[Subscription]) -> Statement | None:
    """Insert new subscriptions, in order. A second one for an invoice breaks R1's constraint."""
    return Statement(_APPEND, COLUMNS.values(rows)) if rows else None


# messages_used is counted elsewhere and never written here.
_SAVED = COLUMNS.but("user_id", "quote_id", "invoice_id", "source", "valid_from", "messages_used")
# A raised limit arms the thresholds that are no longer reached (R17).
_ARMED = "least(old.threshold_announced, quota_threshold(old.messages_used, row.messages_limit))"
_SAVE = _SAVED.update("subscriptions", {"threshold_announced": _ARMED})


def save_statement(rows: Sequence[Subscription]) -> Statement | None:
    """Write what the rules may change.

    Rows that end must be saved before their successor is appended: at most one is current (R12).
    """
    return Statement(_SAVE, _SAVED.values(rows)) if rows else None


_DUE = """
(SELECT user_id FROM subscriptions WHERE next_deadline <= $1 AND user_id <> ALL ($3::uuid[])
ORDER BY next_deadline LIMIT $2)
UNION (SELECT user_id FROM lapses WHERE user_id <> ALL ($3::uuid[]) LIMIT $2)
"""


async def load_due(
    connection: Connection, now: datetime, limit: int, but: Sequence[UUID] = ()
) -> list[UserId]:
    """Return users whose subscription reached a deadline or has lapsed, but for ``but``."""
    return [UserId(row["user_id"]) for row in await connection.fetch(_DUE, now, limit, list(but))]


_NEXT_DEADLINE = """
SELECT least(
    (SELECT next_deadline FROM subscriptions WHERE next_deadline IS NOT NULL AND user_id <> ALL ($1::uuid[])
    ORDER BY next_deadline LIMIT 1),
    (SELECT min(at) FROM lapses WHERE user_id <> ALL ($1::uuid[])))
"""


async def load_next_deadline(connection: Connection, but: Sequence[UUID] = ()) -> datetime | None:
    """Return when time next changes anything about a subscription, but for users in ``but``."""
    deadline: datetime | None = await connection.fetchval(_NEXT_DEADLINE, list(but))
    return deadline


_REMIND = """
UPDATE subscriptions AS s SET reminder_hours = row.hours
FROM unnest($1::uuid[], $2::smallint[]) AS row (id, hours) WHERE s.id = row.id AND s.id = ANY ($1)
"""


def remind_statement(hours: Sequence[tuple[UUID, int]]) -> Statement | None:
    """Note how many hours before its end each subscription is due for its next reminder."""
    return Statement(_REMIND, list(zip(*hours, strict=True))) if hours else None
