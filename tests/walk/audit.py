"""Compares a town at rest with the model; yields what differs."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice, SimulatedStatus
from tests.crash.audit import retained_is_the_database
from tests.walk import money
from tests.walk.catalogue import Offer
from tests.walk.model import KINDS, UNUSED, Fate, fate, standings
from tests.walk.money import Booked
from tests.walk.people import Person, money_of
from tests.walk.reading import Books, purchases, read
from tests.walk.renewals import renewed_by_itself
from tests.walk.town import Town
from tests.walk.worth import may_exceed_cap, released_packs, terms

_THROTTLE = """
SELECT (SELECT count(*) FROM lookups WHERE hinted_at IS NOT NULL) AS deliveries,
    (SELECT count(*) FROM outbox WHERE kind = 'event') AS events,
    (SELECT count(*) FROM outbox WHERE kind <> 'event') AS documents,
    (SELECT count(*) FROM lookups WHERE due_at <= clock_timestamp()) AS checks,
    (SELECT count(*) FROM inquiries) AS inquiries,
    (SELECT count(*) FROM recounts) AS recounts
"""

_DUE = """
SELECT l.*, i.status, i.payment, i.effect, i.next_check_at, i.observation, i.observed_at,
    (SELECT last_value FROM observations) AS last_number
FROM lookups AS l LEFT JOIN btcpay_invoices AS i ON i.id = l.invoice_id
WHERE l.due_at <= clock_timestamp() ORDER BY l.due_at LIMIT 5
"""

_MISCOUNTED = """
SELECT s.id FROM subscriptions AS s WHERE s.user_id = ANY ($1) AND s.messages_used <>
    (SELECT count(*) FROM usage_events AS e WHERE e.user_id = s.user_id AND e.subscription_id = s.id)
