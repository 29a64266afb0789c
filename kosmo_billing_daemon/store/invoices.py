"""Invoices in and out."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus, Payment
from kosmo_billing_daemon.domain.plans import Plan, Price, Scope
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

COLUMNS = """
id, user_id, plan_type, amount, currency, period, quota, scope, features, status, payment, effect,
btcpay_invoice_id, checkout_url, redirect_url, paid_amount, created_at, expires_at, settled_at,
late_unconfirmed_at
"""


WIDTH = COLUMNS.count(",") + 1


def invoice(row: Any) -> Invoice:
    """Build the domain object from a row that begins with ``COLUMNS``."""
    (
        invoice_id,
        user_id,
        plan_type,
        amount,
        currency,
        period,
        quota,
        scope,
        features,
        status,
        payment,
        effect,
        btcpay_invoice_id,
        checkout_url,
        redirect_url,
        paid_amount,
        created_at,
        expires_at,
        settled_at,
        late_unconfirmed_at,
    ) = row[:WIDTH]
    return Invoice(
        id=invoice_id,
        user_id=user_id,
        plan=Plan(
            plan_type=plan_type,
            price=Price(amount, currency),
            period=period,
            quota=quota,
            scope=Scope(scope),
            features=tuple(features),
        ),
        status=InvoiceStatus(status),
        payment=Payment(payment),
        effect=Effect(effect),
        btcpay_invoice_id=btcpay_invoice_id,
        checkout_url=checkout_url,
        redirect_url=redirect_url,
        paid_amount=paid_amount,
        created_at=created_at,
        expires_at=expires_at,
        settled_at=settled_at,
        late_unconfirmed_at=late_unconfirmed_at,
    )


_RESERVE = """
INSERT INTO btcpay_invoices (
    id, user_id, plan_type, amount, currency, period, quota, scope, features, status, redirect_url,
    created_at, next_check_at)
SELECT id, user_id, plan_type, amount, currency, period, quota, scope, string_to_array(features, ','),
    'reserved', redirect_url, created_at, $12
FROM unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::numeric[], $5::text[], $6::interval[], $7::bigint[], $8::text[],
    $9::text[], $10::text[], $11::timestamptz[]) AS row (
    id, user_id, plan_type, amount, currency, period, quota, scope, features, redirect_url, created_at)
"""


def reserve_statement(reserved: Sequence[Invoice], orphaned_at: datetime) -> Statement | None:
    """Insert reservations; reconciliation looks after them from ``orphaned_at`` on."""
    if not reserved:
        return None
    values = [
        (
            row.id,
            row.user_id,
            row.plan.plan_type,
            row.plan.price.amount,
            row.plan.price.currency,
            row.plan.period,
            row.plan.quota,
            row.plan.scope,
            ",".join(row.plan.features),
            row.redirect_url,
            row.created_at,
        )
        for row in reserved
    ]
    return Statement(_RESERVE, [*zip(*values, strict=True), orphaned_at])


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
SELECT {COLUMNS} FROM btcpay_invoices WHERE next_check_at <= $1 AND id <> ALL ($3::uuid[])
ORDER BY next_check_at LIMIT $2
"""


async def load_to_check(
    connection: Connection, now: datetime, limit: int, but: Sequence[UUID] = ()
) -> list[Invoice]:
    """Return invoices whose time has come to be looked at, reservations too, without those in ``but``."""
    return [invoice(row) for row in await connection.fetch(_TO_CHECK, now, limit, but)]


_NEXT_CHECK = """
SELECT next_check_at FROM btcpay_invoices
WHERE next_check_at IS NOT NULL AND id <> ALL ($1::uuid[]) ORDER BY next_check_at LIMIT 1
"""


async def load_next_check(connection: Connection, but: Sequence[UUID] = ()) -> datetime | None:
    """Return when the next invoice is to be looked at, without those in ``but``."""
    at: datetime | None = await connection.fetchval(_NEXT_CHECK, but)
    return at


_CHECK_ALL = """
UPDATE btcpay_invoices SET next_check_at = $1 WHERE id = ANY (ARRAY(
    SELECT id FROM btcpay_invoices WHERE next_check_at > $1 AND status <> 'reserved' FOR UPDATE SKIP LOCKED))
"""


async def check_all_at(connection: Connection, at: datetime) -> None:
    """Let every open invoice be looked at by ``at``: after a start, hints may have been missed.

    A row that a writer holds is left to its own time.
    """
    await connection.execute(_CHECK_ALL, at)


_POSTPONE = """
UPDATE btcpay_invoices SET next_check_at = later.at
FROM unnest($1::uuid[], $2::timestamptz[]) AS later (id, at)
WHERE btcpay_invoices.id = later.id AND btcpay_invoices.id = ANY ($1) AND next_check_at <= $3
"""


async def postpone(connection: Connection, later: Mapping[InvoiceId, datetime | None], now: datetime) -> None:
    """Put off looking at invoices that could not be looked at now, each to its own time or for ever."""
    await connection.execute(_POSTPONE, list(later), list(later.values()), now)


async def abandon(connection: Connection, ids: Iterable[UUID]) -> None:
    """Give up reservations that never got an invoice at BTCPay."""
    await connection.execute(
        "UPDATE btcpay_invoices SET status = 'abandoned', next_check_at = NULL"
        " WHERE id = ANY ($1::uuid[]) AND status = 'reserved'",
        list(ids),
    )


async def release(connection: Connection, invoice_id: UUID, at: datetime) -> None:
    """Let a reservation be looked at from ``at`` on: whoever made it does not know what became of it."""
    await connection.execute(
        "UPDATE btcpay_invoices SET next_check_at = $2 WHERE id = $1 AND status = 'reserved'", invoice_id, at
    )


_TAKE_OVER = """
UPDATE btcpay_invoices SET next_check_at = created_at + $2::interval
WHERE id = $1 AND status = 'reserved' AND next_check_at <> created_at + $2::interval
"""


async def take_over(connection: Connection, invoice_id: UUID, orphaned_after: timedelta) -> bool:
    """Say whether a reservation was released, and hold it again: of several who ask, one gets it."""
    result = await connection.execute(_TAKE_OVER, invoice_id, orphaned_after)
    return bool(result == "UPDATE 1")


async def decide(
    connection: Connection, invoice_id: UUID, effect: Effect, instead_of: Iterable[Effect]
) -> bool:
    """Write an operator's decision on an invoice; say whether that changed anything."""
    result = await connection.execute(
        "UPDATE btcpay_invoices SET effect = $2 WHERE id = $1 AND effect = ANY ($3::text[])",
        invoice_id,
        effect,
        list(instead_of),
    )
    return bool(result == "UPDATE 1")


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
WHERE i.id = row.id AND i.id = ANY ($1)
"""


@record
class Observed:
    """An observed invoice, when to look at it next, and by which look it was seen."""

    invoice: Invoice
    next_check_at: datetime | None
    observation: int | None = None


def save_statement(rows: Sequence[Observed], now: datetime) -> Statement | None:
    """Write observed invoices."""
    if not rows:
        return None
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
    return Statement(_SAVE, [*zip(*values, strict=True), now])
