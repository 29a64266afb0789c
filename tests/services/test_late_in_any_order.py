"""Late reports, refunds and webhooks in any order, repeated, end in the same state (R2, R12, R13)."""

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.metering import Metering, Report
from tests.services.conftest import STORE, Shop
from tests.services.test_inquiries import inquire
from tests.support.usage import messages, payload

TIMELY, *LATE = (UserId(UUID(int=number)) for number in range(1, 4))
Tell = Callable[[], Awaitable[object]]


async def report(shop: Shop, user: UserId, first: int, last: int, sent_at: datetime) -> None:
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    read = metering.read("gateway", payload(messages(user, first, last, sent_at), str(uuid4())))
    assert isinstance(read, Report)
    await metering.count([read])
    await shop.front.recounting.run_once()


async def hint(shop: Shop, body: bytes) -> None:
    await shop.front.inbox.record(shop.delivery(body, str(uuid4())))
    await inquire(shop)


async def buy(shop: Shop, plan: str, amount: str | None = None) -> list[Invoice]:
    """Let everybody buy at the same moment."""
    opened = [await shop.open(user, plan) for user in (TIMELY, *LATE)]
    for invoice in opened:
        await shop.lightning(invoice, amount)
    return opened


async def ends(shop: Shop) -> list[dict[str, Any]]:
    """Where everybody ended: subscriptions, sums of the ledger, and what is open."""
    found = []
    for user in (TIMELY, *LATE):
        rows = await shop.front.subscriptions(user)
        sums = await shop.front.rows(
            "SELECT kind, sum(amount) FROM ledger WHERE user_id = $1 GROUP BY kind ORDER BY kind", user
        )
        facts = (
            "plan_type",
            "status",
            "valid_from",
            "valid_until",
            "messages_limit",
            "messages_used",
            "stack",
        )
        found.append(
            {
                "rows": [_without_ids([row[fact] for fact in facts], rows) for row in rows],
                "sums": [tuple(row) for row in sums],
                "cases": [case for case in await shop.front.cases(user) if case[2]],
            }
        )
    return found


def _without_ids(facts: Sequence[Any], rows: Sequence[Any]) -> list[Any]:
    text = facts[-1]
    for place, row in enumerate(rows):
        text = text and text.replace(str(row["id"]), f"purchase {place}")
    return [*facts[:-1], text]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))])
async def test_late_reports_refunds_and_webhooks_in_any_order_end_where_timely_ones_do(
    shop: Shop, seed: int
) -> None:
    chance = Random(seed)
    await shop.start(credit=True)
    told: dict[UserId, list[Tell]] = {user: [] for user in (TIMELY, *LATE)}

    async def use(first: int, last: int) -> None:
        for user, tells in told.items():
            tells.append(partial(report, shop, user, first, last, shop.clock()))
        shop.clock.move(minutes=1)
        await told[TIMELY][-1]()

    paid = await buy(shop, "guardian", "20.00")  # eight too much
    shop.clock.move(days=1)
    await use(0, 180)
    shop.clock.move(days=1)
    await buy(shop, "guardian")
    shop.clock.move(days=1)
    await use(180, 400)
    shop.clock.move(days=1)
    await buy(shop, "sanctuary")
    shop.clock.move(days=1)
    await use(400, 450)
    await inquire(shop)
    shop.simulator.set_faults(webhooks={"drop": 1.0})  # those of the refunds; they are given below
    for amount in ("1.00", "2.50"):
        for user, invoice in zip(told, paid, strict=True):
            name = shop.btcpay_id(invoice)
            made = shop.simulator.refund(
                name, refundVariant="Custom", customAmount=amount, customCurrency="USD"
            )
            body = {
                "deliveryId": "of a refund",
                "type": "InvoiceRefund",
                "storeId": STORE,
                "invoiceId": name,
                "pullPaymentId": made.id,
                "metadata": {"orderId": str(invoice.id)},
            }
            told[user].append(partial(hint, shop, json.dumps(body).encode()))
    for tell in told[TIMELY]:
        await tell()
    later = [tell for user in LATE for tell in told[user] for _ in range(chance.choice([1, 1, 2]))]
    later += [partial(hint, shop, body) for body in shop.bodies]
    chance.shuffle(later)
    shop.clock.move(hours=40)  # so that the oldest are almost seven days late
    for tell in later:
        await tell()
    first, *others = await ends(shop)
    assert [row[0] for row in first["rows"]] == ["guardian", "guardian", "sanctuary"]
    assert [row[5] for row in first["rows"]] == [180, 220, 50]
    assert dict(first["sums"])["refunded"] == Decimal("-3.50")
    for other in others:
        assert other == first
