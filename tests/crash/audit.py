"""What must be true of a user when everything is over, whatever died on the way."""

import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedStatus
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.entitlements import document
from kosmo_billing_daemon.store import entitlements
from kosmo_billing_daemon.store.postgres import Connection
from tests.support.observer import TOPICS
from tests.support.world import World

LOST, DOUBLED = "lost", "doubled"


@dataclass(frozen=True)
class Expected:
    """How a user ends: fulfilled purchases, standing, events (``may`` come or not), messages.

    ``leased`` of the messages were counted under a lease, of which there is one then.
    """

    purchases: int
    status: str = "active"
    events: Mapping[str, int] = field(default_factory=dict)
    may: frozenset[str] = frozenset()
    messages: int = 0
    leased: int = 0

    @property
    def stand(self) -> int:
        """How many of the purchases were not taken back."""
        return 0 if self.status == "revoked" else self.purchases


_PRICE = 5  # USD, of the only plan that is bought

_PERIODS = """
SELECT s.*, q.period, q.quota, i.status AS invoice_status, i.effect FROM subscriptions AS s
JOIN quotes AS q ON q.id = s.quote_id
LEFT JOIN btcpay_invoices AS i ON i.id = s.invoice_id WHERE s.user_id = $1 ORDER BY s.number
"""

_UNFULFILLED = """
SELECT i.id FROM btcpay_invoices AS i
WHERE i.user_id = $1 AND (i.status = 'settled') <> (i.effect = 'fulfilled')
    OR i.user_id = $1 AND i.effect <> 'none'
    AND (SELECT count(*) FROM subscriptions AS s WHERE s.invoice_id = i.id) <> 1
"""

_LEDGER = """
SELECT kind, sum(amount) AS amount FROM ledger WHERE user_id = $1 AND currency = 'USD' GROUP BY kind
"""

_FOREIGN_LEDGER = "SELECT count(*) FROM ledger WHERE user_id = $1 AND currency <> 'USD'"

_LEASED = """
SELECT count(*) AS leases, coalesce(sum(used), 0)::bigint AS messages FROM leases WHERE user_id = $1
"""

_COUNTED = """
SELECT (SELECT coalesce(sum(count), 0) FROM usage_events WHERE user_id = $1)::bigint AS events,
    (SELECT coalesce(sum(messages), 0) FROM usage_days WHERE user_id = $1)::bigint AS days,
    (SELECT coalesce(sum(messages_used), 0) FROM subscriptions WHERE user_id = $1)::bigint AS subscriptions
"""

_WAITING = "SELECT count(*) FROM lookups WHERE hinted_at IS NOT NULL"


async def complaints(
    world: World, connection: Connection, user_id: UUID, expected: Expected, *, in_the_past: bool = False
) -> AsyncGenerator[str, None]:
    """Yield what is missing or too much; nothing when all is as it must be.

    ``in_the_past`` looks at rows alone, since the observer forgets one trial before the next.
    """
    checks = [
        _ledger,
        _money,
        _events,
        _messages,
        _leases,
        _orders,
        *([] if in_the_past else [_heard, _document]),
    ]
    for check in checks:
        async for complaint in check(world, connection, user_id, expected):
            yield f"{user_id}: {complaint}"
    if waiting := await connection.fetchval(_WAITING):
        yield f"{waiting} hints wait"


async def retained_is_the_database(world: World, connection: Connection, users: list[UUID]) -> bool:
    """Whether what a subscriber that comes now is given says the same as the database."""
    known = await entitlements.load_of_users(connection, users)
    truth = {TOPICS.entitlement(user_id): _told(versioned) for user_id, versioned in known.items()}
    topic_filter = TOPICS.entitlement(users[0]) if len(users) == 1 else TOPICS.entitlements_filter
    retained = await world.retained(topic_filter)
    return {topic: _without_time(told) for topic, told in retained.items()} == truth


async def _ledger(
    _world: World, connection: Connection, user_id: UUID, expected: Expected
) -> AsyncGenerator[str, None]:
    """One period per fulfilled invoice (R1), and no time or message lost between them (R2)."""
    async for complaint in _periods(await connection.fetch(_PERIODS, user_id), expected):
        yield complaint
    for row in await connection.fetch(_UNFULFILLED, user_id):
        yield f"invoice {row['id']} has not exactly one effect"


async def _money(
    world: World, connection: Connection, user_id: UUID, expected: Expected
) -> AsyncGenerator[str, None]:
    """Received + granted = sold, which is the price of what stands; nothing is left as credit (R13).

    What was received is what BTCPay has of the user; what the operator vouched for there is granted.
    """
    booked = {row["kind"]: row["amount"] for row in await connection.fetch(_LEDGER, user_id)}
    rows = await connection.fetch("SELECT btcpay_invoice_id FROM btcpay_invoices WHERE user_id = $1", user_id)
    invoices = [world.simulator.invoices[row[0]] for row in rows if row[0] is not None]
    settled = (each.confirmed for each in invoices if each.status is SimulatedStatus.SETTLED)
    received, sold = sum(settled, Decimal(0)), Decimal(expected.stand * _PRICE)
    for kind, right in {"received": received, "granted": sold - received, "sold": -sold}.items():
        if (amount := booked.pop(kind, Decimal(0))) != right:
            yield f"{LOST if amount < right else DOUBLED}: {amount} USD {kind}, not {right}"
    if booked:
        yield f"entries of {booked}"
    for complaint in _off("foreign entries", await connection.fetchval(_FOREIGN_LEDGER, user_id), 0):
        yield complaint


