"""A purchase becomes a document on the broker."""

import json
from uuid import UUID, uuid4

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from tests.daemon.conftest import on_shared_loop
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until


@on_shared_loop
async def test_a_purchase_is_a_retained_document_within_a_second(shared: World) -> None:
    (daemon,) = shared.daemons
    took = []
    for user_id in (first := uuid4(), uuid4(), uuid4()):  # what waits for a clock waits for it each time
        await shared.pay(await shared.order(daemon, user_id, "guardian"))
        took.append(await shared.until_published(user_id))
    assert min(took) < 1.0
    found = await shared.retained(TOPICS.entitlement(first))
    document = EntitlementDocument.decode(json.dumps(found[TOPICS.entitlement(first)]).encode())
    assert (document.plan_type, document.scope, document.messages_limit) == ("guardian", "whitelist", 500)


@on_shared_loop
async def test_the_events_of_a_purchase_are_complete_cloud_events(shared: World) -> None:
    (daemon,) = shared.daemons
    user_id = await shared.buy(daemon)
    await until_covered(shared, user_id)  # the watermark is written after everything that was to be said
    events = shared.observer.cloud_events(user_id)
    expected = ["invoice.created", "invoice.settled", "subscription.activated"]
    assert [event["type"] for event in events] == expected
    for event in events:
        assert event["specversion"] == "1.0"
        assert event["source"] == "kosmo-billing"
        assert event["time"].endswith("Z")
        assert event["data"]["plan_type"] == "wanderer"
    assert len({event["id"] for event in events}) == 3
    assert not any(m.retain for m in shared.observer.messages if m.topic.startswith(TOPICS.event("")))


@on_shared_loop
async def test_a_second_delivery_of_the_webhook_changes_nothing(shared: World) -> None:
    (daemon,) = shared.daemons
    shared.simulator.set_faults(webhooks={"duplicate": True})
    try:
        first = await shared.buy(daemon)
        await shared.until_published(first)
        await shared.simulator.drained()
    finally:
        shared.simulator.set_faults(webhooks={"duplicate": False})
    await until_covered(shared, await shared.buy(daemon))
    assert shared.observer.events(first).count("subscription.activated") == 1
    assert await shared.value("SELECT count(*) FROM subscriptions WHERE user_id = $1", first) == 1


async def until_covered(world: World, user_id: UUID) -> None:
    """Wait until the watermark covers the user's document, and so all that the database has."""
    await world.until_published(user_id)
    await world.until_covered()


@on_shared_loop
async def test_the_watermark_follows_what_was_acknowledged(shared: World) -> None:
    (daemon,) = shared.daemons
    users = [await shared.buy(daemon) for _ in range(3)]
    for user_id in users:
        await until_covered(shared, user_id)
    assert shared.observer.watermark["entitlements"] >= 3


async def test_an_end_in_order_says_offline_and_loses_and_repeats_nothing(world: World) -> None:
    """What was published at the end must not be published again by the next start (seen)."""
    daemon = await world.daemon()
    online = world.observer.last(TOPICS.status)
    assert online is not None
    assert (online["state"], online["instance"]) == ("online", "daemon")
    user_id = uuid4()
    invoice_id = await world.order(daemon, user_id)
    await grant(world, [uuid4() for _ in range(1000)])
    await until(lambda: bool(world.observer.documents), "the first document")
    assert await daemon.stop() == 0
    await until(lambda: world.observer.states()[-1] == "offline", "the offline message")
    said = list(world.observer.documents)
    waiting = "SELECT count(*) FROM outbox, unnest(users) AS of (user_id) WHERE user_id = ANY ($1)"
    assert await world.value(waiting, said) == 0
    await world.pay(invoice_id)  # the webhook finds nobody
    await daemon.start()
    await world.until_published(user_id)
    assert world.observer.states()[-1] == "online"
    daemon.kill()
    await until(lambda: world.observer.states()[-1] == "offline", "the will")


async def test_the_classic_local_test_needs_webhook_trust_body(world: World) -> None:
    daemon = await world.daemon(WEBHOOK_TRUST="body", WEBHOOK_SECRET="")
    user_id = uuid4()
    invoice_id = await world.order(daemon, user_id)
    claim = {"type": "InvoiceSettled", "invoiceId": invoice_id, "status": "Settled"}
    async with world.http.post(daemon.webhook_url, json=claim) as response:
        assert response.status == 200
    await world.until_published(user_id)
