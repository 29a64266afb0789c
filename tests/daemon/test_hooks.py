"""Hooks of a whole installation: what MQTT says reaches an endpoint too, over the death of its leader."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from kosmo_billing_daemon.contract.cloud_events import cloud_event
from tests.cli.conftest import Cli
from tests.contract.schemas import errors
from tests.support.endpoint import answer, endpoint
from tests.support.world import World, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cli(world: World, database_url: str) -> Cli:
    return Cli(
        {
            "BTCPAY_URL": world.simulator.url,
            "BTCPAY_API_KEY": "a1" * 20,
            "BTCPAY_STORE_ID": "StoreOne",
            "DATABASE_URL": database_url,
        }
    )


def ids(documents: Sequence[dict[str, Any]]) -> list[str]:
    return [document["id"] for document in documents]


async def test_a_purchase_reaches_an_endpoint_over_the_death_of_the_leader(world: World, cli: Cli) -> None:
    daemon = await world.daemon()
    for words in (
        ("add", "https://example.org/", "--events", "quota.*", "--text", "/nonexistent"),
        ("replay", "7"),
    ):
        refused = await cli("hook", *words)
        assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert refused.err.startswith("kosmo-billing: ")
    async with endpoint() as target:
        added = (
            await cli(
                "hook", "add", target.url, "--allow-private", "--json", "--events", "subscription.*,invoice.*"
            )
        ).json
        tried = await cli("hook", "test", str(added["hook"]))
        assert (tried.code, tried.out) == (0, "accepted: 200 OK\n"), tried
        assert json.loads(target.received[0].body)["type"] == "hook.test"
        user = await world.buy(daemon)
        await until(lambda: len(target.received) >= 4, lambda: f"{target.ids}\n{daemon.log}")
        bodies = [json.loads(one.body) for one in target.received[1:]]
        assert [body["type"] for body in bodies][-1] == "subscription.activated"
        await until(lambda: len(world.observer.cloud_events(user)) >= len(bodies), "MQTT says the same")
        assert sorted(ids(bodies)) == sorted(ids(world.observer.cloud_events(user)))
        assert target.ids[1:] == ids(bodies)

        target.reply = lambda _: answer(502)
        seen = len(target.received)
        second = await world.buy(daemon)
        await until(lambda: len(target.received) > seen, "an attempt fails")
        daemon.kill()
        target.reply = lambda _: answer(200)
        await daemon.start()
        told: list[dict[str, Any]] = []

        def arrived() -> bool:
            told[:] = [json.loads(one.body) for one in target.received[seen:]]
            return any(each["type"] == "subscription.activated" for each in told)

        await until(arrived, lambda: f"{told}\n{daemon.log}")
        assert {each["subject"] for each in told} == {str(second)}
        assert ids(told)[0] == target.ids[seen]
        target.verify(added["secret"])

        shown = await cli("hook", "list", "--json")
        (listed,) = shown.json
        assert (listed["state"], listed["waiting"], listed["answer"]) == ("on", 0, "200 OK")
        assert added["secret"] not in shown.out
        assert (await cli("hook", "remove", str(added["hook"]))).code == 0
        seen = len(target.received)
        third = await world.buy(daemon)
        await world.until_published(third)
        assert len(target.received) == seen


def test_an_event_of_the_service_fits_its_schema() -> None:
    data = {"hook": 3, "failing_since": "2026-03-19T08:15:29Z", "reason": "gone"}
    body = cloud_event(
        event_id="1", event_type="hook.off", subject=None, time=datetime(2026, 1, 1, tzinfo=UTC), data=data
    )
    assert errors("ServiceEvent", json.loads(body)) == []
