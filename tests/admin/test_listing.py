"""The list of users: each filter finds exactly its users, and pages give everybody once."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.admin import listing
from kosmo_billing_daemon.admin.listing import HasPlan, ListedUser, UserFilter
from kosmo_billing_daemon.contract.payloads import QuotaState, Standing
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid, NotFound
from tests.services.conftest import Shop


async def every(shop: Shop, wanted: UserFilter, limit: int = 2) -> list[ListedUser]:
    """Turn all pages."""
    found: list[ListedUser] = []
    cursor = None
    while True:
        page = await listing.load_page(shop.front.pool, wanted, cursor, limit, shop.clock())
        assert len(page.users) <= limit
        found += page.users
        cursor = page.next_cursor
        if cursor is None:
            return found


def people(number: int) -> list[UserId]:
    return sorted(UserId(uuid4()) for _ in range(number))


def ids(users: Sequence[ListedUser]) -> list[UUID]:
    return [user.user_id for user in users]


async def test_each_filter_lists_its_users_and_pages_give_each_once(shop: Shop) -> None:
    lapsed, wanderer, drained, guardian, partial = everybody = people(5)
    stranger = UserId(uuid4())  # paid too little, so never had a plan
    await shop.buy(lapsed)
    await shop.wait(days=31)
    await shop.buy(guardian, "guardian")
    await shop.wait(days=1)
    for user in (partial, wanderer, drained):
        await shop.buy(user)
        await shop.wait(minutes=1)
    await shop.front.execute(
        "UPDATE subscriptions SET messages_used = messages_limit WHERE user_id = $1", drained
    )
    for user in (partial, stranger):
        await shop.act(await shop.open(user, "guardian"), "pay_partial", "expire", "confirm")

    assert ids(await every(shop, UserFilter())) == everybody
    by_end = [guardian, partial, wanderer, drained]
    assert ids(await every(shop, UserFilter(state=HasPlan.ACTIVE))) == by_end
    assert ids(await every(shop, UserFilter(state=HasPlan.ACTIVE), limit=1)) == by_end
    assert ids(await every(shop, UserFilter(plan="wanderer"))) == [partial, wanderer, drained]
    assert ids(await every(shop, UserFilter(plan="wanderer", exhausted=True))) == [drained]
    assert ids(await every(shop, UserFilter(plan="guardian", exhausted=True))) == []
    assert ids(await every(shop, UserFilter(exhausted=True))) == [drained]
    assert ids(await every(shop, UserFilter(ending=29))) == [guardian]
    assert ids(await every(shop, UserFilter(ending=30))) == by_end
    assert ids(await every(shop, UserFilter(state=HasPlan.LAPSED))) == [lapsed]
    assert ids(await every(shop, UserFilter(attention=True))) == sorted([partial, stranger])
    assert ids(await every(shop, UserFilter(attention=True, state=HasPlan.LAPSED))) == [stranger]
    assert ids(await every(shop, UserFilter(attention=True, plan="wanderer"))) == [partial]
    assert ids(await every(shop, UserFilter(attention=True, ending=29))) == []
    batches = [batch async for batch in listing.load_every(shop.front.pool, UserFilter(), shop.clock())]
    assert [ids(batch) for batch in batches] == [everybody]


async def test_line_says_how_a_user_stands(shop: Shop, user: UserId) -> None:
    await shop.buy(user, "guardian")
    await shop.front.execute("UPDATE subscriptions SET messages_used = 400")
    await shop.front.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " VALUES (now(), $1, 'granted', 2.5, 'EUR', 'operator', 'gift')",
        user,
    )
    (line,) = await every(shop, UserFilter())
    assert (line.plan_type, line.state, line.quota_state) == (
        "guardian",
        Standing.ACTIVE,
        QuotaState.WARNING,
    )
    assert (line.messages_used, line.messages_limit, line.open_cases) == (400, 500, 0)
    assert {name: f"{amount:f}" for name, amount in line.credit.items()} == {"EUR": "2.5"}
    await shop.wait(days=31)
    (line,) = await every(shop, UserFilter())
    assert (line.plan_type, line.state) == ("guardian", Standing.EXPIRED)  # the plan it was


async def test_what_cannot_be_listed_is_named(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    with pytest.raises(NotFound, match="'guardain' was ever sold or granted; there were: wanderer"):
        await every(shop, UserFilter(plan="guardain"))
    with pytest.raises(Invalid, match="leave out the other filters"):
        UserFilter(state=HasPlan.LAPSED, exhausted=True)
    with pytest.raises(Invalid, match="number of days"):
        UserFilter(ending=-1)
    for cursor in (
        "",
        "x",
        "////",
        "MjAyNi0wMS0wMQ",
        "MDAwMS0wMS0wMVQwMDowMCsyMzo1OSAxMTExMTExMS0xMTExLTExMTEtMTExMS0xMTExMTExMTExMTE",  # too early
    ):
        with pytest.raises(Invalid, match="cursor"):
            await listing.load_page(shop.front.pool, UserFilter(), cursor, 10, shop.clock())
