"""Subscriptions in and out. Loading locks the rows; the users are locked before (``locking_users``)."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.plans import Plan, Price, Scope
from kosmo_billing_daemon.domain.subscriptions import Carried, Rule, Source, Status, Subscription, UserId
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

COLUMNS = """
id, user_id, invoice_id, source, plan_type, price_amount, price_currency, period, quota, scope, features,
status, valid_from, valid_until, grace_until, ended_at, revoked_at, messages_limit, messages_used,
messages_used_at_end, carried_rule, carried_from, carried_time, carried_messages
"""


WIDTH = COLUMNS.count(",") + 1


def subscription(row: Any) -> Subscription:
    """Build the domain object from a row that begins with ``COLUMNS``."""
    (
        subscription_id,
        user_id,
        invoice_id,
        source,
        plan_type,
        price_amount,
        price_currency,
        period,
        quota,
        scope,
        features,
        status,
        valid_from,
        valid_until,
        grace_until,
        ended_at,
        revoked_at,
        messages_limit,
        messages_used,
        messages_used_at_end,
        carried_rule,
        carried_from,
        carried_time,
        carried_messages,
    ) = row[:WIDTH]
    return Subscription(
        id=subscription_id,
        user_id=user_id,
        invoice_id=invoice_id,
        source=Source(source),
        plan=Plan(
            plan_type=plan_type,
            price=Price(price_amount, price_currency),
            period=period,
            quota=quota,
            scope=Scope(scope),
            features=tuple(features),
        ),
        status=Status(status),
        valid_from=valid_from,
        valid_until=valid_until,
        grace_until=grace_until,
        ended_at=ended_at,
        revoked_at=revoked_at,
        messages_limit=messages_limit,
        messages_used=messages_used,
        messages_used_at_end=messages_used_at_end,
        carried=Carried(Rule(carried_rule), carried_from, carried_time, carried_messages),
    )


_LOCK_CURRENT = f"""
SELECT {COLUMNS} FROM subscriptions
WHERE user_id = ANY ($1::uuid[]) AND status IN ('active', 'grace')
ORDER BY user_id FOR UPDATE
"""


async def lock_current(connection: Connection, users: Iterable[UUID]) -> dict[UserId, Subscription]:
    """Return and lock the current subscription of each user who has one."""
    rows = await connection.fetch(_LOCK_CURRENT, sorted(users))
    return {UserId(row["user_id"]): subscription(row) for row in rows}


_LOCK_HISTORY = f"""
SELECT {COLUMNS} FROM subscriptions WHERE user_id = $1 ORDER BY number FOR UPDATE
"""


async def lock_history(connection: Connection, user_id: UUID) -> tuple[Subscription, ...]:
    """Return and lock everything a user ever bought, in the order of fulfilment."""
    return tuple(subscription(row) for row in await connection.fetch(_LOCK_HISTORY, user_id))


_LOAD_HISTORY = f"""
SELECT {COLUMNS} FROM subscriptions WHERE user_id = $1 ORDER BY number DESC LIMIT $2
"""


async def load_history(connection: Connection, user_id: UUID, limit: int) -> tuple[Subscription, ...]:
    """Return a user's last purchases, newest first."""
    return tuple(subscription(row) for row in await connection.fetch(_LOAD_HISTORY, user_id, limit))


async def count_history(connection: Connection, user_id: UUID) -> int:
    """Return how many purchases of a user there are in all."""
    number: int = await connection.fetchval("SELECT count(*) FROM subscriptions WHERE user_id = $1", user_id)
    return number


_APPEND = """
INSERT INTO subscriptions (
    id, user_id, invoice_id, source, plan_type, price_amount, price_currency, period, quota, scope,
    features, status, valid_from, valid_until, grace_until, ended_at, revoked_at, messages_limit,
    messages_used, messages_used_at_end, carried_rule, carried_from, carried_time, carried_messages)
SELECT id, user_id, invoice_id, source, plan_type, price_amount, price_currency, period, quota, scope,
    string_to_array(features, ','), status, valid_from, valid_until, grace_until, ended_at,
    revoked_at, messages_limit, messages_used, messages_used_at_end, carried_rule, carried_from,
    carried_time, carried_messages
FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::numeric[], $7::text[],
    $8::interval[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::timestamptz[],
    $14::timestamptz[], $15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::bigint[],
    $19::bigint[], $20::bigint[], $21::text[], $22::uuid[], $23::interval[], $24::bigint[])
    WITH ORDINALITY AS row (
    id, user_id, invoice_id, source, plan_type, price_amount, price_currency, period, quota, scope,
    features, status, valid_from, valid_until, grace_until, ended_at, revoked_at, messages_limit,
    messages_used, messages_used_at_end, carried_rule, carried_from, carried_time, carried_messages, place)
ORDER BY place
"""


