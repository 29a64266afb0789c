"""Cases for the operator: money that needs a decision (R6, R7, R9)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Case, CaseKind, Invoice
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

OUTDATED = "BTCPay shows this invoice differently now"
"""How a case is closed whose money is now listed under another kind."""

_OPEN = """
INSERT INTO attention_cases AS c (invoice_id, user_id, kind, detail, amount, opened_at)
SELECT invoice_id, user_id, kind, detail, amount, $6
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::numeric[]) AS row (
    invoice_id, user_id, kind, detail, amount)
ON CONFLICT (invoice_id, kind) DO UPDATE SET
    detail = EXCLUDED.detail, amount = EXCLUDED.amount, opened_at = EXCLUDED.opened_at,
    closed_at = NULL, resolution = NULL
WHERE c.amount IS DISTINCT FROM EXCLUDED.amount
    OR c.resolution = $7 OR (c.closed_at IS NULL AND c.detail <> EXCLUDED.detail)
RETURNING invoice_id, kind
"""


async def open_cases(
    connection: Connection, cases: Sequence[tuple[Invoice, Case]], now: datetime
) -> set[tuple[UUID, CaseKind]]:
    """List cases and return those that are new; a repeat is none.

    More money reopens a closed one; so does an invoice that is again as it was when the case was opened.
    """
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
        OUTDATED,
    )
    return {(row["invoice_id"], CaseKind(row["kind"])) for row in rows}


_CLOSE = """
UPDATE attention_cases AS c SET
    closed_at = coalesce(c.closed_at, $4), resolution = coalesce(c.resolution, row.resolution)
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS row (invoice_id, kind, resolution)
WHERE c.invoice_id = row.invoice_id AND c.invoice_id = ANY ($1) AND c.kind = row.kind
"""


def close_statement(cases: Sequence[tuple[UUID, CaseKind, str]], now: datetime) -> Statement | None:
    """Close what is open of these, each with its resolution."""
    if not cases:
        return None
    return Statement(_CLOSE, [*zip(*cases, strict=True), now])
