"""Webhook deliveries: hints, recorded before they are answered."""

from collections.abc import Sequence
from datetime import datetime

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.invoices import COLUMNS, invoice
from kosmo_billing_daemon.store.postgres import CHANNEL, Connection
from kosmo_billing_daemon.store.quotes import learn


@record
class Delivery:
    """One webhook POST, reduced to what it hints at."""

    delivery_id: str
    received_at: datetime
    type: str
    btcpay_invoice_id: str | None
    order_id: str | None
    store_id: str | None
    claimed_status: str | None = None


_APPEND = """
INSERT INTO webhook_deliveries (
    delivery_id, received_at, type, btcpay_invoice_id, order_id, store_id, claimed_status)
SELECT * FROM unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
ON CONFLICT (delivery_id) DO NOTHING
"""


async def append(connection: Connection, deliveries: Sequence[Delivery]) -> None:
    """Record deliveries; one that is known already changes nothing."""
    values = [
        (d.delivery_id, d.received_at, d.type, d.btcpay_invoice_id, d.order_id, d.store_id, d.claimed_status)
        for d in deliveries
    ]
    await connection.execute(_APPEND, *[list(column) for column in zip(*values, strict=True)])


async def notify(connection: Connection) -> None:
    """Wake the leader, which may be another process."""
    await connection.execute("SELECT pg_notify($1, 'deliveries')", CHANNEL)


@record
class WaitingDeliveries:
    """Deliveries that nobody has handled, and which invoices of ours each may mean, as these are now.

    ``number`` is that of the look at BTCPay that is about to be asked for.
    """

    deliveries: list[Delivery]
    matches: list[set[InvoiceId]]
    known: dict[InvoiceId, Invoice]
    number: int


# BTCPay's id is unique to a store, and our order id is ours alone; a hint mostly carries both.
_WAITING = f"""
WITH waiting AS MATERIALIZED (
    SELECT delivery_id, received_at, type, btcpay_invoice_id AS hinted_id, order_id, store_id, claimed_status
    FROM webhook_deliveries WHERE handled_at IS NULL AND delivery_id <> ALL ($2::text[])
    ORDER BY received_at LIMIT $1)
SELECT found.*, (SELECT nextval('observations')), waiting.* FROM waiting LEFT JOIN LATERAL (
    SELECT {COLUMNS} FROM btcpay_invoices WHERE btcpay_invoice_id = hinted_id
    UNION ALL
    SELECT {COLUMNS} FROM btcpay_invoices
    WHERE btcpay_invoice_id IS DISTINCT FROM hinted_id AND id = CASE
        WHEN order_id ~ '^[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}$'
        THEN order_id::uuid END
) AS found ON true
ORDER BY received_at
"""


async def load_waiting(
    connection: Connection, limit: int, but: Sequence[str] = ()
) -> WaitingDeliveries | None:
    """Return the oldest deliveries nobody has handled, without those named in ``but``."""
    matches: dict[Delivery, set[InvoiceId]] = {}
    known: dict[InvoiceId, Invoice] = {}
    number = 0
    for row in await learn(connection, await connection.fetch(_WAITING, limit, list(but))):
        number = row[COLUMNS.width]
        match = matches.setdefault(Delivery(*row[COLUMNS.width + 1 :]), set())
        if row["id"] is not None:
            match.add(row["id"])
            known[row["id"]] = invoice(row)
    return WaitingDeliveries(list(matches), list(matches.values()), known, number) if matches else None


# No word of handled_at in the condition: the index of what is unhandled would be read from end to end.
_MARK = """
UPDATE webhook_deliveries AS d SET
    handled_at = coalesce(handled_at, $3), outcome = coalesce(d.outcome, row.outcome)
FROM unnest($1::text[], $2::text[]) AS row (delivery_id, outcome)
WHERE d.delivery_id = row.delivery_id AND d.delivery_id = ANY ($1)
"""


def mark_handled_statement(outcomes: Sequence[tuple[str, str]], now: datetime) -> Statement | None:
    """Note what became of deliveries, given as ``(delivery id, outcome)``."""
    return Statement(_MARK, [*zip(*outcomes, strict=True), now]) if outcomes else None


_SET_ASIDE = """
UPDATE webhook_deliveries AS d SET set_aside_at = $3, set_aside_why = row.why
FROM unnest($1::text[], $2::text[]) AS row (delivery_id, why)
WHERE d.delivery_id = row.delivery_id AND d.delivery_id IN (
    SELECT delivery_id FROM webhook_deliveries WHERE delivery_id = ANY ($1) FOR UPDATE SKIP LOCKED)
"""


async def note_set_aside(connection: Connection, reasons: Sequence[tuple[str, str]], now: datetime) -> None:
    """Note for every daemon that these deliveries, given with the reason, were tried and wait on purpose."""
    await connection.execute(_SET_ASIDE, *(list(column) for column in zip(*reasons, strict=True)), now)


async def remove_handled(connection: Connection, before: datetime, limit: int) -> int:
    """Forget deliveries handled long ago; returns how many."""
    result = await connection.execute(_REMOVE, before, limit)
    return int(result.rpartition(" ")[2])


_REMOVE = """
DELETE FROM webhook_deliveries WHERE delivery_id IN (
    SELECT delivery_id FROM webhook_deliveries WHERE handled_at < $1 ORDER BY handled_at LIMIT $2
    FOR UPDATE SKIP LOCKED)
"""


@record
class SetAside:
    """A delivery that waits on purpose, and why."""

    delivery_id: str
    order_id: str | None
    btcpay_invoice_id: str | None
    received_at: datetime
    tried_at: datetime
    why: str


async def load_set_aside(connection: Connection, limit: int) -> list[SetAside]:
    """Return the deliveries that could not be handled and are tried again, oldest first."""
    rows = await connection.fetch(
        "SELECT delivery_id, order_id, btcpay_invoice_id, received_at, set_aside_at AS tried_at,"
        " coalesce(set_aside_why, '') AS why FROM webhook_deliveries"
        " WHERE handled_at IS NULL AND set_aside_at IS NOT NULL ORDER BY received_at LIMIT $1",
        limit,
    )
    return [SetAside(**row) for row in rows]


@record
class Queue:
    """The deliveries nobody has handled: when the oldest came that nobody tried a moment ago, and the others.

    Those others were set aside, ``aside`` of them (1,000 at most), the first of them for the reason ``why``.
    """

    oldest: datetime | None
    aside: int
    why: str | None


_QUEUE = """
SELECT min(received_at) FILTER (WHERE NOT tried) AS oldest, count(*) FILTER (WHERE tried) AS aside,
    min(set_aside_why) FILTER (WHERE tried) AS why
FROM (
    SELECT received_at, set_aside_why, coalesce(set_aside_at > $1, false) AS tried
    FROM webhook_deliveries WHERE handled_at IS NULL ORDER BY received_at LIMIT 1000) AS d
"""


async def load_queue(connection: Connection, tried_since: datetime) -> Queue:
    """Return what waits to be handled. What was set aside since ``tried_since`` waits on purpose."""
    row = await connection.fetchrow(_QUEUE, tried_since)
    assert row is not None  # noqa: S101 - an aggregate has its row
    return Queue(**row)
