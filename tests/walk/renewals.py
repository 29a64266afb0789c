"""Whether credit renews the plans of those who chose it (R15), and no other plan."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedStatus
from tests.walk.catalogue import Offer
from tests.walk.money import balances
from tests.walk.people import Person
from tests.walk.town import Town

_OPEN = {SimulatedStatus.NEW, SimulatedStatus.PROCESSING}

_CURRENT = """
SELECT s.number, s.user_id, q.plan_type, q.amount, q.currency, q.quota, q.period, q.fits
FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id
WHERE s.user_id = ANY ($1) AND s.status = 'active' AND s.valid_until < $2
"""

_RENEWED = """
SELECT DISTINCT s.user_id FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id
JOIN unnest($1::uuid[], $2::bigint[], $3::text[]) AS old (user_id, number, plan_type)
    ON s.user_id = old.user_id
WHERE s.number > old.number AND s.source = 'credit' AND q.plan_type = old.plan_type
"""

Ending = dict[UUID, tuple[int, Offer]]
"""The numbers of subscriptions, and what renewing each costs."""


async def ending(town: Town, people: Sequence[Person], until: datetime) -> Ending:
    """Which plans end by then and can be renewed for sure: credit covers them, and nothing else is open."""
    invoices = town.world.simulator.invoices
    sure = {
        person.user_id: person
        for person in people
        if person.renews and not any(invoices[known].status in _OPEN for known in person.invoices)
    }
    async with town.world.sql() as connection:
        rows = await connection.fetch(_CURRENT, list(sure), until)
    found: Ending = {}
    for row in rows:
        offer = town.sells.now[row["plan_type"]]
        credit, reserved = (await balances(town, sure[row["user_id"]])).get(offer.currency, (0, 0))
        if credit - reserved >= offer.price:
            found[row["user_id"]] = row["number"], offer
    return found


async def missing(town: Town, due: Mapping[UUID, tuple[int, Offer]]) -> list[str]:
    """Return which of these were not renewed, although they cost what they did."""
    sure = {user_id: one for user_id, one in due.items() if one[1] == town.sells.now[one[1].name]}
    columns = (
        [[], [], []]
        if not sure
        else [list(sure), [number for number, _ in sure.values()], [offer.name for _, offer in sure.values()]]
    )
    async with town.world.sql() as connection:
        renewed = {row["user_id"] for row in await connection.fetch(_RENEWED, *columns)}
    return [f"{user_id}: {sure[user_id]} was not renewed" for user_id in sure.keys() - renewed]


def renewed_by_itself(rows: Sequence[Any]) -> set[UUID]:
    """Return the orders of purchases that may have been made so: of a plan that was there before."""
    return {
        new["invoice_id"]
        for place, new in enumerate(rows)
        if new["source"] == "credit" and any(Offer.of(old).name == Offer.of(new).name for old in rows[:place])
    }
