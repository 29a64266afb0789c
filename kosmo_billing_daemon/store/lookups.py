"""The queue of lookups: which invoices are asked for at BTCPay, and when.

Rows are inserted and deleted, and nobody waits for one: a webhook adds one that is due at once, and an open
invoice has one for its next poll, whose time ``btcpay_invoices.next_check_at`` repeats. Whoever settles an
invoice deletes the rows that its observation answers. A hint that comes meanwhile is another row, and stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.invoices import COLUMNS, invoice
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn

Key = tuple[datetime, UUID]
"""When a lookup is due, and of which invoice."""


@record
class DueLookup:
    """A lookup whose time has come; BTCPay's id of the invoice is not known before it is attached."""

    due_at: datetime
    invoice_id: InvoiceId
    btcpay_invoice_id: str | None
    claimed_status: str | None

    @property
    def key(self) -> Key:
        return self.due_at, self.invoice_id


@record
class DueLookups:
    """Lookups whose time has come, oldest first; ``number`` is that of the observation that answers them."""

    number: int
    lookups: Sequence[DueLookup]


# OFFSET 0: each invoice is found by its id, however many dead rows the queue seems to have to the planner.
_DUE = """
SELECT due.due_at, due.invoice_id, i.btcpay_invoice_id, due.claimed_status, due.number FROM (
    SELECT due_at, invoice_id, claimed_status, (SELECT nextval('observations')) AS number FROM lookups
    WHERE due_at <= $1 AND invoice_id <> ALL ($3::uuid[]) ORDER BY due_at, invoice_id LIMIT $2
) AS due CROSS JOIN LATERAL (
    SELECT btcpay_invoice_id FROM btcpay_invoices WHERE id = due.invoice_id OFFSET 0) AS i
ORDER BY due.due_at
"""


async def load_due(
    connection: Connection, now: datetime, limit: int, but: Sequence[UUID] = ()
) -> DueLookups | None:
    """Return lookups whose time has come, without those of the invoices in ``but``; hints first."""
    rows = await connection.fetch(_DUE, now, limit, but)
    return DueLookups(rows[0]["number"], [DueLookup(*row[:4]) for row in rows]) if rows else None


_NEXT_DUE = "SELECT due_at FROM lookups WHERE due_at > $1 ORDER BY due_at LIMIT 1"


async def load_next_due(connection: Connection, after: datetime) -> datetime | None:
    """Return when the first lookup is due ``after`` a time."""
    at: datetime | None = await connection.fetchval(_NEXT_DUE, after)
    return at


_APPEND = """
INSERT INTO lookups (due_at, invoice_id) SELECT * FROM unnest($1::timestamptz[], $2::uuid[])
"""


def append_statement(keys: Iterable[Key]) -> Statement | None:
    """Add lookups that nobody hinted at."""
    columns = list(zip(*keys, strict=True))
    return Statement(_APPEND, columns) if columns else None


# Each is found by itself (OFFSET 0), since all that are open may be due at the same time.
_DELETE = """
DELETE FROM lookups AS l USING unnest($1::timestamptz[], $2::uuid[]) AS row (due_at, invoice_id), LATERAL (
    SELECT ctid FROM lookups WHERE due_at = row.due_at AND invoice_id = row.invoice_id OFFSET 0) AS found
WHERE l.ctid = found.ctid
"""


def delete_statement(keys: Iterable[Key]) -> Statement | None:
    """Take lookups out of the queue that are answered; one that is gone already is no matter."""
    columns = list(zip(*keys, strict=True))
    return Statement(_DELETE, columns) if columns else None


@dataclass(slots=True)
class Requeueing:
    """The rows of the queue that are ``answered``, and the polls that come instead."""

    answered: set[Key]
    _new: set[Key] = field(default_factory=set)

    def next_check(
        self, invoice_id: UUID, planned: datetime | None, wanted: datetime | None, now: datetime
    ) -> datetime | None:
        """Return when to poll next, where a poll is ``planned``: one that comes soon enough stays."""
        if planned is not None and (planned, invoice_id) not in self.answered:
            if wanted is not None and now < planned <= wanted:
                return planned
            self.answered.add((planned, invoice_id))
        if wanted is not None:
            self._new.add((wanted, invoice_id))
        return wanted

    def statements(self) -> list[Statement | None]:
        """Return what changes the queue."""
        return [delete_statement(self.answered), append_statement(self._new)]


