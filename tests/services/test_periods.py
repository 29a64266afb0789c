"""Dates and quotas of renewals, changes and holds (R2-R5), and what is prepaid at most (R11)."""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.plans import Catalogue, Plan, PlanType, Price
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid
from tests.services.conftest import PUBLIC, STEPS, Shop, carried
from tests.support.quotes import WANDERER, quoting

DAY = timedelta(days=1)
MONTH = 30 * DAY
BOUGHT = ["invoice.created", "invoice.settled", "subscription.activated"]
RENEWED = ["invoice.created", "invoice.settled", "subscription.renewed"]
CHANGED = ["invoice.created", "invoice.settled", "subscription.changed"]


_TOGETHER = quoting(
    WANDERER,
    """
INSERT INTO subscriptions (id, user_id, quote_id, source, status, valid_from, valid_until, messages_limit,
    carried_rule, carried_time, carried_messages)
SELECT gen_random_uuid(), gen_random_uuid(), :quote, 'grant', 'active', $1::timestamptz - interval '28 days',
    $1::timestamptz + interval '2 days' - n * interval '60 milliseconds', 50, 'fresh', '0', 0
FROM generate_series(1, 1000) AS n
""",
)


async def use(shop: Shop, user: UserId, messages: int) -> None:
    await shop.front.execute(
        "UPDATE subscriptions SET messages_used = messages_used + $2"
        " WHERE user_id = $1 AND status = 'active'",
        user,
        messages,
    )


async def end(shop: Shop, user: UserId) -> datetime:
    until: datetime = (await shop.front.subscriptions(user))[-1]["valid_until"]
    return until


async def test_renewal_adds_what_is_left(shop: Shop, user: UserId) -> None:
    start = shop.clock()
    await shop.buy(user)
    await use(shop, user, 30)
    shop.clock.move(days=12)
    await shop.buy(user)
    assert await shop.front.events(user) == BOUGHT + RENEWED
    old, new = await shop.front.subscriptions(user)
    assert (old["status"], old["ended_at"], old["messages_used"]) == ("replaced", start + 12 * DAY, 30)
    assert (new["status"], new["messages_used"], new["messages_limit"]) == ("active", 0, 70)
    assert (new["valid_from"], new["valid_until"]) == (start + 12 * DAY, start + 2 * MONTH)
    assert carried([old, new]) == [("fresh", timedelta(0), 0), ("added", 18 * DAY, 20)]


async def test_upgrade_converts_what_is_left(shop: Shop, user: UserId) -> None:
    start = shop.clock()
    await shop.buy(user, "wanderer")
    await use(shop, user, 10)
    shop.clock.move(days=15)
    await shop.buy(user, "guardian")
    assert await shop.front.events(user) == BOUGHT + CHANGED
    _, new = await shop.front.subscriptions(user)
    # Half the time and four fifths of the messages are left: half of 5.00 USD, 5/24 of 12.00 USD.
    assert new["valid_until"] == start + 15 * DAY + MONTH + 6.25 * DAY
    assert new["messages_limit"] == 500 + 104


async def test_drained_plan_is_worth_nothing(shop: Shop, user: UserId) -> None:
    await shop.buy(user, "wanderer")
    await use(shop, user, 60)
    await shop.buy(user, "sanctuary")
    _, new = await shop.front.subscriptions(user)
    assert new["valid_until"] == shop.clock() + MONTH
    assert new["messages_limit"] is None


async def test_stacked_purchases_count_each_in_full(shop: Shop, user: UserId) -> None:
    start = shop.clock()
    for _ in range(2):
        await shop.buy(user, "sanctuary")
    assert await end(shop, user) == start + 2 * MONTH
    await shop.buy(user, "guardian")
    (*_, new) = await shop.front.subscriptions(user)
    share = 100 / 12
    assert new["valid_until"] == start + MONTH + share * MONTH
    assert new["messages_limit"] == 500 + int(share * 500)
    assert await shop.front.statuses(user) == ["replaced"] * 2 + ["active"]