async def _leases(
    _world: World, connection: Connection, user_id: UUID, expected: Expected
) -> AsyncGenerator[str, None]:
    """What was asked twice was leased once, and what was reported under it counts once."""
    row = await connection.fetchrow(_LEASED, user_id)
    assert row is not None
    for complaint in _off("leases", row["leases"], min(expected.leased, 1)):
        yield complaint
    for complaint in _off("messages under leases", row["messages"], expected.leased):
        yield complaint


async def _periods(rows: list[Any], expected: Expected) -> AsyncGenerator[str, None]:
    for complaint in _off("purchases", len(rows), expected.purchases):
        yield complaint
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None:
            rest = before["messages_limit"] - before["messages_used"]
            if row["carried_time"] != before["valid_until"] - row["valid_from"]:
                yield f"time was not carried over: {row['carried_time']}"
            if row["carried_messages"] != rest or before["status"] != "replaced":
                yield f"messages were not carried over: {row['carried_messages']} of {rest}"
        if row["messages_limit"] != row["quota"] + row["carried_messages"]:
            yield f"a limit of {row['messages_limit']}"
        if row["valid_until"] - row["valid_from"] != row["period"] + row["carried_time"]:
            yield f"from {row['valid_from']} until {row['valid_until']}"


async def _events(
    _world: World, connection: Connection, user_id: UUID, expected: Expected
) -> AsyncGenerator[str, None]:
    """Each event is there once."""
    rows = await connection.fetch("SELECT type FROM events WHERE user_id = $1", user_id)
    told = Counter(row["type"] for row in rows)
    for name in told.keys() | expected.events.keys():
        wanted = min(told[name], 1) if name in expected.may else expected.events.get(name, 0)
        for complaint in _off(name, told[name], wanted):
            yield complaint


async def _heard(
    world: World, connection: Connection, user_id: UUID, _expected: Expected
) -> AsyncGenerator[str, None]:
    """The subscriber got all of the events, some perhaps twice; their ids tell that."""
    rows = await connection.fetch("SELECT id FROM events WHERE user_id = $1", user_id)
    heard = {
        event["id"].rpartition("/")[2].partition("-")[0] for event in world.observer.cloud_events(user_id)
    }
    if heard != {str(row["id"]) for row in rows}:
        yield f"{LOST}: heard {heard} of {[row['id'] for row in rows]}"


async def _messages(
    _world: World, connection: Connection, user_id: UUID, expected: Expected
) -> AsyncGenerator[str, None]:
    row = await connection.fetchrow(_COUNTED, user_id)
    assert row is not None
    for where, number in row.items():
        for complaint in _off(f"messages in {where}", number, expected.messages):
            yield complaint


async def _orders(
    world: World, connection: Connection, user_id: UUID, _expected: Expected
) -> AsyncGenerator[str, None]:
    """BTCPay has each order once, whoever asked for it how often; but none that credit paid whole."""
    rows = await connection.fetch(
        "SELECT i.id FROM btcpay_invoices AS i JOIN quotes AS q ON q.id = i.quote_id"
        " WHERE user_id = $1 AND status <> 'abandoned' AND credit_used < q.amount",
        user_id,
    )
    ours = {str(row["id"]) for row in rows}
    orders = Counter(str(invoice.metadata.get("orderId")) for invoice in world.simulator.invoices.values())
    for order_id in ours:
        for complaint in _off("orders at BTCPay", orders[order_id], 1):
            yield complaint


def _off(what: str, number: int, expected: int) -> Iterator[str]:
    if number != expected:
        yield f"{LOST if number < expected else DOUBLED}: {number} {what} of {expected}"


async def _document(
    world: World, connection: Connection, user_id: UUID, expected: Expected
) -> AsyncGenerator[str, None]:
    truth = (await entitlements.load_of_users(connection, [user_id])).get(UserId(user_id))
    seen = world.observer.documents.get(user_id)
    if truth is None or seen is None:
        yield f"no document: {truth}, {seen}"
        return
    if seen["status"] != expected.status:
        yield f"{seen['status']} instead of {expected.status}"
    if _without_time(seen) != _told(truth):
        yield f"told {seen}, is {truth}"
    elif not await retained_is_the_database(world, connection, [user_id]):
        yield "retained is another document"
    versions = world.observer.versions[user_id]
    if versions != sorted(versions):
        yield f"versions fell: {versions}"


def _told(versioned: entitlements.Versioned) -> dict[str, Any]:
    return _without_time(json.loads(document(versioned, datetime.now(UTC)).encode()))


def _without_time(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "issued_at"}
