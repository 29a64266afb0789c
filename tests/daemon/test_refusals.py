"""Rights withheld by the broker: an error by name, nothing counts as published, until the ACL is fixed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.daemon import WEBHOOK_SECRET, DaemonProcess
from tests.support.faketime import SetClock
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until, world_around

USERS = {"kosmo": "right", "reader": "reader"}
BRANCHES = ("entitlements/#", "events/#", "status", "watermark", "usage-acks/#")


def acl(*withheld: str) -> str:
    allowed = "\n".join(f"topic write {TOPICS.prefix}/{b}" for b in BRANCHES if b not in withheld)
    return (
        f"user kosmo\ntopic read {TOPICS.prefix}/#\n{allowed}\n"
        f"user reader\ntopic read {TOPICS.prefix}/#\ntopic readwrite end-of-replay\n"
    )


@pytest.fixture
async def strict() -> AsyncIterator[Mosquitto]:
    async with Mosquitto(acl=acl(), users=USERS) as mosquitto:
        yield mosquitto


@pytest.fixture
async def guarded(tmp_path: Path, database_url: str, strict: Mosquitto) -> AsyncIterator[World]:
    reader = {"username": "reader", "password": "reader"}
    async with world_around(tmp_path, database_url, strict, reader) as world:
        world.more = {"MQTT_USERNAME": "kosmo", "MQTT_PASSWORD": "right"}
        yield world


async def started(world: World, **settings: str) -> DaemonProcess:
    daemon = world.prepare(**settings)
    await daemon.start()
    world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
    return daemon


async def until_named(world: World, daemon: DaemonProcess, topic: str) -> None:
    seen: dict[str, Any] = {}

    async def fact() -> bool:
        status, body = await world.ready(daemon)
        seen.update(body)
        # The answer is for anybody, so it names no user: what follows the shard is left out.
        told = topic.rpartition("/")[0] if "/entitlements/" in topic else topic
        return status == 503 and told in body["checks"]["publishing"]["detail"]

    await until(fact, lambda: f"503 naming {topic}: {seen}")


async def test_whatever_is_refused_is_an_alarm_until_it_is_accepted(guarded: World, tmp_path: Path) -> None:
    """The connection, then events, then documents, which no clock that is set meanwhile holds up."""
    clock, broker = SetClock(tmp_path), guarded.broker
    await broker.reload(acl=acl("events/#"))
    daemon = await started(guarded, MQTT_PASSWORD="wrong", **clock.settings)

    async def refused() -> bool:
        _, body = await guarded.ready(daemon)
        return "refused the connection" in body["checks"].get("broker", {"detail": ""})["detail"]

    await until(refused, lambda: daemon.log)
    assert "fix its password file or ACL" in daemon.log
    assert "wrong" not in daemon.log
    user_id = await guarded.buy(daemon)
    await broker.reload(users=USERS | {"kosmo": "wrong"})
    await guarded.until_published(user_id)  # which the refused events do not hold back

    await until_named(guarded, daemon, TOPICS.event(""))
    await broker.reload(acl=acl())
    events = guarded.observer.cloud_events
    await until(lambda: len(events(user_id)) == 3, lambda: guarded.observer.events(user_id))
    await guarded.until_ready(daemon)

    await broker.reload(acl=acl("entitlements/#"))
    user_id = await guarded.buy(daemon)
    topic = TOPICS.entitlement(user_id)
    await until_named(guarded, daemon, topic)
    assert "ERROR" in daemon.log.upper()
    assert f"refuses our publication to {topic}" in daemon.log
    waits = "SELECT EXISTS (SELECT FROM outbox WHERE kind = 'rights' AND $1 = ANY (users))"
    assert await guarded.value(waits, user_id)
    # Events are not held back by it.
    await until(lambda: "subscription.activated" in guarded.observer.events(user_id), "the event")
    clock.set(-timedelta(hours=3))
    await until(lambda: "set back" in daemon.log, "the clock that was set back")
    await broker.reload(acl=acl())
    assert await guarded.until_published(user_id) < 8.0
    await guarded.until_ready(daemon)


async def test_refused_repetitions_of_what_the_broker_lost_are_not_forgotten(guarded: World) -> None:
    daemon = await guarded.daemon()
    users = [uuid4() for _ in range(30)]
    await grant(guarded, users)
    await until(lambda: guarded.observer.watermark["entitlements"] == 30, "the watermark")
    guarded.broker.kill()
    guarded.broker._acl = acl("entitlements/#")
    await guarded.broker.start()
    await until_named(guarded, daemon, f"{TOPICS.prefix}/entitlements/")
    # Even a restart must not take them for published.
    assert await daemon.stop() == 0
    await daemon.start()
    await guarded.broker.reload(acl=acl())
    wanted = {TOPICS.entitlement(user_id) for user_id in users}

    async def complete() -> bool:
        return wanted <= set(await guarded.retained(TOPICS.entitlements_filter))

    await until(complete, "everybody's document")
    await guarded.until_ready(daemon)
    assert "restored from a backup" not in daemon.log


async def test_a_refused_status_or_watermark_holds_nobodys_document_back(guarded: World) -> None:
    status, watermark = TOPICS.status, TOPICS.watermark
    await guarded.broker.reload(acl=acl("status", "watermark"))
    daemon = await started(guarded)
    user_id = await guarded.buy(daemon)
    await guarded.until_published(user_id, seconds=5.0)
    await until_named(guarded, daemon, status)
    await guarded.broker.reload(acl=acl("watermark"))
    await until_named(guarded, daemon, watermark)
    await guarded.broker.reload(acl=acl())
    await guarded.until_ready(daemon)
    for topic in (status, watermark):
        await until(lambda topic=topic: guarded.observer.last(topic) is not None, topic)  # type: ignore[misc]
    assert daemon.log.count(f"refuses our publication to {status}") == 1


async def test_what_cannot_be_read_back_is_named_and_purchases_go_on(guarded: World) -> None:
    """Our own status ends every replay; without it nothing that the broker lost would be noticed."""
    blind = acl().replace(
        f"topic read {TOPICS.prefix}/#",
        "\n".join(f"topic read {TOPICS.prefix}/{branch}" for branch in ("entitlements/#", "usage/+")),
        1,
    )
    await guarded.broker.reload(acl=blind)
    daemon = await started(guarded)
    user_id = await guarded.buy(daemon)
    seen: dict[str, Any] = {}

    async def named() -> bool:
        _, body = await guarded.ready(daemon)
        seen.update(body)
        broker = body["checks"].get("broker", {"ok": True, "detail": ""})
        return not broker["ok"] and f"may we read {TOPICS.prefix}/status?" in broker["detail"]

    await until(named, lambda: f"a check that names it: {seen}")
    assert seen["status"] == "degraded"
    await guarded.until_published(user_id)
