"""What purchases cost the database, in figures that do not depend on the machine, so they cannot creep up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.store.deliveries import Delivery
from tests.services.conftest import Shop

TOGETHER = 50
SESSIONS = 6

_WAL = """
SELECT sum(wal_records)::float8, sum(wal_bytes)::float8
FROM pg_stat_activity AS a, LATERAL pg_stat_get_backend_wal(a.pid) AS wal
WHERE datname = current_database()
"""

_UPDATES = """
SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
WHERE relname IN ('btcpay_invoices', 'subscriptions')
"""


@dataclass
class Work:
    """What was done meanwhile: WAL of each purchase, statements in all, the share of HOT updates."""

    records: float = 0
    size: float = 0
    statements: int = 0
    hot: dict[str, float] = field(default_factory=dict)


@asynccontextmanager
async def measured(shop: Shop) -> AsyncIterator[Work]:
    work = Work()

    def count(query: Any) -> None:
        # A session asks for the types of its arguments once.
        work.statements += "typeinfo_tree" not in query.query and "'jit'" not in query.query

    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(shop.front.pool.connection()) for _ in range(SESSIONS)]
        before = await _figures(sessions)
        for session in sessions:
            session.add_query_logger(count)
    yield work
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(shop.front.pool.connection()) for _ in range(SESSIONS)]
        for session in sessions:
            session.remove_query_logger(count)
        after = await _figures(sessions)
    work.records = (after[0][0] - before[0][0]) / TOGETHER
    work.size = (after[0][1] - before[0][1]) / TOGETHER
    work.hot = {
        name: (after[1][name][1] - before[1][name][1]) / changed
        for name in after[1]
        if (changed := after[1][name][0] - before[1][name][0])
    }


async def _figures(sessions: list[Any]) -> tuple[Any, dict[str, tuple[int, int]]]:
    for session in sessions:
        await session.execute("SELECT pg_stat_force_next_flush()")
    updates = {name: (all_, hot) for name, all_, hot in await sessions[0].fetch(_UPDATES)}
    return await sessions[0].fetchrow(_WAL), updates


async def test_purchases_write_little_and_rewrite_no_index(shop: Shop) -> None:
    """Bounds a little above what was measured. Some at once, as one round; others in many small ones."""
    await shop.buy(UserId(uuid4()))  # plans are made, and pages begun
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    async with measured(shop) as opening:
        paid = await open_and_pay(shop)
    async with measured(shop) as hinting:
        await asyncio.gather(*map(shop.front.inbox.record, paid))
    async with measured(shop) as settling:
        assert await shop.front.reconciliation.run_once() == TOGETHER
    assert (opening.records < 13, opening.size < 1500) == (True, True), opening
    assert (hinting.records < 6.5, hinting.size < 600) == (True, True), hinting
    assert (settling.records < 25, settling.size < 3000) == (True, True), settling
    assert hinting.statements == 1
    assert settling.statements <= 5, "a whole round, from its lookups to its commit"
    async with measured(shop) as apart:
        paid = await open_and_pay(shop)
        for first in range(0, TOGETHER, 10):
            await asyncio.gather(*map(shop.front.inbox.record, paid[first : first + 10]))
            assert await shop.front.reconciliation.run_once() == 10
        rows = await shop.front.rows("SELECT id FROM subscriptions")
        for row in 2 * rows:
            await shop.front.execute(
                "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE id = $1", row["id"]
            )
    assert set(apart.hot) == {"btcpay_invoices", "subscriptions"}
    assert min(apart.hot.values()) >= 0.95, apart.hot


async def open_and_pay(shop: Shop) -> list[Delivery]:
    """Open invoices, pay them, and return the webhooks about that."""
    users = [UserId(uuid4()) for _ in range(TOGETHER)]
    opened = await asyncio.gather(*(shop.front.open(user, "wanderer") for user in users))
    told = []
    for invoice, _ in opened:
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
        body = f'{{"type": "InvoiceSettled", "metadata": {{"orderId": "{invoice.id}"}}}}'
        told.append(shop.delivery(body.encode()))
    return told
