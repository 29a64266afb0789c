"""Invoices in and out."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus, Payment
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection, changed
from kosmo_billing_daemon.store.quotes import learn, plan

COLUMNS = Columns(
    ("id", "uuid", "id"),
    ("user_id", "uuid", "user_id"),
    ("quote_id", "uuid", "plan.quote_id"),
    ("status", "text", "status"),
    ("payment", "text", "payment"),
    ("effect", "text", "effect"),
    ("btcpay_invoice_id", "text", "btcpay_invoice_id"),
    ("checkout_url", "text", "checkout_url"),
    ("redirect_url", "text", "redirect_url"),
    ("paid_amount", "numeric", "paid_amount"),
    ("created_at", "timestamptz", "created_at"),
    ("expires_at", "timestamptz", "expires_at"),
    ("settled_at", "timestamptz", "settled_at"),
    ("late_unconfirmed_at", "timestamptz", "late_unconfirmed_at"),
    ("credit_used", "numeric", "credit_used"),
    ("received", "numeric", "received"),
    ("adjusted", "numeric", "adjusted"),
)


_PLAIN = [name for name, _, _ in COLUMNS][6:]
"""The columns after the first six, whose values are the fields of the same names as they are."""


def invoice(row: Any) -> Invoice:
    """Build the domain object from a row that begins with ``COLUMNS`` and whose quote is learned."""
    invoice_id, user_id, quote_id, status, payment, effect, *values = row[: COLUMNS.width]
    return Invoice(
        id=invoice_id,
        user_id=user_id,
        plan=plan(quote_id),
        status=InvoiceStatus(status),
        payment=Payment(payment),
        effect=Effect(effect),
        **dict(zip(_PLAIN, values, strict=True)),
    )


async def fetched(connection: Connection, rows: Sequence[Any]) -> list[Invoice]:
    """Build the domain objects from rows that begin with ``COLUMNS``."""
    return [invoice(row) for row in await learn(connection, rows)]


_RESERVED = COLUMNS.only("id", "user_id", "quote_id", "status", "redirect_url", "created_at", "credit_used")
_RESERVE = _RESERVED.insert("btcpay_invoices", {"next_check_at": "$8"})


def reserve_statement(reserved: Sequence[Invoice], next_check_at: datetime) -> Statement | None:
    """Insert reservations, held by whoever makes them; their lookups are appended beside."""
    return Statement(_RESERVE, [*_RESERVED.values(reserved), next_check_at]) if reserved else None


_PAID_BY_CREDIT = COLUMNS.only(
    "id", "user_id", "quote_id", "status", "effect", "redirect_url", "created_at", "settled_at", "credit_used"
)
_APPEND_PAID = _PAID_BY_CREDIT.insert("btcpay_invoices")


def append_paid_statement(paid: Sequence[Invoice]) -> Statement | None:
    """Insert invoices that credit has paid in full, so that BTCPay is not asked for anything."""
    return Statement(_APPEND_PAID, _PAID_BY_CREDIT.values(paid)) if paid else None


RECENT = "interval '30 days'"
"""The age of an invoice beyond which it is not open: a user's older ones are not read at each purchase."""

_PROCESSING = f"""
SELECT id, user_id FROM btcpay_invoices
WHERE user_id = ANY ($1::uuid[]) AND created_at > $2::timestamptz - {RECENT}
    AND status = 'processing' AND effect = 'none'
"""


async def load_processing(
    connection: Connection, users: Iterable[UUID], now: datetime
) -> dict[UserId, set[InvoiceId]]:
    """Return, for each user who has some, the invoices that are confirming (R5)."""
    processing: dict[UserId, set[InvoiceId]] = {}
    for row in await connection.fetch(_PROCESSING, list(users), now):
        processing.setdefault(UserId(row["user_id"]), set()).add(InvoiceId(row["id"]))
    return processing


_LOAD = f"SELECT {COLUMNS} FROM btcpay_invoices WHERE id = ANY ($1::uuid[])"


async def load(connection: Connection, ids: Iterable[UUID]) -> dict[InvoiceId, Invoice]:
    """Return these invoices as they are now."""
    found = await fetched(connection, await connection.fetch(_LOAD, list(ids)))
    return {each.id: each for each in found}


_ATTACHED = f"""
SELECT {COLUMNS} FROM btcpay_invoices
WHERE id IN (SELECT invoice_id FROM attachments WHERE btcpay_invoice_id = ANY ($1::text[]))
"""


async def load_attached(connection: Connection, btcpay_ids: Iterable[str]) -> dict[str, Invoice]:
    """Return the invoices that have these ids at BTCPay."""
    found = await fetched(connection, await connection.fetch(_ATTACHED, list(btcpay_ids)))
    return {each.btcpay_invoice_id: each for each in found if each.btcpay_invoice_id is not None}


_CREATED = (
    f"SELECT {COLUMNS} FROM btcpay_invoices WHERE created_at >= $1 AND created_at < $2 ORDER BY created_at"
)


async def load_created(connection: Connection, first: datetime, before: datetime) -> list[Invoice]:
    """Return what was created in a period."""
    return await fetched(connection, await connection.fetch(_CREATED, first, before))


async def number_observation(connection: Connection) -> int:
    """Return the number of a lookup that is about to be asked for."""
    return int(await connection.fetchval("SELECT nextval('observations')"))


async def number_above(connection: Connection, observation: int) -> None:
    """Let all lookups that are asked for from now on have greater numbers than this.

    One may lie ahead: it was drawn before a failover that lost it, and its answer was written after.
    """
    await connection.execute(
        "SELECT setval('observations', $1) FROM observations WHERE last_value < $1", observation
    )


