"""A purchase becomes a document on the broker."""

import json
from uuid import uuid4

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until


async def test_a_purchase_is_a_retained_document_within_a_second(world: World) -> None:
    daemon = await world.daemon()
    user_id = uuid4()
    invoice_id = await world.order(daemon, user_id, "guardian")
    await world.pay(invoice_id)
    assert await world.until_published(user_id) < 1.0
    found = await world.retained(TOPICS.entitlement(user_id))
    document = EntitlementDocument.decode(json.dumps(found[TOPICS.entitlement(user_id)]).encode())
    assert (document.plan_type, document.scope, document.messages_limit) == ("guardian", "whitelist", 500)


async def test_the_news_of_a_purchase_are_complete_cloud_events(world: World) -> None:
    daemon = await world.daemon()
    user_id = await world.buy(daemon)
    expected = ["invoice.created", "invoice.settled", "subscription.activated"]
    await until(lambda: len(world.observer.news(user_id)) >= 3, lambda: world.observer.events(user_id))
    # The watermark is written after everything that was to be said.
    await until(lambda: world.observer.watermark["entitlements"] == 1, "the watermark")
    news = world.observer.news(user_id)
    assert [event["type"] for event in news] == expected
    for event in news:
        assert event["specversion"] == "1.0"
        assert event["source"] == "kosmo-billing"
        assert event["time"].endswith("Z")
        assert event["data"]["plan_type"] == "wanderer"
    assert len({event["id"] for event in news}) == 3
    assert not any(m.retain for m in world.observer.messages if m.topic.startswith(TOPICS.event("")))


async def test_a_second_delivery_of_the_webhook_changes_nothing(world: World) -> None:
    daemon = await world.daemon()
    world.simulator.set_faults(webhooks={"duplicate": True})
    first = await world.buy(daemon)
    await world.until_published(first)
    await world.simulator.drained()
    second = await world.buy(daemon)
    await world.until_published(second)
    await until(lambda: len(world.observer.news(second)) >= 3, lambda: world.observer.events(second))
    assert world.observer.events(first).count("subscription.activated") == 1
    assert await world.value("SELECT count(*) FROM subscriptions WHERE user_id = $1", first) == 1


async def test_the_watermark_follows_what_was_acknowledged(world: World) -> None:
    daemon = await world.daemon()
    users = [await world.buy(daemon) for _ in range(3)]
    for user_id in users:
        await world.until_published(user_id)

    async def covers() -> bool:
        sequence = await world.value("SELECT last_value FROM entitlement_versions")
        mark = world.observer.watermark
        return bool(mark["sequence"] == sequence and mark["entitlements"] == 3)

    await until(covers, lambda: f"watermark, is {world.observer.watermark}")


async def test_status_is_online_and_the_will_says_offline_after_kill_9(world: World) -> None:
    daemon = await world.daemon()
    online = world.observer.last(TOPICS.status)
    assert online is not None
    assert (online["state"], online["instance"]) == ("online", "daemon")
    daemon.kill()
    await until(lambda: world.observer.states()[-1] == "offline", "the will")


async def test_sigterm_says_offline_and_nothing_is_lost_by_the_restart(world: World) -> None:
    daemon = await world.daemon()
    user_id, invoice_id = uuid4(), None
    invoice_id = await world.order(daemon, user_id)
    assert await daemon.stop() == 0
    await until(lambda: world.observer.states()[-1] == "offline", "the goodbye")
    await world.pay(invoice_id)  # the webhook finds nobody
    await daemon.start()
    await world.until_published(user_id)
    assert world.observer.states()[-1] == "online"


async def test_an_orderly_end_leaves_nothing_in_the_outbox_that_was_published(world: World) -> None:
    """Else what was in flight at the end is published again by the next start (seen)."""
    daemon = await world.daemon()
    await grant(world, [uuid4() for _ in range(2000)])
    await until(lambda: bool(world.observer.documents), "the first document")
    assert await daemon.stop() == 0
    said = list(world.observer.documents)
    waiting = "SELECT count(*) FROM outbox, unnest(users) AS of (user_id) WHERE user_id = ANY ($1)"
    assert await world.value(waiting, said) == 0


async def test_the_classic_local_test_needs_webhook_trust_body(world: World) -> None:
    daemon = await world.daemon(WEBHOOK_TRUST="body", WEBHOOK_SECRET="")
    user_id = uuid4()
    invoice_id = await world.order(daemon, user_id)
    claim = {"type": "InvoiceSettled", "invoiceId": invoice_id, "status": "Settled"}
    async with world.http.post(daemon.webhook_url, json=claim) as response:
        assert response.status == 200
    await world.until_published(user_id)


async def test_a_wrong_signature_is_403_and_nothing_is_recorded(world: World) -> None:
    daemon = await world.daemon()
    headers = {"BTCPay-Sig": "sha256=" + "0" * 64}
    async with world.http.post(
        daemon.webhook_url, json={"type": "InvoiceSettled"}, headers=headers
    ) as response:
        assert response.status == 403
    assert await world.value("SELECT count(*) FROM webhook_deliveries") == 0