async def test_two_invoices_settled_in_one_batch_are_stacked(shop: Shop, user: UserId) -> None:
    first = await shop.open(user)
    shop.clock.move(seconds=1)
    second = await shop.open(user, "guardian")
    start = shop.clock()
    for invoice in (first, second):
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.told()
    assert await shop.front.statuses(user) == ["replaced", "active"]
    assert await end(shop, user) == start + MONTH + MONTH * 5 / 12
    assert sorted((await shop.front.events(user))[2:]) == sorted(BOUGHT[1:] + CHANGED[1:])


async def hours_left(shop: Shop, user: UserId) -> list[int]:
    """What the reminders of a user said."""
    rows = await shop.front.rows(
        "SELECT data->>'hours_left' AS hours FROM events"
        " WHERE user_id = $1 AND type = 'subscription.expiring' ORDER BY id",
        user,
    )
    return [int(row["hours"]) for row in rows]


async def test_subscription_expires_at_its_end_after_one_reminder_per_step(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    until = await end(shop, user)
    for place, step in enumerate(STEPS):
        assert await shop.front.expiry.next_due() == until - timedelta(hours=step)
        shop.clock.now = until - timedelta(hours=step, seconds=1)
        await shop.wait(seconds=0)
        assert await hours_left(shop, user) == list(STEPS[:place])
        await shop.wait(seconds=1)
        assert await hours_left(shop, user) == list(STEPS[: place + 1])
    (said,) = {
        row["url"]
        for row in await shop.front.rows(
            "SELECT data->>'renew_url' AS url FROM events WHERE type = 'subscription.expiring'"
        )
    }
    assert said.startswith(f"{PUBLIC}/r/")
    assert await shop.front.expiry.next_due() == until
    await shop.wait(hours=23, minutes=59, seconds=59)
    assert await shop.front.statuses(user) == ["active"]
    await shop.wait(seconds=1)
    assert await shop.front.events(user) == [*BOUGHT, *["subscription.expiring"] * 3, "subscription.expired"]
    (row,) = await shop.front.subscriptions(user)
    assert (row["status"], row["ended_at"]) == ("expired", until)
    assert await shop.front.expiry.next_due() is None
    assert await shop.front.expire() == 0


async def test_steps_missed_in_an_outage_become_one_reminder_that_is_true(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    shop.clock.now = await end(shop, user) - timedelta(hours=30)
    await shop.wait(seconds=0)
    assert await hours_left(shop, user) == [30], "one instead of those at 168 and 72 hours"
    await shop.wait(hours=6)
    assert await hours_left(shop, user) == [30, 24]
    await shop.wait(hours=24)
    assert await shop.front.statuses(user) == ["expired"]


async def test_nobody_is_reminded_of_an_end_that_was_near_at_the_purchase(shop: Shop, user: UserId) -> None:
    short = Plan(
        plan_type=PlanType("wanderer"),
        price=Price(Decimal(1), "USD"),
        period=timedelta(hours=25),
        quota=5,
        scope=Scope.ANY_NODE,
    )
    await shop.start(catalogue=Catalogue((short,)))
    await shop.buy(user)
    await shop.front.expire()
    assert await hours_left(shop, user) == []
    await shop.wait(hours=1)
    assert await hours_left(shop, user) == [24]


async def test_a_thousand_that_end_within_a_minute_are_each_reminded_once(shop: Shop) -> None:
    await shop.front.execute(_TOGETHER, shop.clock())
    first, second = shop.front, await shop.start()
    shop.clock.move(hours=24)
    await asyncio.gather(first.expire(), second.expire(), first.expire())
    (told,) = await second.rows("SELECT count(*), count(DISTINCT user_id) AS users FROM events")
    assert tuple(told) == (1000, 1000)


async def test_purchase_after_a_missed_expiry_starts_afresh(shop: Shop, user: UserId) -> None:
    """The timer was late: nobody ended the first one before the second was paid."""
    await shop.buy(user)
    until = await end(shop, user)
    shop.clock.move(days=40)
    await shop.buy(user)
    # The end that was due is told with the purchase that found it.
    assert await shop.front.events(user) == [
        *BOUGHT,
        *("invoice.created", "invoice.settled", "subscription.expired", "subscription.activated"),
    ]
    old, new = await shop.front.subscriptions(user)
    assert (old["status"], old["ended_at"]) == ("expired", until)
    assert (new["valid_from"], new["valid_until"]) == (shop.clock(), shop.clock() + MONTH)


async def held(shop: Shop, user: UserId) -> datetime:
    """Let a subscription reach its end while a purchase is confirming; returns that end."""
    await shop.buy(user)
    until = await end(shop, user)
    shop.clock.now = until - timedelta(minutes=10)
    invoice = await shop.open(user)
    await shop.act(invoice, "pay")
    await shop.wait(minutes=11)
    return until


async def test_confirming_purchase_keeps_the_old_rights(shop: Shop, user: UserId) -> None:
    until = await held(shop, user)
    (row,) = await shop.front.subscriptions(user)
    assert (row["status"], row["grace_until"], row["ended_at"]) == ("grace", until + DAY, None)
    assert (await shop.front.events(user))[-1] != "subscription.expired"
    (invoice,) = [i for i in shop.simulator.invoices.values() if i.status == "Processing"]
    await shop.simulator.act(invoice.id, "confirm")
    await shop.told()
    old, new = await shop.front.subscriptions(user)
    assert (old["status"], new["status"]) == ("replaced", "active")
    assert (new["valid_from"], new["valid_until"]) == (shop.clock(), shop.clock() + MONTH)
    assert carried([new]) == [("fresh", timedelta(0), 0)]


async def test_hold_ends_when_the_payment_falls_away(shop: Shop, user: UserId) -> None:
    await held(shop, user)
    (invoice,) = [i for i in shop.simulator.invoices.values() if i.status == "Processing"]
    await shop.simulator.act(invoice.id, "mark_invalid")
    await shop.told()
    (row,) = await shop.front.subscriptions(user)
    assert (row["status"], row["ended_at"], row["grace_until"]) == ("expired", shop.clock(), None)
    assert (await shop.front.events(user))[-2:] == ["invoice.invalid", "subscription.expired"]


async def test_hold_ends_after_24_hours(shop: Shop, user: UserId) -> None:
    until = await held(shop, user)
    assert await shop.front.expiry.next_due() == until + DAY
    shop.clock.now = until + DAY - timedelta(seconds=1)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["grace"]
    shop.clock.now = until + DAY
    await shop.front.expire()
    (row,) = await shop.front.subscriptions(user)
    assert (row["status"], row["ended_at"]) == ("expired", until + DAY)
    assert (await shop.front.events(user)).count("subscription.expired") == 1


async def test_nothing_is_sold_beyond_400_days(shop: Shop, user: UserId) -> None:
    for _ in range(13):
        await shop.buy(user)
    known = len(shop.simulator.invoices)
    with pytest.raises(Conflict) as refused:
        await shop.front.open(user, "wanderer")
    assert refused.value.code == "prepaid_cap"
    assert len(shop.simulator.invoices) == known, "refused before BTCPay was asked"
    assert len(await shop.front.rows("SELECT FROM btcpay_invoices")) == 13


async def test_confirming_purchases_count_towards_the_cap(shop: Shop, user: UserId) -> None:
    for _ in range(12):
        await shop.buy(user)
    await shop.act(await shop.open(user), "pay")
    with pytest.raises(Conflict):
        await shop.front.open(user, "wanderer")


async def test_revoked_purchase_does_not_hide_the_one_that_holds_from_the_cap(
    shop: Shop, user: UserId
) -> None:
    for _ in range(10):
        await shop.buy(user, "sanctuary")
    await shop.act(await shop.open(user, "sanctuary"), "mark_settled", "mark_invalid")
    assert (await shop.front.statuses(user))[-2:] == ["active", "revoked"]
    with pytest.raises(Conflict):  # 500.00 USD are worth 3000 days of the cheapest plan
        await shop.front.open(user, "wanderer")


async def test_plan_that_is_not_for_sale_is_refused_before_anything_is_written(
    shop: Shop, user: UserId
) -> None:
    with pytest.raises(Invalid) as refused:
        await shop.front.open(user, "free")
    assert (refused.value.field, refused.value.code) == ("plan_type", "unknown_plan")
    assert await shop.front.rows("SELECT FROM btcpay_invoices") == []
