"""Webhooks in any order, number and selection end in the same rows (R12)."""

import asyncio
from decimal import Decimal
from random import Random
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.services.conftest import Shop, everything

USERS = [UserId(UUID(int=number)) for number in range(1, 7)]


async def story(shop: Shop) -> None:
    """One payment of every kind; nothing settles before its end."""
    opened: list[Invoice] = []
    for user in USERS:
        invoice, _ = await shop.front.open(user, "wanderer")
        opened.append(invoice)
    ids = [shop.btcpay_id(invoice) for invoice in opened]
    act = shop.simulator.act
    await act(ids[0], "pay")
    await act(ids[0], "confirm")
    await act(ids[1], "pay_partial", None, "BTC-LN")
    await act(ids[2], "pay_over", None, "BTC-LN")
    await act(ids[3], "mark_settled")
    await act(ids[3], "mark_invalid")
    await act(ids[4], "pay")
    await act(ids[4], "replace_payment")
    shop.clock.move(minutes=16)
    await act(ids[5], "pay_late", None, "BTC-LN")
    await shop.simulator.drained()


@pytest.mark.parametrize("seed", range(6))
async def test_shuffled_repeated_and_lost_webhooks_end_in_the_same_rows(shop: Shop, seed: int) -> None:
    """One delivery per invoice is enough; which one, how often and when does not matter."""
    chance = Random(seed)
    credit = seed % 2 == 1
    await shop.start(credit=credit)
    await story(shop)
    assert len(shop.bodies) > 3 * len(USERS)
    await shop.front.execute("DELETE FROM webhook_deliveries")
    told = [body for body in shop.bodies for _ in range(chance.randrange(3))]
    told += [
        next(body for body in shop.bodies if i.id.encode() in body) for i in shop.simulator.invoices.values()
    ]
    chance.shuffle(told)
    for body in told:
        await shop.front.inbox.record(shop.delivery(body, str(uuid4())))
        if chance.random() < 0.3:
            await shop.front.settle()
    await shop.front.settle()
    after = await everything(shop.front)
    statuses = {row[1]: (row[3], row[4], row[5]) for row in after["btcpay_invoices"]}
    assert [statuses[user] for user in USERS] == [
        ("settled", "none", "fulfilled"),
        ("expired", "partial", "none"),
        ("settled", "over", "fulfilled"),
        ("invalid", "marked", "none"),
        ("expired", "none", "none"),
        ("expired", "late", "fulfilled"),
    ]
    assert [(row[1], row[4]) for row in sorted(after["subscriptions"], key=lambda row: row[1])] == [
        (USERS[0], "active"),
        (USERS[2], "active"),
        (USERS[5], "active"),
    ]
    cases = {row[1] for row in after["attention_cases"] if row[3]}
    assert cases == (set() if credit else {"partial_payment", "overpaid"})
    assert {(row[0], row[1], row[3]) for row in after["ledger"]} == {
        (USERS[0], "received", 5),
        (USERS[0], "sold", -5),
        (USERS[1], "received", Decimal("2.50")),
        (USERS[2], "received", Decimal("7.50")),
        (USERS[2], "sold", -5),
        (USERS[5], "received", 5),
        (USERS[5], "sold", -5),
    }
    events = await shop.front.rows("SELECT id, type FROM events ORDER BY id")
    shop.front.changes.clear()
    for body in shop.bodies:
        await shop.front.inbox.record(shop.delivery(body, str(uuid4())))
    await shop.front.settle()
    assert await everything(shop.front) == after
    assert await shop.front.rows("SELECT id, type FROM events ORDER BY id") == events


@pytest.mark.parametrize(
    "faults", [{"duplicate": True}, {"reorder": True}, {"duplicate": True, "reorder": True}]
)
async def test_duplicated_and_reordered_deliveries_cause_each_event_once(
    shop: Shop, user: UserId, faults: dict[str, bool]
) -> None:
    shop.simulator.set_faults(webhooks=faults)
    invoice = await shop.open(user)
    await shop.simulator.act(shop.btcpay_id(invoice), "pay")
    await shop.simulator.act(shop.btcpay_id(invoice), "confirm")
    await shop.told()
    assert await shop.front.events(user) == ["invoice.created", "invoice.settled", "subscription.activated"]


async def test_observation_that_was_fetched_earlier_and_arrives_later_changes_nothing(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay")
    stale = (await shop.front.settlement.look_up([invoice])).observations
    await shop.act(invoice, "confirm")
    before = await everything(shop.front)
    await shop.front.settlement.settle(stale)
    assert await everything(shop.front) == before


async def test_two_daemons_settling_the_same_invoices_fulfil_each_once(shop: Shop) -> None:
    one, two = shop.front, await shop.start()
    opened = [await shop.open(user) for user in USERS]
    for invoice in opened:
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.simulator.drained()
    seen = [(await daemon.settlement.look_up(opened)).observations for daemon in (one, two)]
    await asyncio.gather(
        one.settle(), two.settle(), one.settlement.settle(seen[0]), two.settlement.settle(seen[1])
    )
    for user in USERS:
        assert await one.events(user) == ["invoice.created", "invoice.settled", "subscription.activated"]
        assert await one.statuses(user) == ["active"]
