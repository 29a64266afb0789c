"""What operators look at: invoices by any of their names, cases with the money behind them, what waits."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import CaseKind, Invoice
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.invoices import COLUMNS, fetched, invoice
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn


@record(kw_only=True)
class ListedCase:
    """One case and the invoice it is about, if it is one of ours; closed ones say how they were resolved.

    ``user_id`` is missing as long as nobody knows whose the money of an unknown order is; ``decided`` is how
    much of it operators have decided about.
    """

    number: int
    kind: CaseKind
    detail: str
    amount: Decimal | None
    decided: Decimal
    currency: str
    btcpay_invoice_id: str | None
    user_id: UserId | None
    opened_at: datetime
    closed_at: datetime | None
    resolution: str | None
    invoice: Invoice | None

    @property
    def undecided(self) -> Decimal:
        """What of the amount operators have not decided about."""
        return (self.amount or Decimal(0)) - self.decided


CasePlace = tuple[datetime, int]
"""Where a list of cases goes on: a time, and the number of a case."""

FIRST: Final[CasePlace] = (datetime(1900, 1, 1, tzinfo=UTC), 0)

_CASES = f"""
SELECT {COLUMNS.of("i")}, c.id AS case_number, c.kind, c.detail, c.amount AS case_amount,
    c.decided, c.currency, c.btcpay_invoice_id AS case_invoice, c.user_id AS case_user, c.opened_at,
    c.closed_at, c.resolution
FROM attention_cases AS c LEFT JOIN btcpay_invoices AS i ON i.id = c.invoice_id
"""


def _case(row: Any) -> ListedCase:
    about = None if row["id"] is None else invoice(row)
    return ListedCase(
        number=row["case_number"],
        kind=CaseKind(row["kind"]),
        detail=row["detail"],
        amount=row["case_amount"],
        decided=row["decided"],
        currency=row["currency"] if about is None else about.plan.price.currency,
        btcpay_invoice_id=row["case_invoice"] if about is None else about.btcpay_invoice_id,
        user_id=row["case_user"],
        opened_at=row["opened_at"],
        closed_at=row["closed_at"],
        resolution=row["resolution"],
        invoice=about,
    )


async def _cases(connection: Connection, rows: Sequence[Any]) -> list[ListedCase]:
    return [_case(row) for row in await learn(connection, rows)]


_OPEN_FROM = f"""
{_CASES} WHERE c.closed_at IS NULL AND (c.opened_at, c.id) >= ($1, $2) ORDER BY c.opened_at, c.id LIMIT $3
"""


async def load_open_cases(connection: Connection, limit: int, first: CasePlace = FIRST) -> list[ListedCase]:
    """Return open cases, oldest first, from the ``first`` place on."""
    return await _cases(connection, await connection.fetch(_OPEN_FROM, *first, limit))


_PREVIOUS_OPEN = """
SELECT id FROM attention_cases WHERE closed_at IS NULL AND (opened_at, id) < ($1, $2)
ORDER BY opened_at DESC, id DESC LIMIT 1
"""


async def load_previous_open_case(connection: Connection, opened_at: datetime, number: int) -> int | None:
    """Return the number of the open case before one."""
    found: int | None = await connection.fetchval(_PREVIOUS_OPEN, opened_at, number)
    return found


_CLOSED = f"""
{_CASES} WHERE c.closed_at IS NOT NULL AND (c.closed_at, c.id) < ($1, $2)
ORDER BY c.closed_at DESC, c.id DESC LIMIT $3
"""


async def load_closed_cases(
    connection: Connection, closed_before: datetime, number: int, limit: int
) -> list[ListedCase]:
    """Return closed cases, the last one closed first."""
    return await _cases(connection, await connection.fetch(_CLOSED, closed_before, number, limit))


async def load_case(connection: Connection, number: int) -> ListedCase | None:
    """Return one case."""
    rows = await connection.fetch(_CASES + " WHERE c.id = $1", number)
    return next(iter(await _cases(connection, rows)), None)


async def load_cases_of_user(connection: Connection, user_id: UUID, limit: int) -> list[ListedCase]:
    """Return a user's cases, open ones first, then newest first."""
    rows = await connection.fetch(
        _CASES + " WHERE c.user_id = $1 ORDER BY c.closed_at IS NOT NULL, c.id DESC LIMIT $2", user_id, limit
    )
    return await _cases(connection, rows)


async def load_cases_of_invoice(connection: Connection, invoice_id: UUID) -> list[ListedCase]:
    """Return the cases of one invoice."""
    rows = await connection.fetch(_CASES + " WHERE i.id = $1 ORDER BY c.id", invoice_id)
    return await _cases(connection, rows)


async def load_cases_of_name(connection: Connection, name: str) -> list[ListedCase]:
    """Return the cases about BTCPay's invoice of this id, of which this database knows no order."""
    rows = await connection.fetch(_CASES + " WHERE c.btcpay_invoice_id = $1 ORDER BY c.id", name)
    return await _cases(connection, rows)


async def lock_case(connection: Connection, number: int) -> ListedCase | None:
    """Return and lock one case."""
    rows = await connection.fetch(_CASES + " WHERE c.id = $1 FOR UPDATE OF c", number)
    return next(iter(await _cases(connection, rows)), None)


_KNOWN = """
SELECT EXISTS (SELECT FROM entitlements WHERE user_id = $1)
    OR EXISTS (SELECT FROM btcpay_invoices WHERE user_id = $1)
    OR EXISTS (SELECT FROM ledger WHERE user_id = $1)
    OR EXISTS (SELECT FROM whitelisted_nodes WHERE user_id = $1)
    OR EXISTS (SELECT FROM audit_log WHERE user_id = $1)
"""


async def is_known(connection: Connection, user_id: UUID) -> bool:
    """Say whether anything was ever recorded of this user."""
    return bool(await connection.fetchval(_KNOWN, user_id))


# Two statements, because one plan for both would read everybody's invoices for those of one user.
_OF_USER = f"""
SELECT {COLUMNS} FROM btcpay_invoices WHERE user_id = $1 AND ($2::text IS NULL OR status = $2)
ORDER BY created_at DESC, id DESC LIMIT $3
"""
_OF_ALL = f"""
SELECT {COLUMNS} FROM btcpay_invoices WHERE $1::text IS NULL OR status = $1
ORDER BY created_at DESC, id DESC LIMIT $2
"""


async def load_invoices(
    connection: Connection, user_id: UUID | None, status: str | None, limit: int
) -> list[Invoice]:
    """Return invoices of one user or of everybody, newest first, reservations included."""
    if user_id is None:
        return await fetched(connection, await connection.fetch(_OF_ALL, status, limit))
    return await fetched(connection, await connection.fetch(_OF_USER, user_id, status, limit))


async def count_users(connection: Connection) -> int:
    """Return how many users have a document."""
    return int(await connection.fetchval("SELECT count(*) AS documents FROM entitlements"))


@record(kw_only=True)
class ListedPublication:
    """Which version a user's document has since when, and whether it waits to be published."""

    version: int
    changed_at: datetime
    waits: bool


async def load_publication(connection: Connection, user_id: UUID) -> ListedPublication | None:
    """Return how far a user's document is published; ``None`` when the user has none."""
    row = await connection.fetchrow(
        "SELECT version, changed_at, EXISTS (SELECT FROM outbox"
        "  WHERE kind IN ('rights', 'usage', 'repeat') AND e.user_id = ANY (users)) AS waits"
        " FROM entitlements AS e WHERE user_id = $1",
        user_id,
    )
    return None if row is None else ListedPublication(**row)
