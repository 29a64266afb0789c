"""What the database says of people, read at one moment."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import asyncpg

from tests.walk import money
from tests.walk.catalogue import Offer
from tests.walk.money import Booked
from tests.walk.people import Person
from tests.walk.town import Town
from tests.walk.worth import Pack, Purchase

_ROWS = """
SELECT s.*, q.plan_type, q.amount, q.currency, q.quota, q.period, q.fits, i.btcpay_invoice_id
FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id
LEFT JOIN btcpay_invoices AS i ON i.id = s.invoice_id
WHERE s.user_id = ANY ($1) ORDER BY s.number
"""

_TOP_UPS = """
SELECT t.*, i.btcpay_invoice_id FROM top_ups AS t JOIN btcpay_invoices AS i ON i.id = t.invoice_id
WHERE i.user_id = ANY ($1)
"""

# When a purchase that was paid could not take effect: then its case was opened, or its money became credit.
_REFUSED = """
SELECT i.btcpay_invoice_id, max(refused.at) AS at FROM btcpay_invoices AS i JOIN (
    SELECT invoice_id, opened_at AS at FROM attention_cases WHERE kind = 'not_fulfilled'
    UNION ALL SELECT (data ->> 'order_id')::uuid, occurred_at FROM events
    WHERE user_id = ANY ($1) AND type = 'credit.added' AND data ->> 'reason' = 'not_fulfilled'
) AS refused ON refused.invoice_id = i.id
WHERE i.user_id = ANY ($1) AND i.effect IN ('none', 'credited', 'declined') GROUP BY i.id
"""

_CASES = """
SELECT c.kind, i.btcpay_invoice_id FROM attention_cases AS c JOIN btcpay_invoices AS i ON i.id = c.invoice_id
WHERE c.user_id = ANY ($1) AND c.closed_at IS NULL
"""

# Each count of a user's messages, three ways: they must agree with what was reported.
_COUNTED = """
SELECT u.user_id, (SELECT count(*) FROM usage_events AS e WHERE e.user_id = u.user_id) AS events,
    (SELECT coalesce(sum(messages), 0)::bigint FROM usage_days AS d WHERE d.user_id = u.user_id) AS days
FROM unnest($1::uuid[]) AS u (user_id)
"""


@dataclass(frozen=True)
class Books:
    """Subscriptions, packs, money, refusals and open cases."""

    rows: Mapping[UUID, Sequence[Any]]
    top_ups: Mapping[str, Sequence[Any]]
    booked: Mapping[UUID, Sequence[Booked]]
    refused: Mapping[str, datetime]
    cases: Mapping[str, set[str]]
    counted: Mapping[UUID, Any]
    orders: Counter[str]


async def read(town: Town, connection: "asyncpg.Connection[Any]", people: Sequence[Person]) -> Books:
    users = [person.user_id for person in people]
    rows: dict[UUID, list[Any]] = defaultdict(list)
    for row in await connection.fetch(_ROWS, users):
        rows[row["user_id"]].append(row)
    cases: dict[str, set[str]] = defaultdict(set)
    for row in await connection.fetch(_CASES, users):
        cases[row["btcpay_invoice_id"]].add(row["kind"])
    top_ups: dict[str, list[Any]] = defaultdict(list)
    for row in await connection.fetch(_TOP_UPS, users):
        top_ups[row["btcpay_invoice_id"]].append(row)
    counted = {row["user_id"]: row for row in await connection.fetch(_COUNTED, users)}
    orders = Counter(str(invoice.order_id) for invoice in town.world.simulator.invoices.values())
    refused = {row["btcpay_invoice_id"]: row["at"] for row in await connection.fetch(_REFUSED, users)}
    booked = await money.load(connection, people)
    return Books(rows, top_ups, booked, refused, cases, counted, orders)


def purchases(rows: Sequence[Any]) -> list[Purchase]:
    return [
        Purchase(
            Offer.of(row),
            row["valid_from"],
            row["messages_used"],
            is_grant=row["source"] == "grant",
            packs=_packs(row),
            cashed_at=row["cashed_at"],
        )
        for row in rows
    ]


def _packs(row: Any) -> tuple[Pack, ...]:
    """The packs in a subscription's stack, whose lots come after its own."""
    lots = [] if row["stack"] is None else json.loads(row["stack"])["lots"]
    places = [place for place, lot in enumerate(lots) if lot["purchase"] == str(row["id"])]
    found: list[Pack] = []
    given = 0
    for lot in lots[places[0] + 1 :] if places else []:
        if not Decimal(lot["paid"]):
            given = int(lot["messages"])
        else:
            price, currency = Fraction(lot["paid"]), lot["currency"]
            found.append(Pack(price, currency, int(lot["messages"]), given, Fraction(lot["after"])))
            given = 0
    return tuple(found)
