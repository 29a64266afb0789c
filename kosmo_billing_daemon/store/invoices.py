"""Invoices in and out."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus, Payment
from kosmo_billing_daemon.domain.plans import Plan, PlanType, Price, Scope
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.store.postgres import Connection

COLUMNS = """
id, user_id, plan_type, amount, currency, period, quota, scope, features, status, payment, effect,
btcpay_invoice_id, checkout_url, redirect_url, paid_amount, created_at, expires_at, settled_at,
late_unconfirmed_at
"""


def invoice(row: Any) -> Invoice:
    """Build the domain object from a row with ``COLUMNS``."""
    return Invoice(
        id=InvoiceId(row["id"]),
        user_id=UserId(row["user_id"]),
        plan=Plan(
            plan_type=PlanType(row["plan_type"]),
            price=Price(row["amount"], row["currency"]),
            period=row["period"],
            quota=row["quota"],
            scope=Scope(row["scope"]),
            features=tuple(row["features"]),
        ),
        status=InvoiceStatus(row["status"]),
        payment=Payment(row["payment"]),
        effect=Effect(row["effect"]),
        btcpay_invoice_id=row["btcpay_invoice_id"],
        checkout_url=row["checkout_url"],
        redirect_url=row["redirect_url"],
        paid_amount=row["paid_amount"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        settled_at=row["settled_at"],
        late_unconfirmed_at=row["late_unconfirmed_at"],
    )


_RESERVE = """
INSERT INTO btcpay_invoices (
    id, user_id, plan_type, amount, currency, period, quota, scope, features, status, redirect_url,
    created_at, next_check_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'reserved', $10, $11, $12)
"""


async def reserve(connection: Connection, reserved: Invoice, orphaned_at: datetime) -> None:
    """Insert a reservation; reconciliation looks after it from ``orphaned_at`` on."""
    plan = reserved.plan
    await connection.execute(
        _RESERVE,
        reserved.id,
        reserved.user_id,
        plan.plan_type,
        plan.price.amount,
        plan.price.currency,
        plan.period,
        plan.quota,
        plan.scope,
        list(plan.features),
        reserved.redirect_url,
        reserved.created_at,
        orphaned_at,
    )


_FIND_OPEN = f"""
SELECT {COLUMNS} FROM btcpay_invoices
WHERE user_id = $1 AND plan_type = $2 AND status IN ('reserved', 'new') AND payment = 'none'
    AND (expires_at IS NULL OR expires_at > $3)
ORDER BY created_at DESC LIMIT 1
"""


async def find_open(connection: Connection, user_id: UUID, plan_type: str, now: datetime) -> Invoice | None:
    """Return the user's unpaid, unexpired invoice for a plan, if there is one (R10)."""
    row = await connection.fetchrow(_FIND_OPEN, user_id, plan_type, now)
    return None if row is None else invoice(row)


_PROCESSING = """
SELECT id, user_id FROM btcpay_invoices
WHERE user_id = ANY ($1::uuid[]) AND status = 'processing' AND effect = 'none'
"""


async def load_processing(connection: Connection, users: Iterable[UUID]) -> dict[UserId, set[InvoiceId]]:
    """Return, for each user who has some, the invoices that are confirming (R5)."""
    processing: dict[UserId, set[InvoiceId]] = {}
    for row in await connection.fetch(_PROCESSING, list(users)):
        processing.setdefault(UserId(row["user_id"]), set()).add(InvoiceId(row["id"]))
    return processing


_PROCESSING_PLANS = f"""
SELECT {COLUMNS} FROM btcpay_invoices
WHERE user_id = $1 AND status = 'processing' AND effect = 'none' ORDER BY created_at
"""


async def load_confirming(connection: Connection, user_id: UUID) -> list[Invoice]:
    """Return the user's invoices whose money is already on its way (R11)."""
    return [invoice(row) for row in await connection.fetch(_PROCESSING_PLANS, user_id)]


_LOAD = f"SELECT {COLUMNS} FROM btcpay_invoices WHERE id = ANY ($1::uuid[])"


async def load(connection: Connection, ids: Iterable[UUID]) -> dict[InvoiceId, Invoice]:
    """Return these invoices as they are now."""
    return {InvoiceId(row["id"]): invoice(row) for row in await connection.fetch(_LOAD, list(ids))}


_LOCK = _LOAD + " AND ($2::bigint IS NULL OR observation < $2) ORDER BY id FOR UPDATE"


async def lock(
    connection: Connection, ids: Iterable[UUID], observation: int | None = None
) -> dict[InvoiceId, Invoice]:
    """Return and lock these invoices, without those that a later look than ``observation`` has seen."""
    rows = await connection.fetch(_LOCK, list(ids), observation)
    return {InvoiceId(row["id"]): invoice(row) for row in rows}


async def number_observation(connection: Connection) -> int:
    """Return the number of a look that is about to be asked for."""
    number: int = await connection.fetchval("SELECT nextval('observations')")
    return number


_LOAD_OF_USER = f"SELECT {COLUMNS} FROM btcpay_invoices WHERE btcpay_invoice_id = $1 AND user_id = $2"


async def load_of_user(connection: Connection, btcpay_invoice_id: str, user_id: UUID) -> Invoice | None:
    """Return one invoice if it belongs to the user."""
    row = await connection.fetchrow(_LOAD_OF_USER, btcpay_invoice_id, user_id)
    return None if row is None else invoice(row)


_PAGE = f"""
SELECT {COLUMNS} FROM btcpay_invoices
WHERE user_id = $1 AND status <> ALL ('{{reserved,abandoned}}'::text[])
    AND ($2::text IS NULL OR status = $2) AND (created_at, id) < ($3, $4)
ORDER BY created_at DESC, id DESC LIMIT $5
"""


