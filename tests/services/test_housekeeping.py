"""What is forgotten when time has passed, and what never is."""

from typing import Any
from uuid import uuid4

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.housekeeping import Housekeeping
from kosmo_billing_daemon.settings import Retention
from tests.services.conftest import Shop
from tests.services.test_locked_rows import locking

TABLES = (
    "btcpay_invoices",
    "subscriptions",
    "ledger",
    "attention_cases",
    "entitlements",
    "renewal_links",
    "events",
)


async def tidied(shop: Shop, **moved: float) -> dict[str, list[Any]]:
    """Let time pass, tidy up, and return whose rows are left, by table."""
    shop.clock.move(**moved)
    house = Housekeeping(pool=shop.front.pool, clock=shop.clock, retention=Retention())
    for _ in range(3):  # to the end of each table from wherever it began, and from its beginning
        while await house.run_once():
            pass
    return {
        name: [row[0] for row in await shop.front.rows(f"SELECT user_id FROM {name} ORDER BY user_id")]  # noqa: S608  a name of the test
        for name in TABLES
    }


async def test_money_is_never_forgotten_and_all_else_of_a_lapsed_user_is(shop: Shop, user: UserId) -> None:
    """Each at its own time: invoices without money, the document, events and the link."""
    looker, partial = UserId(uuid4()), UserId(uuid4())
    await shop.buy(user)
    await shop.open(looker)  # never paid
    await shop.act(await shop.open(partial), "pay_partial", "confirm")
    async with shop.front.pool.connection() as connection:
        await shop.front.expiry.links.issue(connection, [user, looker])
    await shop.wait(hours=1)
    await shop.wait(days=31)
    assert (await tidied(shop, days=50))["btcpay_invoices"] == sorted([user, looker, partial])
    after_90 = await tidied(shop, days=10)
    assert after_90["btcpay_invoices"] == sorted([user, partial])
    assert after_90["entitlements"] == [user]
    await shop.front.execute(
        "INSERT INTO lookups (due_at, invoice_id) VALUES ($1, $2)", shop.clock(), uuid4()
    )
    await tidied(shop)  # as if a webhook had come when its invoice went
    assert await shop.front.rows("SELECT FROM lookups") == []
    after_180 = await tidied(shop, days=180 - 60 + 1)
    assert after_180["entitlements"] == []
    assert [row[0] for row in await shop.front.rows("SELECT users FROM outbox WHERE kind = 'repeat'")] == [
        [user]
    ]
    assert after_180["renewal_links"] == sorted([user, looker])
    assert user in after_180["events"]
    await shop.front.execute("DELETE FROM outbox")  # everything was published
    at_last = await tidied(shop, days=300)
    assert at_last["btcpay_invoices"] == sorted([user, partial])
    assert at_last["subscriptions"] == [user]
    assert at_last["ledger"] == after_90["ledger"]
    assert at_last["attention_cases"] == [partial]
    assert at_last["renewal_links"] == at_last["events"] == []


async def test_a_current_user_keeps_document_and_link_for_ever(shop: Shop, user: UserId) -> None:
    await shop.buy(user, "sanctuary")
    await shop.front.execute("UPDATE subscriptions SET valid_until = valid_until + interval '10 years'")
    async with shop.front.pool.connection() as connection:
        await shop.front.expiry.links.issue(connection, [user])
    left = await tidied(shop, days=3000)
    assert left["entitlements"] == left["renewal_links"] == [user]


async def test_a_revoked_link_is_not_given_out_again(shop: Shop, user: UserId) -> None:
    """Tokens are computed, so what was revoked is remembered when the link of a lapsed user is forgotten."""
    links = shop.front.expiry.links
    async with shop.front.pool.connection() as connection:
        revoked = await links.issue(connection, [user])
        await connection.execute("UPDATE renewal_links SET revoked_at = issued_at")
        second = await links.issue(connection, [user])
    assert len((await tidied(shop, days=500))["renewal_links"]) == 1
    async with shop.front.pool.connection() as connection:
        again = await links.issue(connection, [user])
    assert again == second != revoked


async def test_a_locked_row_keeps_only_its_own_kind(
    shop: Shop, user: UserId, caplog: pytest.LogCaptureFixture
) -> None:
    looker = UserId(uuid4())
    await shop.buy(user)
    await shop.open(looker)
    await shop.wait(hours=1)
    await shop.wait(days=31)
    async with locking(shop, user, "SELECT FROM entitlements WHERE user_id = $1 FOR UPDATE"):
        left = await tidied(shop, days=200)
    assert (left["btcpay_invoices"], left["entitlements"]) == ([user], [user])
    assert "some old rows stay for now: another session" in caplog.text
    assert (await tidied(shop))["entitlements"] == []
