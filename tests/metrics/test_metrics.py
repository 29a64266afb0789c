"""What is really exported is what alerts and dashboard ask for; promtool agrees with the rules."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kosmo_billing_daemon.services.figures import Figures
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.support.daemon import DaemonProcess
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, until, world_around

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own

ROOT = Path(__file__).parents[2]
RULES = ROOT / "config" / "prometheus" / "kosmo-billing.rules.yml"
DASHBOARD = ROOT / "config" / "grafana" / "kosmo-billing.json"
NAME = re.compile(r"\b(kosmo_billing_\w+|process_\w+)")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with Mosquitto() as broker, world_around(tmp_path, database_url, broker) as made:
        yield made


async def scrape(world: World, daemon: DaemonProcess) -> Samples:
    async with world.http.get(f"{daemon.url}/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        text = await response.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, labels: Mapping[str, str] | None = None) -> float:
    return samples[f"kosmo_billing_{name}", tuple(sorted((labels or {}).items()))]


async def test_alerts_and_dashboard_ask_only_for_what_is_exported(world: World) -> None:
    daemon = await world.daemon()
    await world.until_published(await world.buy(daemon))
    async with world.http.post(f"{daemon.webhook_url}", data=b"{}") as refused:
        assert refused.status == 403
    async with Pool(Database(url=world.database_url)) as pool:
        await Figures(pool=pool).run_once()  # as the leader does once a minute
    samples = await scrape(world, daemon)
    assert value(samples, "active_subscriptions", {"plan": "wanderer"}) == 1
    assert value(samples, "settled_amount", {"currency": "USD"}) == 5
    assert value(samples, "credit", {"currency": "USD"}) == 0
    assert value(samples, "invoices_total", {"outcome": "settled"}) == 1
    exported = {name for name, _ in samples}
    for file in (RULES, DASHBOARD):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        asked = set(NAME.findall("\n".join(lines)))
        assert asked
        assert asked <= exported, f"{file.name} asks for {asked - exported}"


async def test_purchase_shows_up(world: World) -> None:
    daemon = await world.daemon()
    before = await scrape(world, daemon)
    assert value(before, "leader") == value(before, "database_up") == value(before, "broker_connected") == 1
    assert value(before, "settle_to_publish_seconds_count") == 0
    user = await world.buy(daemon)
    await world.until_published(user)

    async def measured() -> bool:
        return value(await scrape(world, daemon), "settle_to_publish_seconds_count") == 1

    await until(measured, "the events of the purchase are acknowledged")
    after = await scrape(world, daemon)
    assert 0 < value(after, "settle_to_publish_seconds_sum") < 30
    assert value(after, "publications_total") > value(before, "publications_total")
    bought = {"method": "POST", "route": "/api/v1/billing/invoices", "status": "201"}
    assert value(after, "http_requests_total", bought) == 1
    for what in ("delivery", "entitlement", "event"):
        assert value(after, "oldest_waiting_seconds", {"what": what}) < 30
    assert str(user) not in str(after)


async def test_refusals_are_counted_by_their_code(world: World) -> None:
    daemon = await world.daemon()
    async with world.http.get(f"{daemon.url}/api/v1/billing/subscription") as response:
        code = (await response.json())["code"]
    async with world.http.request("PROPFIND", f"{daemon.url}/no/such/{uuid4()}") as response:
        assert response.status in {404, 405}
    samples = await scrape(world, daemon)
    assert value(samples, "http_refusals_total", {"code": code}) == 1
    nowhere = [
        labels for name, labels in samples if name.endswith("requests_total") and ("route", "none") in labels
    ]
    assert [dict(labels)["method"] for labels in nowhere] == ["other"]


async def made_late(world: World, daemon: DaemonProcess) -> bool:
    """End the subscription and open a case while nobody looks; false if it was frozen holding their rows."""
    daemon.freeze()
    try:
        async with world.sql() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '500ms'")
            await connection.execute(
                "UPDATE subscriptions SET valid_from = now() - interval '2 h',"
                " valid_until = now() - interval '1 h'"
            )
            await connection.execute(
                "INSERT INTO attention_cases (invoice_id, user_id, kind, detail, opened_at)"
                " SELECT id, user_id, 'overpaid', 'one', now() FROM btcpay_invoices"
            )
    except asyncpg.LockNotAvailableError:
        return False
    finally:
        daemon.thaw()
    return True


async def test_late_subscription_and_open_case_are_seen(world: World) -> None:
    daemon = await world.daemon()
    user = await world.buy(daemon)
    await world.until_published(user)
    while not await made_late(world, daemon):
        pass
    await world.until_published(user, status="expired")
    samples = await scrape(world, daemon)
    assert value(samples, "attention_cases") == 1
    assert value(samples, "expiry_lateness_seconds") == 0


async def test_scrape_answers_without_database_broker_and_btcpay(world: World) -> None:
    """Away from the start: the facts are told, and the daemon lives."""
    nothing = "postgresql://nobody@127.0.0.1:9/none"
    daemon = world.prepare(DATABASE_URL=nothing, MQTT_PORT="9", BTCPAY_URL="http://127.0.0.1:9")
    await daemon.start()
    async with asyncio.timeout(15):
        samples = await scrape(world, daemon)
    assert (
        value(samples, "database_up") == value(samples, "leader") == value(samples, "broker_connected") == 0
    )


def test_promtool_accepts_the_rules_and_they_fire_as_meant() -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is missing: install the package prometheus"
    here = Path(__file__).parent
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(  # noqa: S603  our own words
            [promtool, *arguments], cwd=here, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_is_one_that_grafana_imports() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "kosmo-billing"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 10
    for panel in dashboard["panels"]:
        assert panel["targets"]
        assert {"x", "y", "w", "h"} == set(panel["gridPos"])


def test_every_alert_says_what_to_do() -> None:
    text = RULES.read_text()
    assert text.count("- alert:") == text.count("action:") == text.count("severity:") - 1