_FIND = f"""
SELECT {COLUMNS} FROM btcpay_invoices
WHERE id = (SELECT invoice_id FROM attachments WHERE btcpay_invoice_id = $1)
UNION ALL
SELECT {COLUMNS} FROM btcpay_invoices WHERE id = $2
LIMIT 1
"""


async def find_invoice(connection: Connection, name: str) -> Invoice | None:
    """Return an invoice by BTCPay's id of it or by our order id."""
    try:
        our_id = UUID(name)
    except ValueError:
        our_id = None
    return next(iter(await fetched(connection, await connection.fetch(_FIND, name, our_id))), None)


async def load_of_user(connection: Connection, name: str, user_id: UUID) -> Invoice | None:
    """Return an invoice by either of its names, if it belongs to the user."""
    found = await find_invoice(connection, name)
    return found if found is not None and found.user_id == user_id else None


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
    return await fetched(connection, await connection.fetch(_PAGE, user_id, status, *before, limit))


_SAVE_CHECKS = """
UPDATE btcpay_invoices AS old SET next_check_at = row.next_check_at
FROM unnest($1::uuid[], $2::timestamptz[]) AS row (id, next_check_at)
WHERE old.id = row.id AND old.id = ANY ($1)
"""


def save_checks_statement(checks: Mapping[InvoiceId, datetime | None]) -> Statement | None:
    """Note when invoices of which nothing was observed are polled next, or that they are not."""
    return Statement(_SAVE_CHECKS, [list(checks), list(checks.values())]) if checks else None


async def abandon(connection: Connection, ids: Iterable[UUID]) -> None:
    """Give up reservations that never got an invoice at BTCPay."""
    await connection.execute(
        "UPDATE btcpay_invoices SET status = 'abandoned', next_check_at = NULL"
        " WHERE id = ANY ($1::uuid[]) AND status = 'reserved'",
        list(ids),
    )


_RELEASE = """
WITH released AS (
    UPDATE btcpay_invoices SET is_released = true WHERE id = $1 AND status = 'reserved' RETURNING id)
INSERT INTO lookups (due_at, invoice_id) SELECT $2, id FROM released
"""


async def release(connection: Connection, invoice_id: UUID, at: datetime) -> None:
    """Let go of a reservation whose fate its maker does not know, and have it looked up ``at``."""
    await connection.execute(_RELEASE, invoice_id, at)


_TAKE_OVER = """
UPDATE btcpay_invoices SET is_released = false WHERE id = $1 AND status = 'reserved' AND is_released
"""


async def take_over(connection: Connection, invoice_id: UUID) -> bool:
    """Say whether a reservation was released, and hold it again: of several who ask, one gets it."""
    return bool(changed(await connection.execute(_TAKE_OVER, invoice_id)))


async def adjust(connection: Connection, invoice_id: UUID, adjusted: Decimal) -> None:
    """Note what an operator granted or wrote off, which the ledger has too."""
    await connection.execute("UPDATE btcpay_invoices SET adjusted = $2 WHERE id = $1", invoice_id, adjusted)


_RESERVED_CREDIT = """
SELECT i.user_id, q.currency, sum(i.credit_used) AS amount
FROM btcpay_invoices AS i JOIN quotes AS q ON q.id = i.quote_id
WHERE i.user_id = ANY ($1::uuid[]) AND i.status IN ('reserved', 'new', 'processing') AND i.effect = 'none'
    AND i.credit_used > 0
GROUP BY i.user_id, q.currency
"""


async def load_reserved_credit(
    connection: Connection, users: Iterable[UUID]
) -> dict[tuple[UserId, str], Decimal]:
    """Return the credit that is kept for open invoices (R15)."""
    rows = await connection.fetch(_RESERVED_CREDIT, list(users))
    return {(UserId(row["user_id"]), row["currency"]): row["amount"] for row in rows}


_DECIDE = "UPDATE btcpay_invoices SET effect = $2 WHERE id = $1 AND effect = ANY ($3::text[])"


async def decide(
    connection: Connection, invoice_id: UUID, effect: Effect, instead_of: Iterable[Effect]
) -> bool:
    """Write an operator's decision on an invoice; say whether that changed anything."""
    return bool(changed(await connection.execute(_DECIDE, invoice_id, effect, list(instead_of))))


_CLAIM_REFRESH = """
UPDATE btcpay_invoices SET observed_at = $2
WHERE id = $1 AND (observed_at IS NULL OR observed_at <= $2::timestamptz - $3::interval)
"""


async def claim_refresh(connection: Connection, invoice_id: UUID, now: datetime, interval: timedelta) -> bool:
    """Say whether the invoice was last observed longer ago than ``interval``, and note that it is now."""
    return bool(changed(await connection.execute(_CLAIM_REFRESH, invoice_id, now, interval)))


@record
class Observed:
    """An observed invoice, when it is polled next, and the number of that observation."""

    invoice: Invoice
    next_check_at: datetime | None
    observation: int


_SAVED = Columns(
    *(
        (name, kind, f"invoice.{path}")
        for name, kind, path in COLUMNS.but(
            "user_id", "quote_id", "redirect_url", "created_at", "credit_used"
        )
    ),
    ("next_check_at", "timestamptz", "next_check_at"),
    ("observation", "bigint", "observation"),
)
_SAVE = _SAVED.update("btcpay_invoices", {"observed_at": "$15"})


def save_statement(rows: Sequence[Observed], now: datetime) -> Statement | None:
    """Write observed invoices."""
    return Statement(_SAVE, [*_SAVED.values(rows), now]) if rows else None
