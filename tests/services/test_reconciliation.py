"""What no webhook told is found by polling: on a schedule, at start, in few calls."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.services.reconciliation import MOST_AT_ONCE
from tests.services.conftest import Shop, until
from tests.services.relay import relay

CREATED, SETTLED, ACTIVATED = "invoice.created", "invoice.settled", "subscription.activated"


@pytest.fixture
def deaf(shop: Shop) -> Shop:
    """A shop that no webhook reaches."""
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    return shop


async def test_payment_is_found_without_any_webhook(deaf: Shop, user: UserId) -> None:
    invoice = await deaf.open(user)
    await deaf.lightning(invoice)
    assert await deaf.front.subscriptions(user) == []
    await deaf.wait(seconds=14)
    assert await deaf.front.subscriptions(user) == []
    await deaf.wait(seconds=1)
    assert await deaf.front.events(user) == [CREATED, SETTLED, ACTIVATED]
    assert await deaf.front.reconciliation.next_due() is None


async def test_expiry_is_looked_at_a_little_after_it_happened(deaf: Shop, user: UserId) -> None:
    invoice = await deaf.open(user)
    assert invoice.expires_at is not None
    while (due := await deaf.front.reconciliation.next_due()) is not None and due < invoice.expires_at:
        deaf.clock.now = due
        await deaf.front.settle()
    assert due is not None
    assert due - invoice.expires_at == timedelta(seconds=3)
    deaf.clock.now = due
    await deaf.front.settle()
    assert await deaf.front.events(user) == [CREATED, "invoice.expired"]


async def test_waits_grow_with_age_and_end_72_hours_after_expiry(deaf: Shop, user: UserId) -> None:
    invoice = await deaf.open(user)
    assert invoice.expires_at is not None
    waits = []
    while (due := await deaf.front.reconciliation.next_due()) is not None:
        waits.append(due - deaf.clock())
        deaf.clock.now = due
        assert await deaf.front.settle() == 1
    assert waits[0] == timedelta(seconds=15)
    assert max(waits) == timedelta(minutes=30)
    assert timedelta(0) <= deaf.clock() - invoice.expires_at - timedelta(hours=72) <= timedelta(seconds=5)
    assert len(waits) < 250


async def test_everything_open_is_looked_at_after_a_start(deaf: Shop, user: UserId) -> None:
    invoice = await deaf.open(user)
    await deaf.wait(hours=50)
    await deaf.simulator.act(deaf.btcpay_id(invoice), "pay_late", None, "BTC-LN")
    restarted = await deaf.start()
    assert await restarted.settle() == 0
    await restarted.reconciliation.begin()
    assert await restarted.settle() == 1
    assert (await restarted.events(user))[-1] == ACTIVATED


async def test_one_list_call_looks_at_a_whole_batch(deaf: Shop) -> None:
    async with relay(deaf.simulator.url) as passing:
        daemon = await deaf.start(btcpay_url=passing.url)
        users = [UserId(uuid4()) for _ in range(12)]
        for user in users:
            await deaf.open(user)
        deaf.clock.move(seconds=15)
        passing.asked.clear()
        assert await daemon.settle() == len(users)
        assert passing.asked == [("GET", "/api/v1/stores/StoreOne/invoices")]


async def test_one_list_call_settles_a_whole_batch_of_webhooks(shop: Shop) -> None:
    async with relay(shop.simulator.url) as passing:
        daemon = await shop.start(btcpay_url=passing.url)
        users = [UserId(uuid4()) for _ in range(12)]
        opened = [await shop.open(user) for user in users]
        passing.asked.clear()
        for invoice in opened:
            await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
        await shop.simulator.drained()
        hints = await shop.front.rows("SELECT FROM lookups WHERE hinted_at IS NOT NULL")
        assert len(users) <= len(hints) <= MOST_AT_ONCE
        assert await daemon.settle() == len(hints)
        assert passing.asked == [("GET", "/api/v1/stores/StoreOne/invoices")]
        for user in users:
            assert await daemon.events(user) == [CREATED, SETTLED, ACTIVATED]


async def test_rounds_at_the_same_time_take_different_invoices_and_lose_no_hint(shop: Shop) -> None:
    """What BTCPay says later of an invoice that is being looked up is found when that lookup is over."""
    async with relay(shop.simulator.url) as passing:
        daemon = await shop.start(btcpay_url=passing.url)
        users = [UserId(uuid4()) for _ in range(2)]
        slow, quick = [await shop.open(user) for user in users]
        over: list[None] = []
        daemon.reconciliation.more = lambda: over.append(None)
        passing.asked.clear()

        async def begin(rounds: int) -> "asyncio.Task[int]":
            await shop.simulator.drained()
            task = asyncio.create_task(daemon.reconciliation.run_once())
            await until(lambda: _is_true(passing.lists == rounds or task.done()), "it asks BTCPay")
            return task

        passing.passes.clear()
        hint = f'{{"type": "InvoiceCreated", "metadata": {{"orderId": "{slow.id}"}}}}'
        await daemon.inbox.record(shop.delivery(hint.encode()))
        first = await begin(1)
        shop.clock.move(seconds=1)
        await shop.simulator.act(shop.btcpay_id(slow), "pay", None, "BTC-LN")
        await shop.simulator.act(shop.btcpay_id(quick), "pay", None, "BTC-LN")
        second = await begin(2)
        assert await begin(3) is not second
        assert passing.lists == 2, "nothing is left that nobody asks for"
        passing.passes.set()
        assert await first > 0
        assert await second > 0
        assert await daemon.statuses(users[1]) == ["active"]
        assert await daemon.statuses(users[0]) == []
        assert over == [None], "when both are over, the later payment is looked for"
        await daemon.settle()
        assert await daemon.events(users[0]) == [CREATED, SETTLED, ACTIVATED]


async def _is_true(fact: bool) -> bool:
    return fact


async def test_outage_keeps_what_waits(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.simulator.drained()
    for fault in ({"down": True}, {"error_rate": 1.0}, {"garbage": True}, {"unauthorized": True}):
        shop.simulator.set_faults(**fault)
        with pytest.raises(Unavailable):
            await shop.front.settle()
        shop.clock.move(minutes=1)
        with pytest.raises(Unavailable):
            await shop.front.settle()
        shop.simulator.set_faults(down=False, error_rate=0, garbage=False, unauthorized=False)
    assert await shop.front.subscriptions(user) == []
    await shop.front.settle()
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]


async def test_a_failover_that_lost_numbers_of_lookups_hides_no_payment(shop: Shop, user: UserId) -> None:
    """The number of a lookup was drawn on the server that went, and its answer written on the new one."""
    invoice = await shop.open(user)
    await shop.front.execute("UPDATE btcpay_invoices SET observation = 5000 WHERE id = $1", invoice.id)
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.simulator.drained()
    for number in (0, 1):  # looked up by a number below that, and again
        assert await shop.front.reconciliation.run_once() > 0
        assert len(await shop.front.subscriptions(user)) == number


async def test_refused_list_is_an_outage_and_no_end(shop: Shop, user: UserId) -> None:
    async with relay(shop.simulator.url) as passing:
        daemon = await shop.start(btcpay_url=passing.url)
        invoice = await shop.open(user)
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
        await shop.simulator.drained()
        passing.refuse = lambda method, _: method == "GET"
        with pytest.raises(Unavailable):
            await daemon.settle()
        passing.refuse = None
        await daemon.settle()
        assert await daemon.statuses(user) == ["active"]


async def test_invoice_that_btcpay_forgot_is_asked_for_ever_more_seldom(deaf: Shop, user: UserId) -> None:
    invoice = await deaf.open(user)
    kept = deaf.at_btcpay(invoice)
    kept.store_id = "elsewhere"
    await deaf.wait(minutes=1)
    due = await deaf.front.reconciliation.next_due()
    assert due is not None
    assert due - deaf.clock() == timedelta(minutes=5)
    assert await deaf.front.events(user) == [CREATED]
