"""Messages that are reported after the rest of their subscription was taken over (R2)."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.reporters import ReporterActions
from kosmo_billing_daemon.contract.lease_payloads import HeldLease, LeaseAnswer, LeaseRequest
from kosmo_billing_daemon.domain.invoices import Effect
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.services.metering import Metering
from tests.domain.builders import plan
from tests.services.conftest import Shop, nothing_more, until
from tests.support.usage import messages, payload

DAY = timedelta(days=1)


async def report(
    shop: Shop, user: UserId, count: int, at_days_ago: float, *, lease: UUID | None = None
) -> None:
    """Count messages that a gateway sent while it was offline, on request under a lease."""
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    named = {} if lease is None else {"lease_id": str(lease)}
    sent = [one | named for one in messages(user, 0, count, shop.clock() - at_days_ago * DAY)]
    for at in range(0, count, 500):
        read = metering.read("gateway", payload(sent[at : at + 500], f"late {at} {uuid4()}"))
        (answer,) = await metering.count([read])  # type: ignore[list-item]  # it is readable
        assert answer is not None
        assert answer.accepted == len(sent[at : at + 500])


async def test_what_was_carried_over_is_corrected_when_messages_are_reported_late(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user, "guardian")
    shop.clock.move(days=1)
    await shop.buy(user, "sanctuary")
    _, before = await shop.front.subscriptions(user)
    assert before["carried_time"] > 6 * DAY
    shop.clock.move(days=1)
    await report(shop, user, 500, 1.5)
    assert await shop.front.recounting.run_once() == 1
    assert await shop.front.recounting.run_once() == 0
    _, after = await shop.front.subscriptions(user)
    assert after["valid_until"] == after["valid_from"] + 30 * DAY
    (event,) = (await shop.front.rows("SELECT data FROM events WHERE user_id = $1 ORDER BY id", user))[-1:]
    assert '"reason": "late_usage"' in event["data"]


async def test_what_is_voided_of_an_earlier_subscription_returns_to_those_that_took_over_its_rest(
    shop: Shop, user: UserId
) -> None:
    """Seen to fail where voiding left that to a loop which nothing woke."""
    await shop.buy(user)
    await shop.wait(days=1)
    await report(shop, user, 40, 0.5)
    await shop.buy(user)
    actions = ReporterActions(pool=shop.front.pool, clock=shop.clock)
    by = OperatorAction("eva", "the gateway was stolen")
    assert (await actions.void("gateway", shop.clock() - 30 * DAY, by)).messages == 40
    rows = await shop.front.subscriptions(user)
    assert [(row["messages_used"], row["messages_limit"]) for row in rows] == [(0, 50), (0, 100)]
    assert (await shop.front.events(user))[-1] == "subscription.changed"
    assert await shop.front.recounting.run_once() == 0


async def test_a_renewed_limit_shrinks_by_what_was_sent_before_the_renewal(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    shop.clock.move(days=1)
    await shop.buy(user)
    shop.clock.move(days=1)
    await report(shop, user, 40, 1.5)
    await shop.front.recounting.run_once()
    assert [row["messages_limit"] for row in await shop.front.subscriptions(user)] == [50, 60]


async def test_usage_in_time_queues_nobody(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    shop.clock.move(days=1)
    await report(shop, user, 10, 0.5)
    assert await shop.front.rows("SELECT * FROM recounts") == []


async def test_what_is_counted_while_a_correction_begins_is_corrected_too(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    shop.clock.move(days=1)
    await shop.buy(user)
    counted = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE status = 'replaced'"
    await shop.front.execute(counted)
    async with shop.front.pool.transaction() as connection:
        await connection.execute(counted)
        correcting = asyncio.create_task(shop.front.recounting.run_once())
        await until(lambda: is_waiting(shop), "the correction waits for the counter")
    await correcting
    await shop.front.recounting.run_once()
    assert [row["messages_limit"] for row in await shop.front.subscriptions(user)] == [50, 98]


async def is_waiting(shop: Shop) -> bool:
    return bool(await shop.front.rows("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


async def test_lots_keep_what_was_paid_for_them_through_the_database(shop: Shop, user: UserId) -> None:
    for _ in range(12):
        await shop.buy(user)
    wanderer = BUILT_IN.plans[0]
    dearer = plan("wanderer", "10.00", wanderer.quota)
    await shop.start(catalogue=Catalogue((dearer, *BUILT_IN.plans[1:])))
    await shop.buy(user)
    await shop.buy(user, "sanctuary")
    row = (await shop.front.subscriptions(user))[-1]
    assert row["valid_until"] - shop.clock() == 72 * DAY


async def test_an_old_invoice_paid_beyond_the_cap_has_no_effect_and_is_listed(
    shop: Shop, user: UserId
) -> None:
    old = await shop.open(user, "wanderer")
    for _ in range(13):
        await shop.buy(user, "sanctuary")
    before = await shop.front.subscriptions(user)
    await shop.lightning(old)
    assert await shop.front.subscriptions(user) == before
    assert await shop.front.cases(user) == [("not_fulfilled", Decimal("5.00"), True)]
    with pytest.raises(Conflict) as refused:
        await shop.front.settlement.settle_by_hand(old.id, "a slip", also=nothing_more)
    assert refused.value.code == "prepaid_cap"
    assert await shop.front.subscriptions(user) == before
    assert (await shop.front.invoicing.show(user, shop.btcpay_id(old))).effect is Effect.NONE


async def leased(shop: Shop, user: UserId, *held: HeldLease) -> LeaseAnswer:
    """Let a strict gate hand back what it holds beyond ``held``, or without any ask for messages."""
    want = 0 if held else 40
    request = LeaseRequest(request_id=uuid4().hex, user_id=user, want=want, leases=held)
    (answer,) = await Leasing(pool=shop.front.pool, clock=shop.clock).answer([("gateway", request)])
    assert answer is not None
    return answer


async def limit(shop: Shop, user: UserId) -> int | None:
    while await shop.front.recounting.run_once():
        pass
    found: int | None = (await shop.front.subscriptions(user))[-1]["messages_limit"]
    return found


async def test_what_a_strict_gate_holds_is_not_carried_over_until_it_is_handed_back(
    shop: Shop, user: UserId
) -> None:
    """Else a gate that is cut off and the renewed plan would give the same messages twice."""
    await shop.buy(user)
    lease = await leased(shop, user)
    assert lease.messages == 12
    await shop.wait(days=1)
    await shop.buy(user)
    assert await limit(shop, user) == 50 + 38
    await report(shop, user, 5, 0.5, lease=lease.lease_id)  # sent under the lease, before the renewal
    assert await limit(shop, user) == 50 + 38
    assert lease.lease_id is not None
    await leased(shop, user, HeldLease(lease.lease_id, 5))
    assert await limit(shop, user) == 50 + 45


async def test_the_lease_of_a_gate_that_is_gone_is_carried_over_once_an_operator_frees_it(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user)
    await leased(shop, user)
    await shop.wait(days=1)
    await shop.buy(user)
    assert await limit(shop, user) == 50 + 38
    actions = ReporterActions(pool=shop.front.pool, clock=shop.clock)
    await actions.free("gateway", None, OperatorAction("eva", "the gateway burned down"))
    assert await limit(shop, user) == 100
