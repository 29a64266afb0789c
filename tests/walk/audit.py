"""Compares a town at rest with the model; yields what differs."""

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import asyncpg

from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice, SimulatedStatus
from tests.crash.audit import retained_is_the_database
from tests.walk import money
from tests.walk.model import KINDS, PLANS, UNUSED, Fate, Purchase, fate, may_exceed_cap, standings, terms
from tests.walk.money import Booked
from tests.walk.people import Person, money_of
from tests.walk.town import Town

CENT = Decimal("0.01")

_THROTTLE = """
SELECT (SELECT count(*) FROM lookups WHERE hinted_at IS NOT NULL) AS deliveries,
    (SELECT count(*) FROM outbox WHERE kind = 'event') AS events,
    (SELECT count(*) FROM outbox WHERE kind <> 'event') AS documents,
    (SELECT count(*) FROM lookups WHERE due_at <= clock_timestamp()) AS checks,
    (SELECT count(*) FROM recounts) AS recounts
"""

_ROWS = """
SELECT s.*, q.plan_type, i.btcpay_invoice_id FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id
LEFT JOIN btcpay_invoices AS i ON i.id = s.invoice_id
WHERE s.user_id = ANY ($1) ORDER BY s.number
"""

# When a purchase that was paid could not take effect: then its case was opened, or its money became credit.
_REFUSED = """
SELECT i.btcpay_invoice_id, min(refused.at) AS at FROM btcpay_invoices AS i JOIN (
    SELECT invoice_id, opened_at AS at FROM attention_cases WHERE kind = 'not_fulfilled' AND closed_at IS NULL
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

_MISCOUNTED = """
SELECT s.id FROM subscriptions AS s WHERE s.user_id = ANY ($1) AND s.messages_used <>
    (SELECT count(*) FROM usage_events AS e WHERE e.user_id = s.user_id AND e.subscription_id = s.id)
