"""A preview is the action, undone: it says what will be, and leaves everything as it is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from kosmo_billing_daemon.admin.actions import AdminActions, OperatorAction
from kosmo_billing_daemon.admin.extending import Extending
from kosmo_billing_daemon.admin.rehearsing import UserState, changes, load_state, rehearse
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import SubscriptionId, UserId
from kosmo_billing_daemon.errors import NotFound
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.store.postgres import Pool
from tests.demo.btcpay.conftest import HandClock
from tests.services.conftest import STEPS, Shop

BY = OperatorAction("margarete", "ticket 7")
LISTED = BY.entry("user.nodes", None, "node", datetime(2026, 3, 1, tzinfo=UTC))


@dataclass
class Desk:
    """Operators' actions on a pool."""

    pool: Pool
    operations: AdminActions
    extending: Extending
    whitelist: Whitelist
    user: UserId
    row: SubscriptionId

    def on(self, pool: Pool) -> "Desk":
        return Desk(
            pool,
            replace(self.operations, pool=pool),
            replace(self.extending, pool=pool),
            replace(self.whitelist, pool=pool),
            self.user,
            self.row,
        )


Do = Callable[[Desk], Awaitable[object]]
ACTIONS: dict[str, tuple[Do, set[str]]] = {
    "renew": (lambda d: d.operations.grant(d.user, "wanderer", BY), {"Until", "Messages"}),
    "extend": (lambda d: d.extending.extend(d.user, 3, BY), {"Until"}),
    "grant": (lambda d: d.operations.grant(d.user, "guardian", BY), {"Plan", "Until", "Messages"}),
    "add a node": (lambda d: d.whitelist.add(d.user, "!a1b2c3d4", "roof", action=LISTED), {"Nodes"}),
    "remove a node": (lambda d: d.whitelist.remove(d.user, "!0a0b0c0d", action=LISTED), {"Nodes"}),
    "revoke": (lambda d: d.operations.revoke(d.user, None, BY), {"Plan", "Until", "Messages"}),
    "cash": (lambda d: d.operations.cash(d.user, BY), {"Plan", "State", "Until", "Messages", "Credit"}),
}
TABLES = (
    "subscriptions", "events", "ledger", "audit_log", "outbox", "entitlements", "extensions",
    "extended_users", "whitelisted_nodes", "quotes",
)  # fmt: skip


@pytest.fixture
async def desk(shop: Shop, user: UserId, clock: HandClock) -> Desk:
    await shop.buy(user)
    await shop.front.execute("UPDATE subscriptions SET messages_used = 10")
    await shop.front.execute("INSERT INTO whitelisted_nodes VALUES ($1, '!0a0b0c0d', NULL, now())", user)
    clock.move(days=10)
    (row,) = await shop.front.subscriptions(user)
    pool = shop.front.pool
    return Desk(
        pool,
        AdminActions(pool=pool, settlement=shop.front.settlement, catalogue=BUILT_IN, clock=clock),
        Extending(pool=pool, clock=clock, remind_hours=STEPS),
        Whitelist(pool=pool, clock=clock, changed=lambda: None, new_per_day=0),
        user,
        row["id"],
    )


async def everything(shop: Shop) -> list[Any]:
    return [await shop.front.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]  # noqa: S608  names


async def state(desk: Desk) -> UserState:
    async with desk.pool.connection() as connection:
        return await load_state(connection, desk.user)


async def rehearsed(desk: Desk, act: Do, pool: Pool) -> object:
    return await act(desk.on(pool))


async def test_preview_is_the_outcome_and_changes_nothing(shop: Shop, desk: Desk) -> None:
    for name, (act, touched) in ACTIONS.items():
        untouched = await everything(shop)
        before, previewed = await rehearse(desk.pool, desk.user, partial(rehearsed, desk, act))
        assert await everything(shop) == untouched, name
        assert before == await state(desk), name
        assert {about for about, _ in changes(before, previewed)} == touched, name
        await act(desk)
        assert await state(desk) == previewed, name
        shop.clock.move(hours=1)


async def test_what_is_refused_is_refused_in_the_preview(shop: Shop, desk: Desk) -> None:
    await desk.operations.revoke(desk.user, desk.row, BY)
    untouched = await everything(shop)
    with pytest.raises(NotFound, match="no current subscription"):
        await rehearse(desk.pool, desk.user, lambda pool: desk.on(pool).operations.cash(desk.user, BY))
    with pytest.raises(NotFound, match="no current subscription"):
        await rehearse(desk.pool, desk.user, lambda pool: desk.on(pool).extending.extend(desk.user, 1, BY))
    assert await everything(shop) == untouched
    back = await rehearse(
        desk.pool, desk.user, lambda pool: desk.on(pool).operations.reinstate(desk.user, desk.row, BY)
    )
    assert [each.has_plan for each in back] == [False, True]
    await desk.operations.reinstate(desk.user, desk.row, BY)
    assert await state(desk) == back[1]
