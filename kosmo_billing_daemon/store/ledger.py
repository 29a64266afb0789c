"""The ledger: rows are added and never changed, which a trigger holds (R13)."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.ledger import EntryKind, Posting
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

COLUMNS = Columns(
    ("user_id", "uuid", "user_id"),
    ("kind", "text", "kind"),
    ("amount", "numeric", "amount"),
    ("currency", "text", "currency"),
    ("invoice_id", "uuid", "invoice_id"),
    ("purchase", "uuid", "purchase"),
    ("who", "text", "who"),
    ("reason", "text", "reason"),
)

_APPEND = COLUMNS.insert("ledger", {"at": "$9"})

# A reversal names what it takes back: the entry of its kind for the same invoice, or for the one that paid
# for the purchase.
_APPEND_REVERSALS = f"""
INSERT INTO ledger ({COLUMNS}, at, reverses)
SELECT {COLUMNS.of("r")}, $9, (
    SELECT max(l.id) FROM ledger AS l
    WHERE l.user_id = r.user_id AND l.kind = r.kind AND l.reverses IS NULL AND l.currency = r.currency
        AND l.invoice_id = coalesce(
            r.invoice_id, (SELECT s.invoice_id FROM subscriptions AS s WHERE s.id = r.purchase)))
FROM unnest($1::uuid[], $2::text[], $3::numeric[], $4::text[], $5::uuid[], $6::uuid[], $7::text[], $8::text[])
    WITH ORDINALITY AS r ({COLUMNS}, place)
ORDER BY place
"""


def append_statements(postings: Sequence[Posting], at: datetime) -> list[Statement]:
    """Add entries. Reversals come after what they may take back."""
    plain = [one for one in postings if not one.is_reversal]
    reversals = [one for one in postings if one.is_reversal]
    statements = []
    if plain:
        statements.append(Statement(_APPEND, [*COLUMNS.values(plain), at]))
    if reversals:
        statements.append(Statement(_APPEND_REVERSALS, [*COLUMNS.values(reversals), at]))
    return statements


_BALANCES = """
SELECT user_id, currency, sum(amount) AS amount FROM ledger WHERE user_id = ANY ($1::uuid[])
GROUP BY user_id, currency
"""


async def load_balances(connection: Connection, users: Iterable[UUID]) -> dict[tuple[UserId, str], Decimal]:
    """Return the credit of users, in each currency in which they ever had any."""
    rows = await connection.fetch(_BALANCES, list(users))
    return {(UserId(row["user_id"]), row["currency"]): row["amount"] for row in rows}


@record(kw_only=True)
class Entry:
    """One row of the ledger, as it is listed; ``bought`` is the plan or pack of its invoice."""

    id: int
    at: datetime
    user_id: UserId
    kind: EntryKind
    amount: Decimal
    currency: str
    order_id: UUID | None
    invoice_id: str | None
    bought: str | None
    reverses: int | None
    who: str | None
    reason: str | None


def _entry(row: Any) -> Entry:
    return Entry(**(dict(row) | {"kind": EntryKind(row["kind"])}))


_LISTED = """
SELECT l.id, l.at, l.user_id, l.kind, l.amount, l.currency, l.invoice_id AS order_id,
    i.btcpay_invoice_id AS invoice_id, (SELECT plan_type FROM quotes WHERE id = i.quote_id) AS bought,
    l.reverses, l.who, l.reason
FROM ledger AS l LEFT JOIN btcpay_invoices AS i ON i.id = l.invoice_id
"""

_OF_USER = f"{_LISTED} WHERE l.user_id = $1 ORDER BY l.id DESC LIMIT $2"


async def load_of_user(connection: Connection, user_id: UUID, limit: int) -> list[Entry]:
    """Return a user's last entries, newest first."""
    return [_entry(row) for row in await connection.fetch(_OF_USER, user_id, limit)]


_UNBOOKED = """
SELECT i.id FROM btcpay_invoices AS i LEFT JOIN (
    SELECT invoice_id, sum(amount) FILTER (WHERE kind = 'received') AS received,
        sum(amount) FILTER (WHERE kind IN ('granted', 'written_off')) AS adjusted
    FROM ledger WHERE invoice_id IS NOT NULL GROUP BY invoice_id
) AS l ON l.invoice_id = i.id
WHERE i.received <> coalesce(l.received, 0)
    OR CASE i.effect WHEN 'revoked' THEN 0 ELSE i.adjusted END <> coalesce(l.adjusted, 0)
ORDER BY i.id
"""


async def load_unbooked(connection: Connection) -> list[UUID]:
    """Return invoices of which the ledger has another sum than their row: there must be none."""
    return [row["id"] for row in await connection.fetch(_UNBOOKED)]


_PERIOD = f"{_LISTED} WHERE l.at >= $1 AND l.at < $2 AND l.id > $3 ORDER BY l.id LIMIT $4"


async def load_period(
    connection: Connection, first: datetime, before: datetime, after: int, limit: int
) -> list[Entry]:
    """Return entries of a period, oldest first, beyond the id ``after``."""
    return [_entry(row) for row in await connection.fetch(_PERIOD, first, before, after, limit)]
