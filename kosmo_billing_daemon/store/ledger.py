"""The ledger: rows are added and never changed, which a trigger holds (R13)."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.domain.ledger import Posting
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.store import invoices
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


def append_statements(postings: Sequence[Posting], at: datetime) -> list[Statement | None]:
    """Add entries. Reversals come after what they may take back."""
    plain = [one for one in postings if not one.is_reversal]
    reversals = [one for one in postings if one.is_reversal]
    return [
        Statement(_APPEND, [*COLUMNS.values(plain), at]) if plain else None,
        Statement(_APPEND_REVERSALS, [*COLUMNS.values(reversals), at]) if reversals else None,
    ]


_BALANCES = """
SELECT user_id, currency, sum(amount) AS amount FROM ledger WHERE user_id = ANY ($1::uuid[])
GROUP BY user_id, currency
"""


async def load_balances(connection: Connection, users: Iterable[UUID]) -> dict[tuple[UserId, str], Decimal]:
    """Return the credit of users, in each currency in which they ever had any."""
    rows = await connection.fetch(_BALANCES, list(users))
    return {(UserId(row["user_id"]), row["currency"]): row["amount"] for row in rows}


async def load_free_credit(
    connection: Connection, users: Collection[UUID]
) -> dict[tuple[UserId, str], Decimal]:
    """Return the credit of users that is kept for no open invoice (R15); below zero is owed."""
    balances = await load_balances(connection, users)
    having = {user_id for (user_id, _), amount in balances.items() if amount}
    reserved = await invoices.load_reserved_credit(connection, having) if having else {}
    return {key: amount - reserved.get(key, Decimal(0)) for key, amount in balances.items()}


_REFUNDED = """
SELECT coalesce(-sum(amount), 0) FROM ledger WHERE user_id = $1 AND invoice_id = $2 AND kind = 'refunded'
"""


async def load_refunded(connection: Connection, user_id: UUID, invoice_id: UUID) -> Decimal:
    """Return how much of what an invoice brought in was refunded."""
    return Decimal(await connection.fetchval(_REFUNDED, user_id, invoice_id))
