"""Who chose to have plans renewed from credit, and which renewals were announced."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import Subscription, SubscriptionId, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import subscriptions
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection


@record
class Upcoming:
    """What comes before the end of a subscription: the next reminder, ``reminder_hours`` before it.

    ``renews`` says that its user chose renewal, ``is_announced`` that this renewal was announced.
    """

    reminder_hours: int
    renews: bool
    is_announced: bool


_UPCOMING = """
SELECT s.id, s.reminder_hours, coalesce(a.is_on, false) AS renews,
    coalesce(a.announced = s.id, false) AS is_announced
FROM subscriptions AS s LEFT JOIN auto_renewals AS a ON a.user_id = s.user_id WHERE s.id = ANY ($1::uuid[])
"""


async def load_upcoming(connection: Connection, ids: Sequence[UUID]) -> dict[SubscriptionId, Upcoming]:
    """Return what comes before the end of each of these subscriptions."""
    rows = await connection.fetch(_UPCOMING, list(ids))
    return {
        SubscriptionId(row["id"]): Upcoming(row["reminder_hours"], row["renews"], row["is_announced"])
        for row in rows
    }


async def is_on(connection: Connection, user_id: UUID) -> bool:
    """Say whether a user chose renewal."""
    return bool(await connection.fetchval("SELECT is_on FROM auto_renewals WHERE user_id = $1", user_id))


_CHOOSE = """
INSERT INTO auto_renewals AS a (user_id, is_on, chosen_at) VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE SET is_on = EXCLUDED.is_on, chosen_at = EXCLUDED.chosen_at
WHERE a.is_on <> EXCLUDED.is_on
"""


async def choose(connection: Connection, user_id: UUID, now: datetime, *, auto: bool) -> None:
    """Note a user's choice, whose lock is held; a repeat changes nothing."""
    await connection.execute(_CHOOSE, user_id, auto, now)


_ANNOUNCE = """
UPDATE auto_renewals AS a SET announced = row.id
FROM unnest($1::uuid[], $2::uuid[]) AS row (user_id, id)
WHERE a.user_id = row.user_id AND a.user_id = ANY ($1)
"""


def announce_statement(announced: Sequence[tuple[UUID, UUID]]) -> Statement | None:
    """Note that renewals are announced, given as ``(user, subscription)``."""
    return Statement(_ANNOUNCE, list(zip(*announced, strict=True))) if announced else None


_LAPSED = f"""
SELECT s.* FROM lapses AS l JOIN auto_renewals AS a ON a.user_id = l.user_id, LATERAL (
    SELECT {subscriptions.LOADED} FROM subscriptions WHERE user_id = l.user_id ORDER BY number DESC LIMIT 1
) AS s
WHERE l.user_id = ANY ($1::uuid[]) AND a.is_on AND s.status = 'expired' AND s.cashed_at IS NULL
"""


async def load_lapsed(connection: Connection, users: Sequence[UUID]) -> dict[UserId, Subscription]:
    """Return the last subscription of each user for whom it ran out, and who chose renewal."""
    rows = await subscriptions.fetched(connection, await connection.fetch(_LAPSED, list(users)))
    return {row.user_id: row for row in rows}


def forget_lapses_statement(users: Sequence[UUID]) -> Statement:
    """Note that it is decided whether these users' plans are renewed."""
    return Statement("DELETE FROM lapses WHERE user_id = ANY ($1::uuid[])", [list(users)])
