"""The ledger is listed and summed up as it is, however its entries came and however far they are added up."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.admin import entries
from kosmo_billing_daemon.domain.ledger import EntryKind
from kosmo_billing_daemon.services.figures import Figures
from kosmo_billing_daemon.store import entries as store
from kosmo_billing_daemon.store.entries import Entry, EntryFilter
from kosmo_billing_daemon.store.postgres import Database, Pool

DAY = datetime(2026, 3, 1, tzinfo=UTC)
USERS = (uuid4(), uuid4())
KINDS = 6 * [EntryKind.RECEIVED] + 3 * [EntryKind.SOLD] + [EntryKind.GRANTED]

_BOOK = """
INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)
SELECT *, 'operator', 'r' FROM unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::numeric[], $5::text[])
"""

_READ = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'ledger'"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with Pool(Database(url=database_url)) as opened:
        yield opened


async def book(pool: Pool, chance: random.Random, number: int) -> None:
    """Book entries of twelve days: most in the order of time, some late, a few of them much too late."""
    times = sorted(DAY + timedelta(hours=chance.randrange(12 * 24)) for _ in range(number))
    for place in chance.sample(range(number), number // 8):
        times[place] = DAY + timedelta(days=chance.randrange(12), hours=chance.choice([0, 5]))
    async with pool.connection() as connection:
        await connection.execute(
            _BOOK,
            times,
            chance.choices(USERS, k=number),
            chance.choices(KINDS, k=number),
            [Decimal(chance.choice([-2, -1, 1, 2])) for _ in times],
            chance.choices(["USD", "EUR"], [9, 1], k=number),
        )


async def pages(pool: Pool, wanted: EntryFilter) -> list[Entry]:
    """The whole list, page after page of seven."""
    found: list[Entry] = []
    page = await entries.load_page(pool, wanted, None, 7)
    while True:
        found += page.entries
        if page.next is None:
            return found
        page = await entries.load_page(pool, wanted, page.next, 7)


def chosen(rows: list[asyncpg.Record], wanted: EntryFilter) -> list[asyncpg.Record]:
    return [
        row
        for row in rows
        if wanted.since <= row["at"] < wanted.before
        and wanted.user_id in (None, row["user_id"])
        and wanted.kind in (None, row["kind"])
        and wanted.currency in (None, row["currency"])
    ]


def filters(chance: random.Random) -> list[EntryFilter]:
    given: list[dict[str, Any]] = [
        {"kind": kind, "currency": currency, "user_id": user}
        for kind in (None, EntryKind.RECEIVED, EntryKind.GRANTED)
        for currency in (None, "EUR", "XXX")
        for user in (None, USERS[0])
    ]
    periods = [(0, 12), (-400, 400), (20, 30), (3, 4), tuple(sorted(chance.sample(range(13), 2)))]
    return [
        EntryFilter(since=DAY + timedelta(days=first), before=DAY + timedelta(days=end), **each)
        for each in given
        for first, end in periods
    ]


async def test_what_is_listed_and_summed_up_is_what_was_booked(pool: Pool) -> None:
    """With nothing, a part and everything added up; pages in the order of time, whatever that of the ids."""
    chance = random.Random(19)
    figures = Figures(pool=pool)
    for number, is_added in ((30, False), (100, True), (40, False)):
        await book(pool, chance, number)
        if is_added:
            await figures.run_once()
        async with pool.connection() as connection:
            rows = await connection.fetch("SELECT * FROM ledger ORDER BY at, id")
        for wanted in filters(chance):
            right = chosen(rows, wanted)
            assert [each.id for each in await pages(pool, wanted)] == [row["id"] for row in reversed(right)]
            assert [entry.id async for batch in entries.load_every(pool, wanted) for entry in batch] == [
                row["id"] for row in right
            ]
            await agree(pool, wanted, right)


async def agree(pool: Pool, wanted: EntryFilter, right: list[asyncpg.Record]) -> None:
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    counts: dict[str, int] = defaultdict(int)
    for row in right:
        sums[row["currency"], row["kind"]] += row["amount"]
        counts[row["currency"]] += 1
    found = await entries.load_equations(pool, wanted)
    assert [each.currency for each in found] == sorted(counts)
    for each in found:
        assert each.entries == counts[each.currency]
        assert {kind: amount for kind, amount in each.raising if amount} | {
            kind: -amount for kind, amount in each.lowering if amount
        } == {
            kind: amount for (currency, kind), amount in sums.items() if currency == each.currency and amount
        }


async def test_a_page_reads_the_days_that_it_needs(pool: Pool) -> None:
    """Of 3,000 entries of 300 days: those of six days, wherever the page is, and a rare kind alone."""
    number = 3_000
    async with pool.connection() as connection:
        await connection.execute(
            _BOOK,
            [DAY + timedelta(hours=2.4 * place) for place in range(number)],
            number * [USERS[0]],
            ["granted" if place % 300 == 7 else "received" for place in range(number)],
            number * [Decimal(1)],
            number * ["USD"],
        )
    await Figures(pool=pool).run_once()
    ever = EntryFilter(since=DAY, before=DAY + timedelta(days=300))
    for before in (300, 250, 100, 1):
        assert await read(pool, ever, before) <= 80
    rare = EntryFilter(since=DAY, before=DAY + timedelta(days=300), kind=EntryKind.GRANTED)
    assert await read(pool, rare, 300) == 10


async def read(pool: Pool, wanted: EntryFilter, before: int) -> int:
    """How many entries were read for the page before a day."""
    async with pool.transaction() as connection:
        already = await connection.fetchval(_READ)
        await store.load_newest(connection, wanted, (DAY + timedelta(days=before), 0), 51)
        return int(await connection.fetchval(_READ) - already)
