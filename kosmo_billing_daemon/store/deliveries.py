"""Webhook deliveries: hints, recorded before they are answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kosmo_billing_daemon.store.postgres import CHANNEL, Connection


@dataclass(frozen=True, slots=True, kw_only=True)
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


_UNHANDLED = """
SELECT delivery_id, received_at, type, btcpay_invoice_id, order_id, store_id, claimed_status
FROM webhook_deliveries WHERE handled_at IS NULL AND delivery_id <> ALL ($2::text[])
ORDER BY received_at LIMIT $1
"""


async def load_unhandled(connection: Connection, limit: int, but: Sequence[str] = ()) -> list[Delivery]:
    """Return the oldest deliveries nobody has handled, without those named in ``but``."""
    return [Delivery(**row) for row in await connection.fetch(_UNHANDLED, limit, list(but))]


_MARK = """
UPDATE webhook_deliveries AS d SET handled_at = $3, outcome = row.outcome
FROM unnest($1::text[], $2::text[]) AS row (delivery_id, outcome)
WHERE d.delivery_id = row.delivery_id AND d.handled_at IS NULL
"""


async def mark_handled(connection: Connection, outcomes: Sequence[tuple[str, str]], now: datetime) -> None:
    """Note what became of deliveries, given as ``(delivery id, outcome)``."""
    if outcomes:
        await connection.execute(_MARK, [o[0] for o in outcomes], [o[1] for o in outcomes], now)


async def remove_handled(connection: Connection, before: datetime, limit: int) -> int:
    """Forget deliveries handled long ago; returns how many."""
    result = await connection.execute(_REMOVE, before, limit)
    return int(result.rpartition(" ")[2])


_REMOVE = """
DELETE FROM webhook_deliveries WHERE delivery_id IN (
    SELECT delivery_id FROM webhook_deliveries WHERE handled_at < $1 ORDER BY handled_at LIMIT $2)
"""


async def oldest_unhandled(connection: Connection) -> datetime | None:
    """Return when the oldest unhandled delivery came."""
    at: datetime | None = await connection.fetchval(
        "SELECT received_at FROM webhook_deliveries WHERE handled_at IS NULL ORDER BY received_at LIMIT 1"
    )
    return at
