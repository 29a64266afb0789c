"""Sums for metrics are those of the tables, whatever is written meanwhile, and each row counts once."""

from decimal import Decimal
from uuid import uuid4

import asyncpg

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.figures import Figures
from kosmo_billing_daemon.store import figures
from tests.services.conftest import Shop

ENTRY = """
INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)
VALUES (now(), gen_random_uuid(), 'granted', 3, 'EUR', 'operator', 'r')
"""


async def shown(shop: Shop) -> dict[str, dict[str, Decimal]]:
    while await Figures(pool=shop.front.pool).run_once():
        pass
    async with shop.front.pool.connection() as connection:
        return await figures.load(connection)


async def taken(shop: Shop) -> set[tuple[str, str, int]]:
    async with shop.front.pool.connection() as connection:
        found = await figures.load_takings(connection, shop.clock().date())
    return {(each.plan_type, str(each.amount), each.payments) for each in found}


async def test_what_was_sold_settled_and_left_is_summed_once(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    await shop.buy(user, "guardian")  # which replaces the first
    await shop.buy(UserId(uuid4()))
    await shop.open(UserId(uuid4()))
    for _ in range(2):  # the second time nothing is new
        assert await shown(shop) == {
            "active": {"wanderer": 1, "guardian": 1},
            "settled": {"USD": 22},
            "credit": {"USD": 0},
            "invoices": {"created": 4, "settled": 3},
        }
    assert await taken(shop) == {("wanderer", "10.00", 2), ("guardian", "12.00", 1)}
    await shop.buy(UserId(uuid4()))  # not added yet, and in the takings all the same
    assert await taken(shop) == {("wanderer", "15.00", 3), ("guardian", "12.00", 1)}
    await shop.wait(days=80)
    after = await shown(shop)
    assert after["active"] == {"wanderer": 0, "guardian": 0}
    assert after["invoices"] == {"created": 5, "settled": 4, "expired": 1}


async def test_an_entry_that_is_committed_late_is_not_passed_over(shop: Shop, database_url: str) -> None:
    late = await asyncpg.connect(database_url)
    try:
        async with late.transaction():
            await late.execute(ENTRY)
            await shop.front.execute(ENTRY)  # has the greater id
            assert await shown(shop) == {}
        assert (await shown(shop))["credit"] == {"EUR": 6}
    finally:
        await late.close()
