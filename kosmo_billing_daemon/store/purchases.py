"""What users have and are buying, read at once: by it an observation is evaluated, and an invoice opened."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, Subscription, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import subscriptions
from kosmo_billing_daemon.store.invoices import COLUMNS, RECENT, invoice
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import PLACE, learn


@record
class Purchase:
    """An invoice as it is now, and what its user has.

    ``confirming`` are the user's invoices whose payment is seen and not final (R5); ``observation`` is the
    number of the last one of this invoice; ``has_cases`` says whether any of its cases is open.
    """

    invoice: Invoice
    observation: int
    next_check_at: datetime | None
    current: Subscription | None
    confirming: frozenset[InvoiceId]
    has_cases: bool


# Subscriptions are locked in the order of their users, as everybody does: the rows of the first part come
# sorted, and each is joined when it comes.
_LOCK = f"""
SELECT i.*, s.* FROM (
    SELECT {COLUMNS}, observation, next_check_at, ARRAY(
            SELECT id FROM btcpay_invoices AS other
            WHERE other.user_id = one.user_id AND other.created_at > one.created_at - {RECENT}
                AND other.status = 'processing' AND other.effect = 'none'),
        coalesce((SELECT bool_or(closed_at IS NULL) FROM attention_cases WHERE invoice_id = one.id), false)
    FROM btcpay_invoices AS one WHERE id = ANY ($1::uuid[]) ORDER BY user_id, id
) AS i LEFT JOIN LATERAL (
    SELECT {subscriptions.LOADED} FROM subscriptions
    WHERE user_id = i.user_id AND status IN ('active', 'grace') FOR UPDATE
) AS s ON true
"""


_BOUGHT = COLUMNS.width + 4


async def lock(connection: Connection, ids: Iterable[UUID]) -> list[Purchase]:
    """Return invoices and their users' current subscriptions, and lock those; the users are locked before."""
    found: list[Purchase] = []
    rows = await connection.fetch(_LOCK, list(ids))
    for row in await learn(connection, rows, (PLACE, _BOUGHT + PLACE)):
        observation, next_check_at, confirming, has_cases = row[COLUMNS.width : _BOUGHT]
        bought = row[_BOUGHT:]
        current = None if bought[0] is None else subscriptions.subscription(bought)
        found.append(
            Purchase(invoice(row), observation, next_check_at, current, frozenset(confirming), has_cases)
        )
    return found


@dataclass(slots=True)
class Holdings:
    """What a user has, and the invoices whose end is not known yet, oldest first."""

    current: Subscription | None = None
    open: list[Invoice] = field(default_factory=list)


# OFFSET 0 keeps each of them a look-up per user: joined, all open invoices there are would be read for a few.
_LOAD = f"""
SELECT i.*, s.*, u.user_id FROM unnest($1::uuid[]) AS u (user_id) LEFT JOIN LATERAL (
    SELECT {COLUMNS} FROM btcpay_invoices
    WHERE user_id = u.user_id AND created_at > $2::timestamptz - {RECENT}
        AND status IN ('reserved', 'new', 'processing') OFFSET 0
) AS i ON true LEFT JOIN LATERAL (
    SELECT {subscriptions.LOADED} FROM subscriptions
    WHERE user_id = u.user_id AND status IN ('active', 'grace') OFFSET 0
) AS s ON true
ORDER BY i.created_at
"""


async def load(connection: Connection, users: Iterable[UUID], now: datetime) -> dict[UserId, Holdings]:
    """Return what each of these users has, who are locked before."""
    found: dict[UserId, Holdings] = {}
    rows = await connection.fetch(_LOAD, list(users), now)
    for row in await learn(connection, rows, (PLACE, COLUMNS.width + PLACE)):
        having = found.setdefault(row[-1], Holdings())
        if row[0] is not None:
            having.open.append(invoice(row))
        if row[COLUMNS.width] is not None:
            having.current = subscriptions.subscription(row[COLUMNS.width :])
    return found
