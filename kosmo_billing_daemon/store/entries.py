"""Entries of the ledger as they are listed and summed up.

The ledger has no index by time, which would cost every entry a record. ``ledger_days`` has the sums of each
day, and between which ids its entries stand (``store/figures.py``); what is not added up yet has greater ids.
So a period is summed up from its days, and a page of it reads the days that it needs.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.ledger import EntryKind
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


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
FROM {entries} AS l LEFT JOIN LATERAL (
    SELECT btcpay_invoice_id, quote_id FROM btcpay_invoices WHERE id = l.invoice_id OFFSET 0
) AS i ON true
"""

_OF_USER = f"{_LISTED.format(entries='ledger')} WHERE l.user_id = $1 ORDER BY l.id DESC LIMIT $2"


async def load_of_user(connection: Connection, user_id: UUID, limit: int) -> list[Entry]:
    """Return a user's last entries, newest first."""
    return [_entry(row) for row in await connection.fetch(_OF_USER, user_id, limit)]


EntryPlace = tuple[datetime, int]
"""Where a list of entries goes on: the time and number of one."""


@record(kw_only=True)
class EntryFilter:
    """Which entries are listed: those of whole days (UTC) for which all that is given is true."""

    since: datetime
    before: datetime
    user_id: UUID | None = None
    kind: EntryKind | None = None
    currency: str | None = None

    def values(self) -> list[object]:
        """Return the first parameters of each statement below."""
        given: list[object] = [self.since, self.before, self.kind, self.currency]
        return given if self.user_id is None else [*given, self.user_id]


_KINDS = "($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR currency = $4)"
_FILTER = f"at >= $1 AND at < $2 AND {_KINDS}"
_OF_ONE = f"SELECT * FROM ledger WHERE user_id = $5 AND {_FILTER}"
_NOT_ADDED_YET = f"""
SELECT * FROM ledger
WHERE id > (SELECT value FROM figures WHERE name = 'position' AND label = 'ledger')::bigint AND {_FILTER}
"""
_DAYS = f"""
SELECT * FROM ledger_days
WHERE day >= ($1 AT TIME ZONE 'UTC')::date AND day < ($2 AT TIME ZONE 'UTC')::date AND {_KINDS}
"""
# Days whose entries stand among one another are read in one go: nothing twice.
_OF_DAYS = f"""
SELECT e.*
FROM (SELECT unnest(range_agg(int8range(first_id, last_id, '[]'))) AS ids FROM ({{days}}) AS d) AS r,
    LATERAL (SELECT * FROM ledger WHERE id >= lower(r.ids) AND id < upper(r.ids) AND {_FILTER} OFFSET 0) AS e
UNION ALL {_NOT_ADDED_YET}
"""
# The day of the place, and before it as many days as have enough entries.
_DAYS_OF_PAGE = f"""
SELECT first_id, last_id FROM (
    SELECT first_id, last_id,
        sum(passed) OVER (ORDER BY day DESC) - sum(passed) OVER (PARTITION BY day) AS newer
    FROM (
        SELECT day, first_id, last_id,
            CASE WHEN day < ($5::timestamptz AT TIME ZONE 'UTC')::date THEN entries ELSE 0 END AS passed
        FROM ({_DAYS}) AS d WHERE day <= ($5 AT TIME ZONE 'UTC')::date
    ) AS d
) AS d WHERE newer < $7
"""


def _page(entries: str, at: str, id_: str, limit: str) -> str:
    found = f"""(
    SELECT * FROM ({entries}) AS e WHERE (at, id) < ({at}, {id_}) ORDER BY at DESC, id DESC LIMIT {limit})"""
    return f"{_LISTED.format(entries=found)} ORDER BY l.at DESC, l.id DESC"


_NEWEST = _page(_OF_DAYS.format(days=_DAYS_OF_PAGE), "$5", "$6", "$7")
_NEWEST_OF_ONE = _page(_OF_ONE, "$6", "$7", "$8")


async def load_newest(
    connection: Connection, wanted: EntryFilter, before: EntryPlace, limit: int
) -> list[Entry]:
    """Return entries, newest first, from before a place on."""
    rows = await connection.fetch(
        _NEWEST if wanted.user_id is None else _NEWEST_OF_ONE, *wanted.values(), *before, limit
    )
    return [_entry(row) for row in rows]


_OLDEST = f"{_LISTED.format(entries=f'({_OF_DAYS.format(days=_DAYS)})')} ORDER BY l.at, l.id"
_OLDEST_OF_ONE = f"{_LISTED.format(entries=f'({_OF_ONE})')} ORDER BY l.at, l.id"


async def stream(connection: Connection, wanted: EntryFilter, batch: int) -> AsyncIterator[list[Entry]]:
    """Give entries, oldest first, in batches of which only one is in memory; within a transaction."""
    cursor = await connection.cursor(_OLDEST if wanted.user_id is None else _OLDEST_OF_ONE, *wanted.values())
    while rows := await cursor.fetch(batch):
        yield [_entry(row) for row in rows]


@record
class EntrySum:
    """What entries of one kind and currency come to, and how many they are."""

    kind: EntryKind
    currency: str
    amount: Decimal
    entries: int


_SUMS = """
SELECT kind, currency, sum(amount) AS amount, sum(entries)::bigint AS entries FROM ({entries}) AS e
GROUP BY kind, currency ORDER BY currency, kind
"""
_SUMS_OF_ALL = _SUMS.format(
    entries=f"""SELECT kind, currency, amount, entries FROM ({_DAYS}) AS d
UNION ALL SELECT kind, currency, amount, 1 FROM ({_NOT_ADDED_YET}) AS e"""
)
_SUMS_OF_ONE = _SUMS.format(entries=f"SELECT kind, currency, amount, 1 AS entries FROM ({_OF_ONE}) AS e")


async def load_sums(connection: Connection, wanted: EntryFilter) -> list[EntrySum]:
    """Return the sums by kind and currency."""
    rows = await connection.fetch(_SUMS_OF_ALL if wanted.user_id is None else _SUMS_OF_ONE, *wanted.values())
    return [EntrySum(EntryKind(row["kind"]), row["currency"], row["amount"], row["entries"]) for row in rows]
