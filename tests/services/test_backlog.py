"""What waits is told by its age, and deliveries of long ago are forgotten."""

from datetime import timedelta

from kosmo_billing_daemon.contract.payloads import Standing
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.backlog import read_backlog
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.services.housekeeping import Housekeeping
from kosmo_billing_daemon.settings import Retention
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.services.conftest import Shop


async def test_backlog_is_the_age_of_the_oldest(shop: Shop, user: UserId) -> None:
    assert (await read_backlog(shop.front.pool, shop.clock)).deliveries == 0
    await shop.front.open(user, "wanderer")
    await shop.simulator.drained()
    # What is queued for publication is timed by the database, whose clock no hand moves.
    await shop.front.execute("UPDATE outbox SET queued_at = $1", shop.clock())
    shop.clock.move(seconds=40)
    backlog = await read_backlog(shop.front.pool, shop.clock)
    assert (backlog.deliveries, backlog.events, backlog.error) == (40, 40, None)
    await shop.front.settle()
    assert (await read_backlog(shop.front.pool, shop.clock)).deliveries == 0


async def test_database_that_is_away_is_told_and_not_raised(shop: Shop) -> None:
    async with Pool(Database(url="postgresql://127.0.0.1:1/none", connect_timeout=1)) as nowhere:
        assert (await read_backlog(nowhere, shop.clock)).error


async def test_deliveries_are_forgotten_when_they_are_old(shop: Shop, user: UserId) -> None:
    housekeeping = Housekeeping(
        pool=shop.front.pool, clock=shop.clock, retention=Retention(deliveries=timedelta(days=7))
    )
    await shop.open(user)
    shop.simulator.set_faults(webhooks={"hold": True})  # that the invoice expired comes when it comes
    shop.clock.move(days=8)
    await shop.front.inbox.record(shop.delivery(b'{"type": "InvoiceSettled"}'))
    assert await housekeeping.run_once() == 1
    assert await housekeeping.run_once() == 0
    (left,) = await shop.front.rows("SELECT received_at FROM webhook_deliveries")
    assert left["received_at"] == shop.clock()


async def test_delivery_that_was_forgotten_and_comes_again_changes_nothing(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    before = await shop.front.events(user)
    await shop.front.execute("DELETE FROM webhook_deliveries")
    for body in shop.bodies:
        await shop.front.inbox.record(shop.delivery(body))
    assert await shop.front.settle() == len(shop.bodies)
    assert await shop.front.events(user) == before


async def test_document_follows_the_purchase_and_its_end(shop: Shop, user: UserId) -> None:
    documents = Entitlements(pool=shop.front.pool, clock=shop.clock)
    stranger = await documents.show(user)
    assert (stranger.status, stranger.version, stranger.messages_limit) == (Standing.NONE, 0, 0)
    await shop.buy(user)
    bought = await documents.show(user)
    assert (bought.status, bought.plan_type, bought.messages_limit) == (Standing.ACTIVE, "wanderer", 50)
    await shop.wait(days=31)
    ended = await documents.show(user)
    assert (ended.status, ended.plan_type, ended.messages_limit) == (Standing.EXPIRED, "free", 0)
    assert ended.version > bought.version > 0
