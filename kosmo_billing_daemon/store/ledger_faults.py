"""Where the ledger disagrees with the rows that it follows (R13): there must be no such place.

Each change writes both in one transaction. So whatever is found was written by somebody else, or by a bug.
"""

from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record
class LedgerFault:
    """What is booked of something, and what should be; ``what`` is of an invoice where that is named."""

    order_id: UUID | None
    what: str
    booked: Decimal
    right: Decimal


# What an invoice books is a function of its row (``domain/ledger.py``); refunds are rows of their own.
_OF_INVOICES = """
SELECT i.id AS order_id, sums.what, sums.booked, sums.should AS right
FROM btcpay_invoices AS i JOIN quotes AS q ON q.id = i.quote_id
LEFT JOIN (
    SELECT invoice_id, sum(amount) FILTER (WHERE kind = 'received') AS received,
        sum(amount) FILTER (WHERE kind IN ('granted', 'written_off')) AS adjusted,
        sum(amount) FILTER (WHERE kind = 'sold') AS sold,
        sum(amount) FILTER (WHERE kind = 'refunded') AS refunded,
        array_agg(DISTINCT user_id) AS users, array_agg(DISTINCT currency) AS currencies
    FROM ledger WHERE invoice_id IS NOT NULL GROUP BY invoice_id
) AS l ON l.invoice_id = i.id
LEFT JOIN (
    SELECT invoice_id, sum(amount) AS amount FROM refunds
    WHERE invoice_id IS NOT NULL AND cancelled_at IS NULL GROUP BY invoice_id
) AS r ON r.invoice_id = i.id
CROSS JOIN LATERAL (VALUES
    ('received', coalesce(l.received, 0), i.received),
    ('granted or written off', coalesce(l.adjusted, 0),
        CASE i.effect WHEN 'revoked' THEN 0 ELSE i.adjusted END),
    ('sold', coalesce(-l.sold, 0), CASE WHEN i.effect IN ('fulfilled', 'withdrawn') THEN q.amount ELSE 0 END),
    ('refunded', coalesce(-l.refunded, 0), coalesce(r.amount, 0)),
    ('users beside its own', coalesce(cardinality(array_remove(l.users, i.user_id)), 0), 0),
    ('currencies beside its own', coalesce(cardinality(array_remove(l.currencies, q.currency)), 0), 0),
    ('given', (EXISTS (SELECT FROM subscriptions WHERE invoice_id = i.id AND status <> 'revoked')
        OR EXISTS (SELECT FROM top_ups WHERE invoice_id = i.id AND revoked_at IS NULL))::int,
        (i.effect = 'fulfilled')::int)
) AS sums (what, booked, should)
WHERE sums.booked <> sums.should
"""

_OF_NO_INVOICE = """
SELECT l.invoice_id AS order_id, 'booked for an invoice that is not there' AS what, sum(l.amount) AS booked,
    0::numeric AS right
FROM ledger AS l WHERE l.invoice_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM btcpay_invoices WHERE id = l.invoice_id)
GROUP BY l.invoice_id
"""

_OF_REFUNDS = """
SELECT NULL::uuid AS order_id, 'refunded to user ' || user_id AS what, -coalesce(l.amount, 0) AS booked,
    coalesce(r.amount, 0) AS right
FROM (
    SELECT user_id, currency, sum(amount) AS amount FROM ledger
    WHERE kind = 'refunded' AND invoice_id IS NULL GROUP BY user_id, currency
) AS l FULL JOIN (
    SELECT user_id, currency, sum(amount) AS amount FROM refunds
    WHERE user_id IS NOT NULL AND invoice_id IS NULL AND cancelled_at IS NULL GROUP BY user_id, currency
) AS r USING (user_id, currency)
WHERE coalesce(l.amount, 0) + coalesce(r.amount, 0) <> 0
"""

# Worth that could not be carried over became credit (R2).
_OF_RELEASES = """
SELECT NULL::uuid AS order_id, 'taken back of purchase ' || purchase || ' in ' || currency AS what,
    coalesce(l.amount, 0) AS booked, coalesce(s.amount, 0) AS right
FROM (
    SELECT purchase, currency, sum(amount) AS amount FROM ledger
    WHERE kind = 'sold' AND purchase IS NOT NULL GROUP BY purchase, currency
) AS l FULL JOIN (
    SELECT (one ->> 'purchase')::uuid AS purchase, one ->> 'currency' AS currency,
        sum((one ->> 'worth')::numeric) AS amount
    FROM subscriptions, jsonb_array_elements(stack -> 'released') AS one GROUP BY 1, 2
) AS s USING (purchase, currency)
WHERE coalesce(l.amount, 0) <> coalesce(s.amount, 0)
"""

_FAULTS = f"{_OF_INVOICES} UNION ALL {_OF_NO_INVOICE} UNION ALL {_OF_REFUNDS} UNION ALL {_OF_RELEASES}"


async def load(connection: Connection) -> list[LedgerFault]:
    """Return every place where the ledger disagrees; it reads all there is."""
    rows = await connection.fetch(f"{_FAULTS} ORDER BY order_id, what")
    return [LedgerFault(**row) for row in rows]
