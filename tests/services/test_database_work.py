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


_LOOKUPS_READ = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'lookups_due'"


@dataclass
class Work:
    """What was done meanwhile: WAL of each purchase, statements in all, the share of HOT updates.

    ``lookups`` are the entries of their index that were read.
    """

    records: float = 0
    size: float = 0
    statements: int = 0
    lookups: int = 0
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
    work.lookups = after[2] - before[2]
    work.records = (after[0][0] - before[0][0]) / TOGETHER
    work.size = (after[0][1] - before[0][1]) / TOGETHER
    work.hot = {
        name: (after[1][name][1] - before[1][name][1]) / changed
        for name in after[1]
        if (changed := after[1][name][0] - before[1][name][0])
    }


async def _figures(sessions: list[Any]) -> tuple[Any, dict[str, tuple[int, int]], int]:
    for session in sessions:
        await session.execute("SELECT pg_stat_force_next_flush()")
    updates = {name: (all_, hot) for name, all_, hot in await sessions[0].fetch(_UPDATES)}
    wal = await sessions[0].fetchrow(_WAL)
    return wal, updates, await sessions[0].fetchval(_LOOKUPS_READ)


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


async def test_a_purchase_passes_no_other_lookup_that_is_due_at_the_same_time(
    shop: Shop, user: UserId
) -> None:
    """As all are that a new leader asks for: going through them each time would take the square of them."""
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    invoice, _ = await shop.front.open(user, "wanderer")
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.front.execute(
        "INSERT INTO lookups (due_at, invoice_id)"
        " SELECT due_at, gen_random_uuid() FROM lookups, generate_series(1, 2000)"
    )
    await shop.front.inbox.record(
        shop.delivery(b'{"type": "InvoiceSettled", "invoiceId": "%s"}' % shop.btcpay_id(invoice).encode())
    )
    async with measured(shop) as settling:
        assert await shop.front.reconciliation.run_once() == 1
    assert await shop.front.rows("SELECT FROM lookups WHERE invoice_id = $1", invoice.id) == []
    assert settling.lookups < 20, settling


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