"""


async def complaints(town: Town, people: Sequence[Person]) -> AsyncGenerator[str, None]:
    """Yield what is not as it must be; nothing at rest."""
    async with town.world.sql() as connection:
        quiet = await connection.fetchrow(_THROTTLE)
        assert quiet is not None
        if any(quiet.values()):
            yield f"waiting: {dict(quiet)}"
            for row in await connection.fetch(_DUE):
                yield f"due: {dict(row)}"
            return
        books = await read(town, connection, people)
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
    async for problem in town.problems():
        yield problem


def _of_person(town: Town, books: Books, person: Person) -> list[str]:
    invoices = town.world.simulator.invoices
    rows = books.rows.get(person.user_id, [])
    found = _messages(books, person)
    for one in books.booked[person.user_id]:
        if one.offer not in town.sells.ever or one.offer.price != person.quoted.get(
            one.order_id, one.offer.price
        ):
            found.append(f"{one.order_id} is for {one.offer}, which was not on offer")
        if one.invoice_id in person.invoices:
            found += _invoice(invoices[one.invoice_id], one, books, rows, person, credit=town.credit)
    if len(person.invoices) != sum(one.invoice_id in person.invoices for one in books.booked[person.user_id]):
        found.append(f"of its invoices {person.invoices} some are unknown")
    from_credit = {
        one.order_id for one in books.booked[person.user_id] if one.invoice_id is None and one.stands
    }
    untold = from_credit - (renewed_by_itself(rows) if person.may_renew else set())
    if not untold <= person.from_credit <= from_credit:
        found.append(f"credit paid {from_credit}, was told of {person.from_credit}")
    if sum(row["cashed_at"] is not None for row in rows) != person.cashed:
        found.append(f"not {person.cashed} of its subscriptions became credit")
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


def _messages(books: Books, person: Person) -> list[str]:
    counted = books.counted[person.user_id]
    return [
        f"{counted[where]} messages counted in {where} of {len(person.messages)}"
        for where in ("events", "days")
        if counted[where] != len(person.messages)
    ]


def _invoice(
    invoice: SimulatedInvoice,
    booked: Booked,
    books: Books,
    rows: Sequence[Any],
    person: Person,
    *,
    credit: bool,
) -> list[str]:
    """R1, R6 to R9, R11, R14 and R17 for one invoice."""
    if booked.offer.fits:
        mine = [
            (f"added to {row['subscription_id']}", row["revoked_at"] is None)
            for row in books.top_ups[invoice.id]
        ]
    else:
        mine = [
            (row["status"], row["status"] != "revoked")
            for row in rows
            if row["btcpay_invoice_id"] == invoice.id
        ]
    dismissed = {kind for (key, kind) in person.dismissed if key == invoice.id}
    right = fate(
        invoice,
        person.confirmed_after.get(invoice.id),
        is_altered=invoice.id in person.altered,
        is_settled_by_hand=invoice.id in person.settled_by_hand,
        is_declined=not mine and bool(dismissed - {"overpaid"}),
    )
    state = f"{invoice.id} is {invoice.status}/{invoice.additional_status}"
    found = []
    stands = sum(it_stands for _, it_stands in mine)
    # A plan that was revoked comes back as it was; a pack is added to what is current then, or to nothing.
    may_be_refused = not stands if booked.offer.fits else not mine
    if may_be_refused and right.stands is not False and (at := books.refused.get(invoice.id)) is not None:
        # Credit that it counted on may be spent: where its reservation had ended, or some was paid before.
        may_be_spent = booked.credit_used > 0 or len(invoice.payments) > 1
        is_hopeless = (
            not _fits(rows, booked.offer, at) if booked.offer.fits else _exceeds(rows, booked.offer, at)
        )
        if not may_be_spent and not is_hopeless:
            found.append(f"{state} and was refused at {at}")
        # What became credit is not listed; more that comes in afterwards is listed by itself.
        is_credited = credit and booked.sum("received") > 0
        right = Fate(stands=False, must=frozenset(() if is_credited else {"not_fulfilled"}), may=KINDS)
    shown = invoice.confirmed if invoice.status is SimulatedStatus.INVALID else invoice.paid
    if credit and shown - booked.sum("received") < Decimal(1).scaleb(-invoice.currency.digits):
        right = Fate(right.stands, right.must - UNUSED, right.may)
    if books.orders[str(invoice.order_id)] != 1:
        found.append(f"{state} and {books.orders[str(invoice.order_id)]} times at BTCPay")
    if stands > 1 or (right.stands is not None and right.stands is not bool(stands)):
        found.append(f"{state}, its effects are {[what for what, _ in mine]}")
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
    for row, right in zip(standing, terms(purchases(standing)), strict=True):
        # Each conversion rounds worth; R2 promises a second.
        is_off = abs(row["valid_until"] - right.until) > timedelta(milliseconds=10)
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
        if last["cashed_at"] is not None:
            allowed = {"expired"}
        if last["status"] not in allowed:
            found.append(f"{last['id']} is {last['status']}, must be one of {allowed}")
    return found


def _exceeds(rows: Sequence[Any], offer: Offer, at: datetime) -> bool:
    """Whether what stood then and this could reach beyond the prepaid cap (R11)."""
    standing = [
        row
        for row in rows
        if row["valid_from"] <= at and (row["revoked_at"] is None or row["revoked_at"] > at)
    ]
    return may_exceed_cap(purchases(standing), offer, at)


def _fits(rows: Sequence[Any], pack: Offer, at: datetime) -> bool:
    """Whether a pack certainly fitted what was current then (R17).

    Where a mark at BTCPay took a plan and gave it back, no gap is seen later; grants and credit have none.
    """
    return any(
        row["valid_from"] < at < min(row["valid_until"], row["ended_at"] or row["valid_until"])
        and row["messages_limit"] is not None
        and Offer.of(row).name in pack.fits
        for row in rows
        if row["status"] != "revoked" and row["source"] in {"grant", "credit"}
    )


def _released(rows: Sequence[Any]) -> dict[str, Decimal]:
    """What of a user's worth could not be taken over, or was cashed, or had a plan that was revoked."""
    standing = [row for row in rows if row["status"] != "revoked"]
    released = [each.released for each in terms(purchases(standing))]
    for place, row in enumerate(rows):
        if row["status"] == "revoked":
            before = [one for one in rows[:place] if one["status"] != "revoked"]
            released.append(released_packs(purchases(before), purchases([row])[0]))
    found: dict[str, Decimal] = defaultdict(Decimal)
    for each in released:
        for currency, worth in each.items():
            found[currency] += Decimal(worth.numerator) / worth.denominator
    return found
