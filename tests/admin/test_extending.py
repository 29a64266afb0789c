"""Time given to everybody: once each, whoever is locked or comes and goes meanwhile."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.extending import Extending
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from tests.services.conftest import STEPS, Shop

BY = OperatorAction("margarete", "outage of May")
DAY = timedelta(days=1)


@pytest.fixture
def extending(shop: Shop) -> Extending:
    return Extending(pool=shop.front.pool, clock=shop.clock, remind_hours=STEPS)


async def ends(shop: Shop) -> dict[UserId, Any]:
    rows = await shop.front.rows("SELECT user_id, valid_until FROM subscriptions WHERE ended_at IS NULL")
    return {row["user_id"]: row["valid_until"] for row in rows}


async def test_everybody_with_a_plan_gets_the_days_once(shop: Shop, extending: Extending) -> None:
    lapsed, renewed, other, late = (UserId(uuid4()) for _ in range(4))
    await shop.buy(lapsed)
    await shop.wait(days=31)
    await shop.buy(renewed)
    await shop.buy(other, "guardian")
    before = await ends(shop)
    versions = await shop.front.rows("SELECT user_id, version FROM entitlements")
    preview = await extending.preview_all(3, BY.reason)
    assert [(plan.plan_type, plan.users) for plan in preview.plans] == [("guardian", 1), ("wanderer", 1)]
    assert [plan.first_end + preview.time for plan in preview.plans] == [
        before[other] + 3 * DAY,
        before[renewed] + 3 * DAY,
    ]
    told: list[int] = []
    assert (await extending.extend_all(3, BY, told.append)).users == 2
    assert told == [2]
    assert await ends(shop) == {user: end + 3 * DAY for user, end in before.items()}  # as previewed
    for user in (renewed, other):
        assert (await shop.front.events(user))[-1] == "subscription.changed"
        (row,) = await shop.front.rows("SELECT * FROM audit_log WHERE user_id = $1", user)
        assert (row["action"], row["who"], row["reason"]) == ("user.extend", "margarete", "outage of May")
    assert await shop.front.statuses(lapsed) == ["expired"]
    risen = {row["user_id"]: row["version"] for row in await shop.front.rows("SELECT * FROM entitlements")}
    assert {row["user_id"] for row in versions if risen[row["user_id"]] > row["version"]} == {renewed, other}
    # The same again, after one of them renewed and somebody else came: nobody more is meant.
    await shop.wait(minutes=1)
    await shop.buy(renewed)
    await shop.buy(late)
    again = await ends(shop)
    preview = await extending.preview_all(3, BY.reason)
    assert (preview.users, preview.begun is not None and preview.begun.users) == (0, 2)
    assert (await extending.extend_all(3, BY, told.append)).users == 0
    assert await ends(shop) == again
    # For another reason it is another outage.
    assert (await extending.preview_all(3, "outage of June")).lately[0].reason == "outage of May"
    assert (await extending.extend_all(3, OperatorAction("m", "outage of June"), told.append)).users == 3


async def test_user_who_is_locked_holds_up_nobody_and_is_extended_later(
    shop: Shop, extending: Extending
) -> None:
    users = [UserId(uuid4()) for _ in range(3)]
    for user in users:
        await shop.buy(user)
    before = await ends(shop)
    async with shop.front.pool.transaction() as connection:
        await connection.execute("UPDATE subscriptions SET reason = 'x' WHERE user_id = $1", users[1])
        done = await extending.extend_all(1, BY, lambda _: None)
        assert (done.users, list(done.failed)) == (2, [users[1]])
        assert "locked" in done.failed[users[1]]
    await shop.wait(minutes=1)
    await shop.buy(users[1])  # who renews meanwhile is still meant
    assert (await extending.extend_all(1, BY, lambda _: None)).users == 1
    before[users[1]] += 30 * DAY
    assert await ends(shop) == {user: end + DAY for user, end in before.items()}


async def test_one_user_is_extended_once_for_a_reason_and_all_of_them_do_not_repeat_it(
    shop: Shop, extending: Extending, user: UserId
) -> None:
    with pytest.raises(NotFound, match="no current subscription"):
        await extending.extend(user, 2, BY)
    assert await shop.front.rows("SELECT * FROM extensions") == []
    await shop.buy(user)
    end = (await ends(shop))[user]
    assert (await extending.extend(user, 2, BY)).valid_until == end + 2 * DAY
    with pytest.raises(Conflict, match="got 2 days for the same reason"):
        await extending.extend(user, 2, BY)
    assert (await extending.extend_all(2, BY, lambda _: None)).users == 0
    assert (await extending.extend(user, 1, BY)).valid_until == end + 3 * DAY
    for days in (0, 367):
        with pytest.raises(Invalid, match="number of days"):
            await extending.extend(user, days, BY)


async def test_reminders_are_about_the_new_end(shop: Shop, extending: Extending, user: UserId) -> None:
    await shop.buy(user)
    await shop.wait(days=29, hours=1)
    assert (await shop.front.events(user)).count("subscription.expiring") == 1
    await extending.extend(user, 5, BY)
    await shop.front.expire()
    assert (await shop.front.events(user)).count("subscription.expiring") == 1
    await shop.wait(days=5)  # past the steps of 72 and 24 hours
    assert (await shop.front.events(user)).count("subscription.expiring") == 2
    await shop.wait(days=1)
    assert (await shop.front.events(user))[-1] == "subscription.expired"


async def test_a_plan_that_ended_during_the_outage_goes_on_from_now_with_what_was_left(
    shop: Shop, extending: Extending
) -> None:
    long_ago, drained, cashed, renewed, ended = (UserId(uuid4()) for _ in range(5))
    await shop.buy(long_ago)
    await shop.wait(days=1)
    outage = shop.clock() + 29 * DAY + timedelta(hours=1)
    for user in (drained, cashed, renewed, ended):
        await shop.buy(user)
    await shop.front.execute("UPDATE subscriptions SET messages_used = 50 WHERE user_id = $1", drained)
    await shop.front.execute("UPDATE subscriptions SET messages_used = 20 WHERE user_id = $1", ended)
    await shop.wait(days=31)
    await shop.buy(renewed)
    now = shop.clock()
    await shop.front.execute("UPDATE subscriptions SET cashed_at = ended_at WHERE user_id = $1", cashed)
    preview = await extending.preview_all(2, BY.reason, since=outage)
    assert [(plan.users, plan.first_end, plan.is_over) for plan in preview.plans] == [
        (1, now + 30 * DAY, False),
        (1, now, True),
    ]
    assert (preview.users, preview.ended) == (2, 1)
    for _ in range(2):  # the same again gives nothing twice
        await extending.extend_all(2, BY, lambda _: None, since=outage)
        assert await ends(shop) == {renewed: now + 32 * DAY, ended: now + 2 * DAY}
    assert (await shop.front.events(ended))[-1] == "subscription.activated"
    rows = await shop.front.subscriptions(ended)
    assert [(row["messages_used"], row["messages_limit"]) for row in rows] == [(20, 50)]
    await shop.buy(ended)  # takes over what is left, as of any plan
    assert (await shop.front.subscriptions(ended))[-1]["messages_limit"] == 80
    assert (await ends(shop))[ended] == now + 32 * DAY


async def test_one_user_whose_plan_ended_is_extended_too(shop: Shop, extending: Extending) -> None:
    user = UserId(uuid4())
    await shop.buy(user)
    await shop.wait(days=31)
    with pytest.raises(NotFound):
        await extending.extend(user, 2, BY)
    for since in (shop.clock() + DAY, shop.clock() - 61 * DAY):
        with pytest.raises(Invalid, match="within the last 60 days"):
            await extending.extend(user, 2, BY, since=since)
    with pytest.raises(NotFound, match="nor one that ended since then"):
        await extending.extend(user, 2, BY, since=shop.clock())
    assert (await extending.extend(user, 2, BY, since=shop.clock() - 2 * DAY)).valid_until == (
        shop.clock() + 2 * DAY
    )
    await shop.wait(days=3)
    assert await shop.front.statuses(user) == ["expired"]
