"""Cases for the operator: money that needs a decision (R6, R7, R9)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Case, CaseKind, Invoice
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

_OPEN = """
INSERT INTO attention_cases AS c (invoice_id, user_id, kind, detail, amount, opened_at)
SELECT invoice_id, user_id, kind, detail, amount, $6
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::numeric[]) AS row (
    invoice_id, user_id, kind, detail, amount)
ON CONFLICT (invoice_id, kind) DO UPDATE SET
    detail = EXCLUDED.detail, amount = EXCLUDED.amount, opened_at = EXCLUDED.opened_at,
    closed_at = NULL, resolution = NULL
WHERE c.amount IS DISTINCT FROM EXCLUDED.amount
    OR (c.closed_at IS NULL AND c.detail <> EXCLUDED.detail)
RETURNING invoice_id, kind
"""


async def open_cases(
    connection: Connection, cases: Sequence[tuple[Invoice, Case]], now: datetime
) -> set[tuple[UUID, CaseKind]]:
    """List cases and return those that are new; more money reopens a closed one, a repeat is none."""
    if not cases:
        return set()
    rows = await connection.fetch(
        _OPEN,
        [invoice.id for invoice, _ in cases],
        [invoice.user_id for invoice, _ in cases],
        [case.kind for _, case in cases],
        [case.detail for _, case in cases],
        [case.amount for _, case in cases],
        now,
    )
    return {(row["invoice_id"], CaseKind(row["kind"])) for row in rows}


_CLOSE = """
UPDATE attention_cases AS c SET
    closed_at = coalesce(c.closed_at, $4), resolution = coalesce(c.resolution, $3)
FROM unnest($1::uuid[], $2::text[]) AS row (invoice_id, kind)
WHERE c.invoice_id = row.invoice_id AND c.invoice_id = ANY ($1) AND c.kind = row.kind
"""


def close_statement(
    cases: Sequence[tuple[UUID, CaseKind]], resolution: str, now: datetime
) -> Statement | None:
    """Close what is open of these."""
    if not cases:
        return None
    return Statement(_CLOSE, [*zip(*cases, strict=True), resolution, now])
