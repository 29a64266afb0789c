"""Plans renewed from credit, as their users chose (R15): once, at the price of the moment, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.auto_renewal import Obstacle
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from tests.demo.btcpay.conftest import HandClock
from tests.domain.builders import EXTRA, WITH_PACK, plan
from tests.services.conftest import Daemon, Shop, carried
from tests.services.test_credit import credit
from tests.services.test_decisions import operations
from tests.services.test_periods import BOUGHT, DAY, MONTH, end, use

MICROSECOND = timedelta(microseconds=1)
FROM_CREDIT = ["invoice.created", "invoice.settled", "subscription.renewed", "credit.spent"]


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    """A shop that gives credit."""
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(credit=True)
        yield opened


async def give(shop: Shop, user: UserId, amount: str) -> None:
    """Credit, as an operator books it."""
    await shop.front.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " VALUES ($3, $1, 'granted', $2, 'USD', 'operator', 'a gift')",
        user,
        Decimal(amount),
        shop.clock(),
    )


async def chosen(shop: Shop, user: UserId, amount: str = "5.00", plan_type: str = "wanderer") -> None:
    """Let a user buy a plan, have credit, and choose renewal."""
    await shop.buy(user, plan_type)
    await give(shop, user, amount)
    await shop.front.renewals.choose(user, auto=True)


async def since_bought(shop: Shop, user: UserId) -> list[str]:
    return (await shop.front.events(user))[len(BOUGHT) :]


async def test_credit_renews_at_the_end_without_a_gap_and_says_so_once_before(
    shop: Shop, user: UserId
) -> None:
    await chosen(shop, user)
    await use(shop, user, 20)
    until = await end(shop, user)
    shop.clock.now = until - timedelta(hours=168)
    for _ in range(7):
        await shop.front.expire()
        shop.clock.move(days=1)
    shop.clock.now = until - MICROSECOND
    await shop.front.expire()
    assert await since_bought(shop, user) == ["subscription.renewing"]
    ((said,),) = await shop.front.rows(
        "SELECT concat(data->>'hours_left', ' ', data->>'amount') FROM events"
        " WHERE type = 'subscription.renewing'"
    )
    assert said == "168 5.00"
    assert await shop.front.expiry.next_due() == until
    shop.clock.now = until + timedelta(seconds=2)
    await asyncio.gather(shop.front.expire(), (await shop.start(credit=True)).expire())
    assert await since_bought(shop, user) == ["subscription.renewing", *FROM_CREDIT]
    old, new = await shop.front.subscriptions(user)
    assert (old["status"], new["status"], new["source"]) == ("replaced", "active", "credit")
    assert (new["valid_until"], new["messages_limit"]) == (until + MONTH, 80)
    assert carried([new]) == [("added", MICROSECOND, 30)]
    assert await credit(shop, user) == {}
    shop.clock.now = until + MONTH
    await shop.front.expire()
    assert (await since_bought(shop, user))[-1] == "subscription.expired"
    assert await shop.front.rows("SELECT FROM lapses") == []


async def test_without_enough_credit_the_user_is_reminded_and_the_plan_ends(shop: Shop, user: UserId) -> None:
    await chosen(shop, user, "4.99")
    until = await end(shop, user)
    for hours in (168, 72):
        shop.clock.now = until - timedelta(hours=hours)
        await shop.front.expire()
    await give(shop, user, "0.01")
    shop.clock.now = until - timedelta(hours=24)
    await shop.front.expire()
    assert (await shop.front.renewals.show(user)).obstacle is None
    await shop.open(user, "guardian")  # for which the credit is kept now
    assert (await shop.front.renewals.show(user)).obstacle is Obstacle.CREDIT_TOO_LOW
    shop.clock.now = until
    await shop.front.expire()
    told = [name for name in await since_bought(shop, user) if not name.startswith("invoice.")]
    assert told == [
        "subscription.expiring",
        "subscription.expiring",
        "subscription.renewing",
        "subscription.expired",
    ]


async def test_who_switched_it_off_or_never_on_is_not_renewed(shop: Shop, user: UserId) -> None:
    await chosen(shop, user)
    await shop.front.renewals.choose(user, auto=False)
    assert not (await shop.front.renewals.show(user)).auto
    shop.clock.now = await end(shop, user)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["expired"]
    await shop.front.renewals.choose(user, auto=True)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["expired"], "it ended before"
    assert (await shop.front.renewals.show(user)).obstacle is Obstacle.NO_PLAN
    assert await credit(shop, user) == {"USD": Decimal("5.00")}


DEARER = Catalogue((plan("wanderer", "5.01", 50), *BUILT_IN.plans[1:]))
CHEAPER = Catalogue((plan("wanderer", "4.00", 40), *BUILT_IN.plans[1:]))
IN_EURO = Catalogue((plan("wanderer", "5.00", 50, currency="EUR"),))


@pytest.mark.parametrize(
    ("catalogue", "why", "left"),
    [
        (CHEAPER, None, "1.00"),
        (DEARER, Obstacle.CREDIT_TOO_LOW, "5.00"),
        (IN_EURO, Obstacle.CREDIT_TOO_LOW, "5.00"),
        (Catalogue(BUILT_IN.plans[1:]), Obstacle.NOT_FOR_SALE, "5.00"),
    ],
    ids=["cheaper", "dearer", "in another currency", "withdrawn"],
)
async def test_a_renewal_costs_what_the_plan_costs_then(
    shop: Shop, user: UserId, catalogue: Catalogue, why: Obstacle | None, left: str
) -> None:
    await chosen(shop, user)
    front = await shop.start(credit=True, catalogue=catalogue)
    assert (await front.renewals.show(user)).obstacle is why
    shop.clock.now = await end(shop, user)
    await front.expire()
    assert await credit(shop, user) == {"USD": Decimal(left)}
    assert await front.statuses(user) == (["replaced", "active"] if why is None else ["expired"])


async def test_a_long_outage_costs_the_user_no_time(shop: Shop, user: UserId) -> None:
    await chosen(shop, user)
    shop.clock.now = await end(shop, user) + 2 * DAY
    await shop.front.expire()
    old, new = await shop.front.subscriptions(user)
    assert (old["status"], new["status"]) == ("expired", "active")
    assert (new["valid_from"], new["valid_until"]) == (shop.clock(), shop.clock() + MONTH)


async def test_who_else_finds_the_end_first_does_not_cost_the_renewal(shop: Shop, user: UserId) -> None:
    await shop.start(credit=True, catalogue=WITH_PACK)
    await shop.buy(user)
    await use(shop, user, 20)
    until = await end(shop, user)
    shop.clock.now = until - timedelta(minutes=5)
    pack = (await shop.front.invoicing.open(user, EXTRA, None)).invoice
    await give(shop, user, "5.00")
    await shop.front.renewals.choose(user, auto=True)
    shop.clock.now = until + timedelta(seconds=1)
    await shop.lightning(pack)
    assert await shop.front.statuses(user) == ["expired"], "as the settlement of the pack found"
    assert await shop.front.expiry.next_due() == until
    await shop.front.expire()
    old, new = await shop.front.subscriptions(user)
    assert (old["status"], new["status"]) == ("replaced", "active")
    assert (new["valid_until"], new["messages_limit"]) == (until + MONTH, 80)
    assert await credit(shop, user) == {"USD": Decimal("4.00")}
    assert await shop.front.rows("SELECT FROM lapses") == []


async def test_a_purchase_that_is_confirming_goes_first_and_credit_renews_when_it_falls_away(
    shop: Shop, user: UserId
) -> None:
    await chosen(shop, user)
    until = await end(shop, user)
    shop.clock.now = until - timedelta(minutes=10)
    invoice = await shop.open(user, "guardian")
    await shop.act(invoice, "pay")
    await shop.wait(minutes=11)
    assert await shop.front.statuses(user) == ["grace"]
    assert await credit(shop, user) == {"USD": Decimal("5.00")}
    await shop.act(invoice, "mark_invalid")
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["replaced", "active"]
    assert await end(shop, user) == until + MONTH


async def test_a_payment_that_arrives_at_the_end_takes_over_the_renewal_or_comes_before_it(
    shop: Shop, user: UserId
) -> None:
    await chosen(shop, user, "0.01")
    until = await end(shop, user)
    shop.clock.now = until - timedelta(minutes=5)
    invoice = await shop.open(user, "sanctuary")
    await give(shop, user, "5.00")
    shop.clock.now = until
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    await shop.simulator.drained()
    await asyncio.gather(shop.front.settle(), shop.front.expire())
    await shop.front.settle()
    await shop.front.expire()
    rows = await shop.front.subscriptions(user)
    assert (rows[-1]["plan_type"], rows[-1]["status"]) == ("sanctuary", "active")
    renewed = any(row["source"] == "credit" for row in rows)
    assert rows[-1]["carried_time"] == (3 * DAY if renewed else timedelta(0))
    assert await credit(shop, user) == ({} if renewed else {"USD": Decimal("5.00")})


async def test_what_an_operator_ended_is_not_renewed(shop: Shop, user: UserId) -> None:
    await chosen(shop, user, "20.00")
    by = OperatorAction("eva", "ticket 7")
    await operations(shop.front, shop).cash(user, by)
    await shop.front.expire()
    assert await shop.front.statuses(user) == ["expired"]
    other = UserId(uuid4())
    await chosen(shop, other, "20.00")
    await operations(shop.front, shop).revoke(other, None, by)
    shop.clock.move(days=31)
    await shop.front.expire()
    assert await shop.front.statuses(other) == ["revoked"]


async def test_without_credit_nobody_can_choose_it(
    simulator: Simulator, clock: HandClock, database_url: str, user: UserId
) -> None:
    async with Shop(simulator, clock, database_url) as shop:
        front: Daemon = await shop.start(credit=False)
        with pytest.raises(Conflict) as refused:
            await front.renewals.choose(user, auto=True)
        assert refused.value.code == "credit_off"
        assert not (await front.renewals.choose(user, auto=False)).auto
        assert (await front.renewals.show(user)).obstacle is Obstacle.CREDIT_OFF
