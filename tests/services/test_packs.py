"""Packs: what a paid one does, what takes it back, and where its money goes if it fits nothing (R17)."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from tests.demo.btcpay.conftest import HandClock
from tests.domain.builders import EXTRA, WITH_PACK
from tests.services.conftest import Shop
from tests.services.test_credit import credit, credited
from tests.services.test_decisions import operations


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    """A shop that sells a pack and gives credit."""
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(credit=True, catalogue=WITH_PACK)
        yield opened


async def order(shop: Shop, user: UserId) -> Invoice:
    opened = await shop.front.invoicing.open(user, EXTRA, None)
    await shop.told()
    return opened.invoice


async def limits(shop: Shop, user: UserId) -> list[int]:
    return [row["messages_limit"] for row in await shop.front.subscriptions(user)]


async def use(shop: Shop, user: UserId, used: int) -> None:
    await shop.front.execute(
        "UPDATE subscriptions SET messages_used = $2 WHERE user_id = $1 AND status = 'active'", user, used
    )


async def test_a_pack_raises_the_limit_and_arms_the_thresholds_and_adds_no_time(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user)
    await use(shop, user, 50)
    (before,) = await shop.front.subscriptions(user)
    known = len(await shop.front.events(user))
    await shop.lightning(await order(shop, user))
    (after,) = await shop.front.subscriptions(user)
    assert (after["id"], after["valid_until"]) == (before["id"], before["valid_until"])
    assert (after["messages_limit"], after["messages_used"]) == (100, 50)
    assert (await shop.front.events(user))[known:] == [
        "invoice.created",
        "invoice.settled",
        "quota.topped_up",
    ]
    await use(shop, user, 80)
    assert (await shop.front.events(user))[known + 3 :] == ["quota.warning"]
    assert await credit(shop, user) == {}
    await shop.buy(user)
    assert await limits(shop, user) == [100, 70], "what is left of a pack is carried over"


async def test_a_pack_taken_back_at_btcpay_restores_the_limit_until_it_is_paid_after_all(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user)
    pack = await order(shop, user)
    await shop.act(pack, "mark_settled")
    assert await limits(shop, user) == [100]
    await shop.act(pack, "mark_invalid")
    assert await limits(shop, user) == [50]
    await shop.act(pack, "mark_settled")
    assert await limits(shop, user) == [100]
    rows = await shop.front.rows("SELECT revoked_at IS NULL AS stands FROM top_ups ORDER BY at, revoked_at")
    assert sorted(row["stands"] for row in rows) == [False, True]
    await shop.buy(user)
    await shop.act(pack, "mark_invalid")
    assert await limits(shop, user) == [50, 100], "also where a renewal had carried it over"
    assert await credit(shop, user) == {}


@pytest.mark.parametrize("gives_credit", [True, False])
async def test_a_pack_paid_when_its_plan_has_ended_is_credit_or_a_case(
    shop: Shop, user: UserId, *, gives_credit: bool
) -> None:
    await shop.start(credit=gives_credit, catalogue=WITH_PACK)
    await shop.buy(user)
    shop.clock.move(days=29, hours=23, minutes=55)
    pack = await order(shop, user)
    await shop.act(pack, "pay")
    await shop.wait(minutes=8)
    assert await shop.front.statuses(user) == ["grace"]
    await shop.act(pack, "confirm")
    await shop.wait(minutes=1)
    assert await limits(shop, user) == [50]
    assert await shop.front.statuses(user) == ["expired"]
    assert await credit(shop, user) == {"USD": Decimal("4.00")}
    cases = [] if gives_credit else [("not_fulfilled", Decimal("4.00"), True)]
    assert await shop.front.cases(user) == cases


async def test_a_pack_that_credit_pays_is_added_at_once_and_a_double_click_buys_once(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user)
    await credited(shop, user, "8.00")
    shop.simulator.set_faults(down=True)
    opened = await asyncio.gather(*(shop.front.invoicing.open(user, EXTRA, None) for _ in range(4)))
    opened.append(await shop.front.invoicing.open(user, EXTRA, None))
    assert len({one.invoice.id for one in opened}) == 1
    assert await limits(shop, user) == [100]
    assert await credit(shop, user) == {"USD": Decimal("4.00")}
    assert (await shop.front.events(user)).count("quota.topped_up") == 1
    shop.clock.move(minutes=2)
    await shop.front.invoicing.open(user, EXTRA, None)
    assert await limits(shop, user) == [150]


async def test_an_operator_takes_a_pack_back_and_no_mark_at_btcpay_gives_it_again(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user)
    pack = await order(shop, user)
    await shop.act(pack, "mark_settled")
    acting = operations(shop.front, shop)
    deed = OperatorAction("Ann", "bought twice")
    row = await acting.revoke_pack(user, str(pack.id), deed)
    assert (row.messages_limit, await limits(shop, user)) == (50, [50])
    with pytest.raises(Conflict):
        await acting.revoke_pack(user, str(pack.id), deed)
    await shop.act(pack, "mark_invalid", "mark_settled")
    assert await limits(shop, user) == [50]
    (audit,) = await shop.front.rows("SELECT action, subject FROM audit_log WHERE user_id = $1", user)
    assert tuple(audit) == ("user.revoke", f"pack {pack.id}")


async def test_the_database_refuses_a_second_top_up_of_an_invoice(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    await shop.lightning(await order(shop, user))
    with pytest.raises(Exception, match="top_ups_one_per_invoice"):
        await shop.front.execute("INSERT INTO top_ups SELECT invoice_id, subscription_id, at FROM top_ups")


async def test_a_pack_added_after_late_messages_had_ended_its_plan_is_credit(
    shop: Shop, user: UserId
) -> None:
    await shop.buy(user, "guardian")
    await shop.buy(user)
    shop.clock.move(days=31)  # which guardian's remainder had paid for, as far as anybody knew
    await shop.lightning(await order(shop, user))
    assert await credit(shop, user) == {}
    await shop.front.execute("UPDATE subscriptions SET messages_used = 500 WHERE status = 'replaced'")
    await shop.front.recounting.run_once()
    assert await shop.front.statuses(user) == ["replaced", "expired"]
    assert await credit(shop, user) == {"USD": EXTRA.price.amount}