"""


@dataclass(frozen=True)
class _Books:
    """What the database says, read at one moment."""

    rows: Mapping[UUID, Sequence[Any]]
    booked: Mapping[UUID, Sequence[Booked]]
    refused: Mapping[str, datetime]
    cases: Mapping[str, set[str]]
    counted: Mapping[UUID, Any]
    orders: Counter[str]


async def complaints(town: Town, people: Sequence[Person]) -> AsyncGenerator[str, None]:
    """Yield what is not as it must be; nothing at rest."""
    async with town.world.sql() as connection:
        quiet = await connection.fetchrow(_THROTTLE)
        assert quiet is not None
        if any(quiet.values()):
            yield f"waiting: {dict(quiet)}"
            return
        books = await _read(town, connection, people)
        for row in await connection.fetch(_MISCOUNTED, [person.user_id for person in people]):
            yield f"subscription {row['id']} counts other messages than are attributed to it"
        for person in people:
            for complaint in _of_person(town, books, person):
                yield f"{person.user_id}: {complaint}"
        released = {person.user_id: _released(books.rows.get(person.user_id, ())) for person in people}
        async for complaint in money.complaints(town, connection, people, books.booked, released):
            yield complaint
        users = [row["user_id"] for row in await connection.fetch("SELECT user_id FROM entitlements")]
        if users and not await retained_is_the_database(town.world, connection, users):
            yield "what is retained is not the database"
    for house in town.houses:
        status, told = await town.world.ready(house.daemon)
        if status != 200 or told["status"] != "ready":
            yield f"{house.daemon.name} is not ready: {told}"


async def _read(town: Town, connection: "asyncpg.Connection[Any]", people: Sequence[Person]) -> _Books:
    users = [person.user_id for person in people]
    rows: dict[UUID, list[Any]] = defaultdict(list)
    for row in await connection.fetch(_ROWS, users):
        rows[row["user_id"]].append(row)
    cases: dict[str, set[str]] = defaultdict(set)
    for row in await connection.fetch(_CASES, users):
        cases[row["btcpay_invoice_id"]].add(row["kind"])
    counted = {row["user_id"]: row for row in await connection.fetch(_COUNTED, users)}
    orders = Counter(str(invoice.order_id) for invoice in town.world.simulator.invoices.values())
    refused = {row["btcpay_invoice_id"]: row["at"] for row in await connection.fetch(_REFUSED, users)}
    booked = await money.load(connection, people)
    return _Books(rows, booked, refused, cases, counted, orders)


def _of_person(town: Town, books: _Books, person: Person) -> list[str]:
    invoices = town.world.simulator.invoices
    rows = books.rows.get(person.user_id, [])
    found = _messages(books, person)
    for one in books.booked[person.user_id]:
        if one.invoice_id in person.invoices:
            found += _invoice(invoices[one.invoice_id], one, books, rows, person, credit=town.credit)
    if len(person.invoices) != sum(one.invoice_id in person.invoices for one in books.booked[person.user_id]):
        found.append(f"of its invoices {person.invoices} some are unknown")
    from_credit = sorted(str(row["invoice_id"]) for row in rows if row["source"] == "credit")
    if from_credit != sorted(person.from_credit):
        found.append(f"credit paid {from_credit}, was told of {person.from_credit}")
    versions = town.world.observer.versions[person.user_id]
    if versions != sorted(versions):
        found.append(f"versions fell: {versions}")
    holding = any(
        invoices[key].status is SimulatedStatus.PROCESSING and key not in person.settled_by_hand
        for key in person.invoices
    )
    grants = [row["status"] for row in rows if row["source"] == "grant"]
    if (len(grants), grants.count("revoked")) != (person.granted, person.ungranted):
        found.append(f"its grants are {grants} of {person.granted}, revoked {person.ungranted}")
    return [*found, *_periods(rows, holding=holding)]


def _messages(books: _Books, person: Person) -> list[str]:
    counted = books.counted[person.user_id]
    return [
        f"{counted[where]} messages counted in {where} of {len(person.messages)}"
        for where in ("events", "days")
        if counted[where] != len(person.messages)
    ]


def _invoice(
    invoice: SimulatedInvoice,
    booked: Booked,
    books: _Books,
    rows: Sequence[Any],
    person: Person,
    *,
    credit: bool,
) -> list[str]:
    """R1, R6 to R9, R11 and R14 for one invoice."""
    mine = [row for row in rows if row["btcpay_invoice_id"] == invoice.id]
    dismissed = {kind for (key, kind) in person.dismissed if key == invoice.id}
    right = fate(
        invoice,
        person.confirmed_after.get(invoice.id),
        had_effect=bool(mine),
        is_altered=invoice.id in person.altered,
        is_settled_by_hand=invoice.id in person.settled_by_hand,
        is_declined=not mine and bool(dismissed - {"overpaid"}),
    )
    state = f"{invoice.id} is {invoice.status}/{invoice.additional_status}"
    found = []
    if not mine and right.stands is not False and (at := books.refused.get(invoice.id)) is not None:
        # Credit that it counted on may be spent: where its reservation had ended, or some was paid before.
        may_be_spent = booked.credit_used > 0 or len(invoice.payments) > 1
        if not may_be_spent and not may_exceed_cap(_standing_at(rows, at), _plan(booked), at):
            found.append(f"{state} and was refused at {at}")
        # What became credit is not listed; more that comes in afterwards is listed by itself.
        is_credited = credit and booked.sum("received") > 0
        right = Fate(stands=False, must=frozenset(() if is_credited else {"not_fulfilled"}), may=KINDS)
    if credit and invoice.paid - booked.sum("received") < CENT:
        right = Fate(right.stands, right.must - UNUSED, right.may)
    if books.orders[str(invoice.order_id)] != 1:
        found.append(f"{state} and {books.orders[str(invoice.order_id)]} times at BTCPay")
    stands = [row for row in mine if row["status"] != "revoked"]
    if len(mine) > 1 or (right.stands is not None and right.stands is not bool(stands)):
        found.append(f"{state}, its effects are {[row['status'] for row in mine]}")
    opened = books.cases.get(invoice.id, set())
    ever_paid = sum(payment.amount for payment in invoice.payments)  # what was replaced may have been listed
    may = right.may | ({"overpaid"} if ever_paid > invoice.price else set())
    closed = {kind for kind in dismissed if person.dismissed[invoice.id, kind] == money_of(invoice)}
    must, may = right.must - dismissed, (right.must | may) - closed  # more money opens it again
    if not must <= opened <= may:
        found.append(f"{state}, its cases are {opened}, must be {set(must)}, may be {set(may)}")
    return found


def _periods(rows: Sequence[Any], *, holding: bool) -> list[str]:
    """R2 between the purchases that stand, and how the last of them stands."""
    standing = [row for row in rows if row["status"] != "revoked"]
    found = []
    for row, right in zip(standing, terms(_purchases(standing)), strict=True):
        is_off = abs(row["valid_until"] - right.until) > timedelta(milliseconds=1)  # worth is rounded too
        limit, used = row["messages_limit"], row["messages_used"]
        # What was used before a late report took it away is not taken back.
        is_used = right.messages is not None and limit is not None and right.messages < limit <= used
        if is_off or not (right.allows(limit) or is_used):
            found.append(f"{row['id']} ends {row['valid_until']} with {row['messages_limit']}, not {right}")
        if row is not standing[-1] and row["status"] not in {"replaced", "expired"}:
            found.append(f"{row['id']} is {row['status']} and has a successor")
    if standing:
        last = standing[-1]
        allowed = standings(last["valid_until"], datetime.now(UTC), holding=holding)
        if last["status"] not in allowed:
            found.append(f"{last['id']} is {last['status']}, must be one of {allowed}")
    return found


def _purchases(rows: Sequence[Any]) -> list[Purchase]:
    return [
        Purchase(row["plan_type"], row["valid_from"], row["messages_used"], row["source"] == "grant")
        for row in rows
    ]


def _standing_at(rows: Sequence[Any], at: datetime) -> list[Purchase]:
    return _purchases(
        [
            row
            for row in rows
            if row["valid_from"] <= at and (row["revoked_at"] is None or row["revoked_at"] > at)
        ]
    )


def _plan(booked: Booked) -> str:
    return next(plan for plan, (price, _) in PLANS.items() if price == booked.price)


def _released(rows: Sequence[Any]) -> Decimal:
    """What of a user's worth could not be taken over."""
    right = terms(_purchases([row for row in rows if row["status"] != "revoked"]))
    worth = sum((each.released for each in right), Fraction(0))
    return Decimal(worth.numerator) / worth.denominator
