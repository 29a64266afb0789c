"""Invoices to settle: rows as the daemon makes them, written by SQL, thousands at once."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg

from tests.bench.load_generator import Connection, post
from tests.support.quotes import WANDERER, quoting

_OPEN = quoting(
    WANDERER,
    """, opened AS (
    INSERT INTO btcpay_invoices (
        id, user_id, quote_id, status, btcpay_invoice_id, checkout_url, created_at, expires_at, next_check_at)
    SELECT id, user_id, :quote, 'new',
        'B' || left(replace(id::text, '-', ''), 21), 'http://127.0.0.1/i/' || id, now(),
        now() + interval '1 hour', now() + interval '30 minutes'
    FROM unnest($1::uuid[], $2::uuid[]) AS row (id, user_id)
    RETURNING next_check_at, id)
INSERT INTO lookups (due_at, invoice_id) SELECT * FROM opened
""",
)

_OPEN_PLAIN = """
INSERT INTO invoices (id, user_id, plan_type, amount, currency, status, created_at)
SELECT id, user_id, 'wanderer', 5, 'USD', 'new', now()
FROM unnest($1::uuid[], $2::uuid[]) AS row (id, user_id)
"""

Order = tuple[UUID, UUID]
"""Our id of an invoice, and its user."""


async def paid_orders(
    database_url: str, btcpay: str, number: int, *, users: Sequence[UUID] | None = None, plain: bool = False
) -> list[Order]:
    """Open invoices that BTCPay calls settled and nobody was told of; of new users unless some are given."""
    orders = [(uuid4(), users[place] if users else uuid4()) for place in range(number)]
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_OPEN_PLAIN if plain else _OPEN, *map(list, zip(*orders, strict=True)))
    finally:
        await connection.close()
    async with Connection(btcpay) as told:
        await told.expect(post("/paid", "\n".join(str(order_id) for order_id, _ in orders).encode()), 200)
    return orders