def append_statement(rows: Sequence[Subscription]) -> Statement | None:
    """Insert new subscriptions, in order. A second one for an invoice breaks R1's constraint."""
    return Statement(_APPEND, _columns([_values(row) for row in rows])) if rows else None


def _values(row: Subscription) -> tuple[Any, ...]:
    return (
        row.id,
        row.user_id,
        row.invoice_id,
        row.source,
        row.plan.plan_type,
        row.plan.price.amount,
        row.plan.price.currency,
        row.plan.period,
        row.plan.quota,
        row.plan.scope,
        ",".join(row.plan.features),
        row.status,
        row.valid_from,
        row.valid_until,
        row.grace_until,
        row.ended_at,
        row.revoked_at,
        row.messages_limit,
        row.messages_used,
        row.messages_used_at_end,
        row.carried.rule,
        row.carried.from_id,
        row.carried.time,
        row.carried.messages,
    )


_SAVE = """
UPDATE subscriptions AS s SET
    status = row.status, valid_until = row.valid_until, grace_until = row.grace_until,
    ended_at = row.ended_at, revoked_at = row.revoked_at, messages_limit = row.messages_limit,
    messages_used_at_end = row.messages_used_at_end, carried_rule = row.carried_rule,
    carried_from = row.carried_from, carried_time = row.carried_time,
    carried_messages = row.carried_messages
FROM unnest(
    $1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
    $7::bigint[], $8::bigint[], $9::text[], $10::uuid[], $11::interval[], $12::bigint[]) AS row (
    id, status, valid_until, grace_until, ended_at, revoked_at, messages_limit, messages_used_at_end,
    carried_rule, carried_from, carried_time, carried_messages)
WHERE s.id = row.id AND s.id = ANY ($1)
"""


def save_statement(rows: Sequence[Subscription]) -> Statement | None:
    """Write what the rules may change; ``messages_used`` is counted elsewhere and never written here.

    Rows that end must be saved before their successor is appended: at most one is current (R12).
    """
    if not rows:
        return None
    values = [
        (
            row.id,
            row.status,
            row.valid_until,
            row.grace_until,
            row.ended_at,
            row.revoked_at,
            row.messages_limit,
            row.messages_used_at_end,
            row.carried.rule,
            row.carried.from_id,
            row.carried.time,
            row.carried.messages,
        )
        for row in rows
    ]
    return Statement(_SAVE, _columns(values))


def _columns(values: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(zip(*values, strict=True))


_DUE = """
SELECT user_id FROM subscriptions
WHERE status IN ('active', 'grace') AND (CASE status WHEN 'grace' THEN grace_until ELSE valid_until END) <= $1
    AND user_id <> ALL ($3::uuid[])
ORDER BY CASE status WHEN 'grace' THEN grace_until ELSE valid_until END LIMIT $2
"""


async def load_due(
    connection: Connection, now: datetime, limit: int, but: Sequence[UUID] = ()
) -> list[UserId]:
    """Return users whose subscription reached an end (of its period, or of its grace), but for ``but``."""
    return [UserId(row["user_id"]) for row in await connection.fetch(_DUE, now, limit, list(but))]


_NEXT_END = """
SELECT min(at) FROM (
    (SELECT CASE status WHEN 'grace' THEN grace_until ELSE valid_until END AS at FROM subscriptions
     WHERE status IN ('active', 'grace') AND user_id <> ALL ($2::uuid[])
     ORDER BY CASE status WHEN 'grace' THEN grace_until ELSE valid_until END LIMIT 1)
    UNION ALL
    (SELECT valid_until - $1::interval FROM subscriptions
     WHERE status = 'active' AND NOT expiring_announced AND user_id <> ALL ($2::uuid[])
     ORDER BY valid_until LIMIT 1)
) AS ends
"""


async def load_next_end(connection: Connection, notice: Any, but: Sequence[UUID] = ()) -> datetime | None:
    """Return when the next subscription ends, but for users in ``but``, or is to be announced."""
    end: datetime | None = await connection.fetchval(_NEXT_END, notice, list(but))
    return end


_ANNOUNCE = f"""
UPDATE subscriptions SET expiring_announced = true
WHERE id IN (
    SELECT id FROM subscriptions
    WHERE status = 'active' AND NOT expiring_announced AND valid_until <= $1::timestamptz + $2::interval
        AND valid_until > $1
    ORDER BY valid_until LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING {COLUMNS}
"""


async def announce_expiring(
    connection: Connection, now: datetime, notice: Any, limit: int
) -> list[Subscription]:
    """Mark and return subscriptions that end within ``notice``, each once in its life."""
    return [subscription(row) for row in await connection.fetch(_ANNOUNCE, now, notice, limit)]