async def load_page(
    connection: Connection,
    user_id: UUID,
    status: str | None,
    before: tuple[datetime, UUID],
    limit: int,
) -> list[Invoice]:
    """Return the user's invoices older than ``before``, newest first; new ones do not shift pages."""
    return [invoice(row) for row in await connection.fetch(_PAGE, user_id, status, *before, limit)]


_TO_CHECK = f"""
SELECT {COLUMNS} FROM btcpay_invoices WHERE next_check_at <= $1 ORDER BY next_check_at LIMIT $2
"""


async def load_to_check(connection: Connection, now: datetime, limit: int) -> list[Invoice]:
    """Return invoices whose time has come to be looked at, reservations included."""
    return [invoice(row) for row in await connection.fetch(_TO_CHECK, now, limit)]


_NEXT_CHECK = """
SELECT next_check_at FROM btcpay_invoices
WHERE next_check_at IS NOT NULL ORDER BY next_check_at LIMIT 1
"""


async def load_next_check(connection: Connection) -> datetime | None:
    """Return when the next invoice is to be looked at."""
    at: datetime | None = await connection.fetchval(_NEXT_CHECK)
    return at


_CHECK_ALL = """
UPDATE btcpay_invoices SET next_check_at = $1 WHERE next_check_at > $1 AND status <> 'reserved'
"""


async def check_all_at(connection: Connection, at: datetime) -> None:
    """Let every open invoice be looked at by ``at``: after a start, hints may have been missed."""
    await connection.execute(_CHECK_ALL, at)


_POSTPONE = (
    "UPDATE btcpay_invoices SET next_check_at = $2 WHERE id = ANY ($1::uuid[]) AND next_check_at <= $3"
)


async def postpone(
    connection: Connection, ids: Iterable[UUID], until: datetime | None, now: datetime
) -> None:
    """Put off looking at invoices that could not be looked at now."""
    await connection.execute(_POSTPONE, list(ids), until, now)


async def abandon(connection: Connection, ids: Iterable[UUID]) -> None:
    """Give up reservations that never got an invoice at BTCPay."""
    await connection.execute(
        "UPDATE btcpay_invoices SET status = 'abandoned', next_check_at = NULL"
        " WHERE id = ANY ($1::uuid[]) AND status = 'reserved'",
        list(ids),
    )


async def claim_refresh(connection: Connection, invoice_id: UUID, now: datetime, interval: timedelta) -> bool:
    """Say whether the invoice was last observed longer ago than ``interval``, and note that it is now."""
    result = await connection.execute(
        "UPDATE btcpay_invoices SET observed_at = $2"
        " WHERE id = $1 AND (observed_at IS NULL OR observed_at <= $2::timestamptz - $3::interval)",
        invoice_id,
        now,
        interval,
    )
    return bool(result == "UPDATE 1")


_SAVE = """
UPDATE btcpay_invoices AS i SET
    status = row.status, payment = row.payment, effect = row.effect,
    btcpay_invoice_id = row.btcpay_invoice_id, checkout_url = row.checkout_url,
    expires_at = row.expires_at, paid_amount = row.paid_amount, settled_at = row.settled_at,
    late_unconfirmed_at = row.late_unconfirmed_at, next_check_at = row.next_check_at, observed_at = $12,
    observation = coalesce($13, i.observation)
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
    $8::numeric[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[]) AS row (
    id, status, payment, effect, btcpay_invoice_id, checkout_url, expires_at, paid_amount, settled_at,
    late_unconfirmed_at, next_check_at)
WHERE i.id = row.id
"""


async def save(
    connection: Connection,
    rows: Sequence[tuple[Invoice, datetime | None]],
    now: datetime,
    observation: int | None = None,
) -> None:
    """Write observed invoices, each with the time of its next check, and by which look they were seen."""
    if rows:
        values = [
            (
                row.id,
                row.status,
                row.payment,
                row.effect,
                row.btcpay_invoice_id,
                row.checkout_url,
                row.expires_at,
                row.paid_amount,
                row.settled_at,
                row.late_unconfirmed_at,
                next_check_at,
            )
            for row, next_check_at in rows
        ]
        await connection.execute(
            _SAVE, *[list(column) for column in zip(*values, strict=True)], now, observation
        )


_LOAD_USERS = "SELECT id, user_id FROM btcpay_invoices WHERE id = ANY ($1::uuid[])"


async def load_users(connection: Connection, ids: Iterable[UUID]) -> set[UserId]:
    """Return whose invoices these are, to lock the users before the invoices."""
    return {UserId(row["user_id"]) for row in await connection.fetch(_LOAD_USERS, list(ids))}


_MATCH = """
WITH hint AS (
    SELECT btcpay_id, place, CASE
        WHEN order_id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        THEN order_id::uuid END AS our_id
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS row (btcpay_id, order_id, place))
SELECT hint.place, i.id FROM hint JOIN btcpay_invoices AS i ON i.btcpay_invoice_id = hint.btcpay_id
UNION
SELECT hint.place, i.id FROM hint JOIN btcpay_invoices AS i ON i.id = hint.our_id
"""


async def match(
    connection: Connection, hints: Sequence[tuple[str | None, str | None]]
) -> list[set[InvoiceId]]:
    """Return, for each hint ``(BTCPay's invoice id, our order id)``, which of our invoices it may mean."""
    found: list[set[InvoiceId]] = [set() for _ in hints]
    rows = await connection.fetch(_MATCH, [hint[0] for hint in hints], [hint[1] for hint in hints])
    for row in rows:
        found[row["place"] - 1].add(InvoiceId(row["id"]))
    return found
