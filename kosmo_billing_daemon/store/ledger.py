"""The ledger: rows are added and never changed, which a trigger holds (R13)."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
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


_REFUNDED = """
SELECT coalesce(-sum(amount), 0) FROM ledger WHERE user_id = $1 AND invoice_id = $2 AND kind = 'refunded'
"""


async def load_refunded(connection: Connection, user_id: UUID, invoice_id: UUID) -> Decimal:
    """Return how much of what an invoice brought in was refunded."""
    return Decimal(await connection.fetchval(_REFUNDED, user_id, invoice_id))


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


EntryPlace = tuple[datetime, int]
"""Where a list of entries goes on: the time and number of one."""


@record(kw_only=True)
class EntryFilter:
    """Which entries are listed: those of a period for which all that is given is true."""

    since: datetime
    before: datetime
    user_id: UUID | None = None
    kind: EntryKind | None = None
    currency: str | None = None

    def values(self) -> list[object]:
        """Return the first parameters of each statement below."""
        if self.user_id is None:
            return [self.since, self.before, self.kind, self.currency]
        return [self.since, self.before, self.kind, self.currency, self.user_id]


_FILTER = """
l.at >= $1 AND l.at < $2 AND ($3::text IS NULL OR l.kind = $3) AND ($4::text IS NULL OR l.currency = $4)
"""
_OF_ONE = f"{_FILTER} AND l.user_id = $5"

BY_PERIOD: Final = "SET LOCAL enable_bitmapscan = on"
"""What a transaction begins with that reads a period: the ledger is found by time through a bitmap alone."""

_NEWEST = f"{_LISTED} WHERE {_FILTER} AND (l.at, l.id) < ($5, $6) ORDER BY l.at DESC, l.id DESC LIMIT $7"
_NEWEST_OF_ONE = (
    f"{_LISTED} WHERE {_OF_ONE} AND (l.at, l.id) < ($6, $7) ORDER BY l.at DESC, l.id DESC LIMIT $8"
)


async def load_newest(
    connection: Connection, wanted: EntryFilter, before: EntryPlace, limit: int
) -> list[Entry]:
    """Return entries, newest first, from before a place on; ``BY_PERIOD``."""
    if wanted.user_id is None:
        rows = await connection.fetch(_NEWEST, *wanted.values(), *before, limit)
    else:
        rows = await connection.fetch(_NEWEST_OF_ONE, *wanted.values(), *before, limit)
    return [_entry(row) for row in rows]


_OLDEST = f"{_LISTED} WHERE {_FILTER} ORDER BY l.at, l.id"
_OLDEST_OF_ONE = f"{_LISTED} WHERE {_OF_ONE} ORDER BY l.at, l.id"


async def stream(connection: Connection, wanted: EntryFilter, batch: int) -> AsyncIterator[list[Entry]]:
    """Give entries, oldest first, in batches of which only one is in memory; ``BY_PERIOD``."""
    if wanted.user_id is None:
        rows = connection.cursor(_OLDEST, *wanted.values(), prefetch=batch)
    else:
        rows = connection.cursor(_OLDEST_OF_ONE, *wanted.values(), prefetch=batch)
    found: list[Entry] = []
    async for row in rows:
        found.append(_entry(row))
        if len(found) == batch:
            yield found
            found = []
    if found:
        yield found


@record
class EntrySum:
    """What entries of one kind and currency come to, and how many they are."""

    kind: EntryKind
    currency: str
    amount: Decimal
    entries: int


_SUMS = """
SELECT kind, currency, sum(amount) AS amount, count(*) AS entries
FROM (
    SELECT kind, currency, amount FROM ledger AS l WHERE {where} ORDER BY at DESC, id DESC LIMIT {limit}) AS l
GROUP BY kind, currency ORDER BY currency, kind
"""
_SUMS_OF_ALL = _SUMS.format(where=_FILTER, limit="$5")
_SUMS_OF_ONE = _SUMS.format(where=_OF_ONE, limit="$6")


async def load_sums(connection: Connection, wanted: EntryFilter, most: int) -> list[EntrySum]:
    """Return the sums by kind and currency of the newest entries, ``most`` of them; ``BY_PERIOD``."""
    if wanted.user_id is None:
        rows = await connection.fetch(_SUMS_OF_ALL, *wanted.values(), most)
    else:
        rows = await connection.fetch(_SUMS_OF_ONE, *wanted.values(), most)
    return [EntrySum(EntryKind(row["kind"]), row["currency"], row["amount"], row["entries"]) for row in rows]