_APPEND_ALL = """
INSERT INTO lookups (due_at, invoice_id)
SELECT DISTINCT $1::timestamptz, invoice_id FROM lookups WHERE due_at > $1
"""


async def append_all(connection: Connection, at: datetime) -> None:
    """Have every open invoice looked up by ``at``: hints may have been missed."""
    await connection.execute(_APPEND_ALL, at)


_OPEN = f"""
SELECT {COLUMNS.of("i")} FROM (SELECT DISTINCT invoice_id FROM lookups) AS open
CROSS JOIN LATERAL (SELECT * FROM btcpay_invoices WHERE id = open.invoice_id OFFSET 0) AS i
ORDER BY i.next_check_at, i.id
"""


async def load_open(connection: Connection) -> list[Invoice]:
    """Return every invoice from which something is still awaited."""
    return [invoice(row) for row in await learn(connection, await connection.fetch(_OPEN))]


_SET_ASIDE = """
UPDATE lookups AS l SET set_aside_at = $2, set_aside_why = row.why
FROM unnest($1::uuid[], $3::text[]) AS row (invoice_id, why)
WHERE l.invoice_id = row.invoice_id AND (l.due_at, l.invoice_id) IN (
    SELECT due_at, invoice_id FROM lookups WHERE due_at <= $2 AND invoice_id = ANY ($1)
    FOR UPDATE SKIP LOCKED)
"""


async def note_set_aside(connection: Connection, reasons: Mapping[InvoiceId, str], now: datetime) -> None:
    """Note for every daemon that what is due of these invoices was tried and waits on purpose, and why."""
    await connection.execute(_SET_ASIDE, list(reasons), now, list(reasons.values()))


@record
class SetAside:
    """A lookup that waits on purpose, since when, and why."""

    order_id: UUID
    btcpay_invoice_id: str | None
    due_since: datetime
    tried_at: datetime
    why: str


_LOAD_SET_ASIDE = """
SELECT invoice_id AS order_id,
    (SELECT btcpay_invoice_id FROM btcpay_invoices WHERE id = invoice_id) AS btcpay_invoice_id,
    min(coalesce(hinted_at, due_at)) AS due_since, max(set_aside_at) AS tried_at, max(set_aside_why) AS why
FROM lookups WHERE due_at <= $1 AND set_aside_at IS NOT NULL
GROUP BY invoice_id ORDER BY due_since LIMIT $2
"""


async def load_set_aside(connection: Connection, now: datetime, limit: int) -> list[SetAside]:
    """Return the invoices that could not be looked up or settled and are tried again, oldest first."""
    return [SetAside(**row) for row in await connection.fetch(_LOAD_SET_ASIDE, now, limit)]


@record
class Queue:
    """When the oldest hint came that nobody tried a moment ago, and the lookups that were tried.

    Those were set aside, ``aside`` of them (1,000 at most), one of them for the reason ``why``.
    """

    oldest: datetime | None
    aside: int
    why: str | None


_QUEUE = """
SELECT min(hinted_at) FILTER (WHERE NOT tried) AS oldest, count(*) FILTER (WHERE tried) AS aside,
    min(set_aside_why) FILTER (WHERE tried) AS why
FROM (
    SELECT hinted_at, set_aside_why, coalesce(set_aside_at > $2, false) AS tried FROM lookups
    WHERE due_at <= $1 ORDER BY due_at LIMIT 1000) AS due
"""


async def load_queue(connection: Connection, now: datetime, tried_since: datetime) -> Queue:
    """Return what is due. What was set aside since ``tried_since`` waits on purpose."""
    (row,) = await connection.fetch(_QUEUE, now, tried_since)
    return Queue(**row)
