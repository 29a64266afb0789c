"""Invoices in and out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus, Payment
from kosmo_billing_daemon.domain.plans import Plan, PlanType, Price, Scope
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.store.postgres import Connection, locking

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
SELECT id, user_id, plan_type, amount, currency, period, quota, scope, string_to_array(features, ','),
    'reserved', redirect_url, created_at, $11
FROM unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::numeric[], $5::text[], $6::interval[], $7::bigint[], $8::text[],
    $9::text[], $10::text[], $12::timestamptz[]) AS row (
    id, user_id, plan_type, amount, currency, period, quota, scope, features, redirect_url, created_at)
"""


async def reserve(connection: Connection, reserved: Sequence[Invoice], orphaned_at: datetime) -> None:
    """Insert reservations; reconciliation looks after them from ``orphaned_at`` on."""
    if reserved:
        await connection.execute(
            _RESERVE,
            [row.id for row in reserved],
            [row.user_id for row in reserved],
            [row.plan.plan_type for row in reserved],
            [row.plan.price.amount for row in reserved],
            [row.plan.price.currency for row in reserved],
            [row.plan.period for row in reserved],
            [row.plan.quota for row in reserved],
            [row.plan.scope for row in reserved],
            [",".join(row.plan.features) for row in reserved],
            [row.redirect_url for row in reserved],
            orphaned_at,
            [row.created_at for row in reserved],
        )


_OPEN = f"""
SELECT {COLUMNS} FROM btcpay_invoices
WHERE user_id = ANY ($1::uuid[]) AND status IN ('reserved', 'new', 'processing') ORDER BY created_at
"""


async def load_open(connection: Connection, users: Iterable[UUID]) -> dict[UserId, list[Invoice]]:
    """Return, for each user who has some, the invoices whose end is not known yet, oldest first."""
    found: dict[UserId, list[Invoice]] = {}
    for row in await connection.fetch(_OPEN, list(users)):
        found.setdefault(UserId(row["user_id"]), []).append(invoice(row))
    return found


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


_LOAD = f"SELECT {COLUMNS} FROM btcpay_invoices WHERE id = ANY ($1::uuid[])"


async def load(connection: Connection, ids: Iterable[UUID]) -> dict[InvoiceId, Invoice]:
    """Return these invoices as they are now."""
    return {InvoiceId(row["id"]): invoice(row) for row in await connection.fetch(_LOAD, list(ids))}


_LOCK_OWNERS = locking("(SELECT DISTINCT user_id::text FROM btcpay_invoices WHERE id = ANY ($1::uuid[]))")


async def lock_owners(connection: Connection, ids: Iterable[UUID]) -> None:
    """Lock the users whose invoices these are (``lock_users``), to do so before the invoices."""
    await connection.execute(_LOCK_OWNERS, list(ids))


_LOCK = (
    f"SELECT {COLUMNS}, observation FROM btcpay_invoices WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE"
)


async def lock(connection: Connection, looks: Mapping[InvoiceId, int | None]) -> dict[InvoiceId, Invoice]:
    """Return and lock these invoices, without those that a later look than the one given has seen."""
    found: dict[InvoiceId, Invoice] = {}
    for row in await connection.fetch(_LOCK, list(looks)):
        number = looks[row["id"]]
        if number is None or row["observation"] < number:
            found[InvoiceId(row["id"])] = invoice(row)
    return found


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
    late_unconfirmed_at = row.late_unconfirmed_at, next_check_at = row.next_check_at, observed_at = $13,
    observation = coalesce(row.observation, i.observation)
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
    $8::numeric[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::bigint[]) AS row (
    id, status, payment, effect, btcpay_invoice_id, checkout_url, expires_at, paid_amount, settled_at,
    late_unconfirmed_at, next_check_at, observation)
WHERE i.id = row.id
"""


@dataclass(frozen=True, slots=True)
class Observed:
    """An observed invoice, when to look at it next, and by which look it was seen."""

    invoice: Invoice
    next_check_at: datetime | None
    observation: int | None = None


async def save(connection: Connection, rows: Sequence[Observed], now: datetime) -> None:
    """Write observed invoices."""
    if rows:
        values = [
            (
                row.invoice.id,
                row.invoice.status,
                row.invoice.payment,
                row.invoice.effect,
                row.invoice.btcpay_invoice_id,
                row.invoice.checkout_url,
                row.invoice.expires_at,
                row.invoice.paid_amount,
                row.invoice.settled_at,
                row.invoice.late_unconfirmed_at,
                row.next_check_at,
                row.observation,
            )
            for row in rows
        ]
        await connection.execute(_SAVE, *[list(column) for column in zip(*values, strict=True)], now)


_MATCH = f"""
WITH hint AS (
    SELECT btcpay_id, place, CASE
        WHEN order_id ~ '^[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}$'
        THEN order_id::uuid END AS our_id
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS row (btcpay_id, order_id, place))
SELECT hint.place, {COLUMNS} FROM hint JOIN btcpay_invoices AS i ON i.btcpay_invoice_id = hint.btcpay_id
UNION ALL
SELECT hint.place, {COLUMNS} FROM hint JOIN btcpay_invoices AS i ON i.id = hint.our_id
"""


async def match(
    connection: Connection, hints: Sequence[tuple[str | None, str | None]]
) -> tuple[list[set[InvoiceId]], dict[InvoiceId, Invoice]]:
    """Find the invoices meant by hints ``(BTCPay's invoice id, our order id)``.

    Returns which of ours each hint may mean, and these invoices as they are now.
    """
    found: list[set[InvoiceId]] = [set() for _ in hints]
    known: dict[InvoiceId, Invoice] = {}
    for row in await connection.fetch(_MATCH, [hint[0] for hint in hints], [hint[1] for hint in hints]):
        invoice_id = InvoiceId(row["id"])
        found[row["place"] - 1].add(invoice_id)
        if invoice_id not in known:
            known[invoice_id] = invoice(row)
    return found, known
