"""``check`` says what is wrong in the surroundings, and how to fix each thing; never a secret."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kosmo_billing_daemon.demo.btcpay import BILLING_PERMISSIONS
from tests.cli.conftest import Cli
from tests.mqtt.shipped import PASSWORD, ShippedMosquitto
from tests.support.daemon import STORE, WEBHOOK_SECRET
from tests.support.pgbouncer import pgbouncer
from tests.support.roles import gone, made
from tests.support.world import World, until

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own

URL = "http://127.0.0.1:9/api/v1/billing/webhooks/btcpay"


def wrong(told: dict[str, Any]) -> list[str]:
    """What is wrong but that no daemon runs, as in most tests here."""
    return [line for line in wrong_at_all(told) if "no daemon leads" not in line]


def wrong_at_all(told: dict[str, Any]) -> list[str]:
    return [f"{f['part']}: {f['fact']} -> {f['advice']}" for f in told["findings"] if f["ok"] is False]


def forbid(broker: ShippedMosquitto, line: str) -> None:
    """Take a line from the rights of the daemon, which come first."""
    rights = broker.acl.read_text()
    assert line in rights
    broker.acl.write_text(rights.replace(line + "\n", "", 1))


async def look(cli: Cli, *arguments: str, **more: str) -> dict[str, Any]:
    """Run check and return what it found; the exit code must agree."""
    result = await cli("check", "--json", *arguments, **more)
    told: dict[str, Any] = json.loads(result.out)
    assert result.code == (0 if told["ok"] else 1), result
    return told


async def test_without_a_daemon_everything_else_is_tried_and_the_daemon_is_missed(
    world: World, at_world: Cli
) -> None:
    """With the shipped broker and no daemon the real publications are our own."""
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    gateway = {"CHECK_GATEWAY_USERNAME": "gateway-1", "CHECK_GATEWAY_PASSWORD": PASSWORD}
    shown = await at_world("check", WEBHOOK_URL=URL, **gateway)
    assert shown.code == 1, shown
    assert [line for line in shown.out.splitlines() if "✗" in line] == [
        "✗ daemon   no daemon leads: it is stopped, or failed"
    ]
    assert "systemctl reset-failed kosmo-billing.socket kosmo-billing.service" in shown.out
    assert "1 problem found" in shown.out
    for part in ("settings", "database", "broker", "btcpay", "clock"):
        assert f"✓ {part}" in shown.out


async def test_each_right_that_the_daemon_lacks_is_named(
    world: World, at_world: Cli, broker: ShippedMosquitto
) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    for right in ("write events/#", "write usage-acks/+", "readwrite watermark", "readwrite entitlements/#"):
        verb, topic = right.split()
        forbid(broker, f"topic {verb} kosmo/billing/v1/{topic}")
    forbid(broker, "topic read kosmo/billing/v1/usage/+")
    await broker.reload()
    gateway = {"CHECK_GATEWAY_USERNAME": "gateway-1", "CHECK_GATEWAY_PASSWORD": PASSWORD}
    found = wrong(await look(at_world, WEBHOOK_URL=URL, **gateway))
    assert len(found) == 5
    for topic in ("events/check", "usage-acks/", "watermark", "entitlements/"):
        assert any(f"may not write kosmo/billing/v1/{topic}" in line for line in found), found
    assert any("may we read kosmo/billing/v1/usage/+?" in line for line in found)
    assert all("acl_file" in line for line in found)


async def test_gateway_that_can_write_rights_is_found(
    world: World, at_world: Cli, broker: ShippedMosquitto
) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    account = {"WEBHOOK_URL": URL, "CHECK_GATEWAY_PASSWORD": PASSWORD}
    told = await look(at_world, CHECK_GATEWAY_USERNAME="gateway-1", **account)
    assert wrong(told) == []
    assert any("gateway-1 cannot write" in f["fact"] for f in told["findings"])
    rights = broker.acl.read_text().replace("user gateway-1\n", "user gateway-1\ntopic write kosmo/#\n")
    broker.acl.write_text(rights)
    await broker.reload()
    (found,) = wrong(await look(at_world, CHECK_GATEWAY_USERNAME="gateway-1", **account))
    assert "could forge rights" in found
    assert "acl_file" in found


async def test_a_right_to_read_alone_is_missed_too(
    world: World, at_world: Cli, broker: ShippedMosquitto
) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    for topic in ("watermark", "entitlements/#"):
        rights = broker.acl.read_text()
        line = f"topic readwrite kosmo/billing/v1/{topic}"
        broker.acl.write_text(rights.replace(line, line.replace("readwrite", "write"), 1))
    await broker.reload()
    found = wrong(await look(at_world, WEBHOOK_URL=URL))
    assert len(found) == 2
    assert all("does not come back: may we read it?" in line for line in found)
    (refused,) = wrong(await look(at_world, WEBHOOK_URL=URL, MQTT_PASSWORD="another"))
    assert "password_file" in refused


async def test_check_beside_a_daemon_lets_it_speak_for_itself(world: World, at_world: Cli) -> None:
    """The shipped broker gives one account one session: connecting as the daemon would cut it off."""
    daemon = await world.daemon()
    user = await world.buy(daemon)
    await world.until_published(user)
    port = daemon.url.rpartition(":")[2]
    before = world.observer.states()
    no_proxy = "http://127.0.0.1:9"  # of the web, not of this host
    told = await look(at_world, WEBHOOK_URL=daemon.webhook_url, PORT=port, http_proxy=no_proxy)
    assert wrong(told) == []
    facts = [f["fact"] for f in told["findings"]]
    assert f"the daemon at {daemon.url}/health/ready is ready" in facts
    assert any("the running daemon publishes" in fact for fact in facts)
    assert any("its last delivery" in fact and "arrived" in fact for fact in facts)
    assert world.observer.states() == before


async def test_a_new_installation_is_all_right_before_its_first_purchase(world: World, at_world: Cli) -> None:
    daemon = await world.daemon()
    port = daemon.url.rpartition(":")[2]
    account = {"CHECK_GATEWAY_USERNAME": "gateway-1", "CHECK_GATEWAY_PASSWORD": PASSWORD}
    told = await look(at_world, WEBHOOK_URL=daemon.webhook_url, PORT=port, **account)
    assert [f for f in told["findings"] if f["ok"] is not True] == []
    assert await world.value("SELECT count(*) FROM usage_events") == 0


async def test_what_is_silent_or_another_program_at_its_port_is_not_taken_for_the_daemon(
    world: World, at_world: Cli
) -> None:
    """A frozen daemon still leads, and a server that is silent is all that check sees of it."""
    daemon = await world.daemon()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.read()

    async def told_of_daemon(at: asyncio.Server) -> tuple[bool | None, str]:
        told = await look(at_world, WEBHOOK_URL=daemon.webhook_url, PORT=str(at.sockets[0].getsockname()[1]))
        ((ok, fact),) = [(f["ok"], f["fact"]) for f in told["findings"] if f["part"] == "daemon"]
        return ok, fact

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as other,
        await asyncio.start_server(be_silent, "127.0.0.1", 0) as silent,
    ):
        found = await asyncio.gather(told_of_daemon(other), told_of_daemon(silent))
    assert [ok for ok, _ in found] == [False, False]
    assert "something else answers" in found[0][1]
    assert "is silent for 5 s" in found[1][1]


async def test_beside_a_daemon_its_missing_rights_are_found_before_anything_needs_them(
    world: World, at_world: Cli, broker: ShippedMosquitto
) -> None:
    daemon = await world.daemon()
    for right in ("write kosmo/billing/v1/events/#", "read kosmo/billing/v1/usage/+"):
        forbid(broker, f"topic {right}")
    await broker.reload()
    account = {"CHECK_GATEWAY_USERNAME": "gateway-1", "CHECK_GATEWAY_PASSWORD": PASSWORD}
    port = daemon.url.rpartition(":")[2]
    found = "\n".join(wrong(await look(at_world, WEBHOOK_URL=daemon.webhook_url, PORT=port, **account)))
    assert "the running daemon got no event published" in found
    assert "the broker refuses kosmo/billing/v1/events/check" in found
    assert "a report of gateway-1 got no ack" in found


async def test_beside_a_daemon_a_right_missing_in_the_database_hides_nothing_else(
    world: World, at_world: Cli
) -> None:
    daemon = await world.daemon()
    async with world.sql() as owner:
        poor = await made(world.database_url, owner)
        try:
            await poor.obtain()
            await owner.execute(f'REVOKE ALL ON entitlements FROM "{poor.name}"')
            port = daemon.url.rpartition(":")[2]
            told = await look(at_world, WEBHOOK_URL=daemon.webhook_url, PORT=port, DATABASE_URL=poor.url)
        finally:
            await gone(poor)
    right, publishing = wrong(told)
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON public.entitlements" in right
    assert "permission denied for table entitlements" in publishing
    assert {f["part"] for f in told["findings"]} >= {"daemon", "btcpay"}


async def test_each_fault_at_btcpay_is_named_with_its_cure(world: World, at_world: Cli) -> None:
    simulator = world.simulator
    (none,) = wrong(await look(at_world, WEBHOOK_URL=URL))
    assert "no webhook leads to" in none
    assert "webhook register" in none
    simulator.add_webhook(URL, WEBHOOK_SECRET, enabled=False, events=["InvoiceSettled"])
    (bad,) = wrong(await look(at_world, WEBHOOK_URL=URL))
    assert "switched off" in bad
    assert "InvoiceProcessing" in bad
    (denied,) = wrong(await look(at_world, WEBHOOK_URL=URL, BTCPAY_API_KEY="f" * 40))
    assert "BTCPAY_API_KEY" in denied
    lesser = tuple(p for p in BILLING_PERMISSIONS if "webhooks" not in p)
    simulator.add_key("e" * 40, lesser)
    lacking = wrong(await look(at_world, WEBHOOK_URL=URL, BTCPAY_API_KEY="e" * 40))
    assert "btcpay.store.webhooks.canmodifywebhooks" in lacking[0]
    simulator.add_key("d" * 40, tuple(p for p in BILLING_PERMISSIONS if "pullpayments" not in p))
    unable = await look(at_world, WEBHOOK_URL=URL, BTCPAY_API_KEY="d" * 40)
    (refunding, _) = (each for each in unable["findings"] if "pullpayments" in each["fact"])
    assert "btcpay.store.cancreatenonapprovedpullpayments" in refunding["advice"]
    elsewhere = wrong(await look(at_world, WEBHOOK_URL=URL, BTCPAY_STORE_ID=f"{STORE}Not"))
    assert any("BTCPAY_STORE_ID" in found for found in elsewhere)
    await simulator.go_away()
    (away,) = wrong(await look(at_world, WEBHOOK_URL=URL))
    assert "BTCPAY_URL" in away


async def test_webhook_whose_deliveries_are_refused_is_found(world: World, at_world: Cli) -> None:
    daemon = await world.daemon(WEBHOOK_SECRET="not-what-btcpay-signs-with")
    hook = next(iter(world.simulator._engine.webhooks.registered))
    await world.order(daemon, await world.buy(daemon))
    await world.simulator.drained()
    assert world.simulator.deliveries(hook)
    port = daemon.url.rpartition(":")[2]
    found = wrong(await look(at_world, WEBHOOK_URL=daemon.webhook_url, PORT=port))
    assert any("403" in line and "webhook register" in line for line in found), found


async def test_database_that_is_empty_or_away_is_named_with_its_cure(
    world: World, at_world: Cli, empty_database_url: str
) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    (behind,) = wrong(await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=empty_database_url))
    assert "kosmo-billing migrate" in behind
    gone = "postgresql://kosmo:password-of-the-database@127.0.0.1:9/kosmo"
    (away,) = wrong(await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=gone))
    assert "DATABASE_URL" in away
    assert (await at_world("migrate", DATABASE_URL=empty_database_url)).code == 0
    assert wrong(await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=empty_database_url)) == []


async def test_schema_of_another_version_is_named_and_not_called_up_to_date(
    world: World, at_world: Cli
) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    await world.execute("UPDATE kosmo_billing_migrations SET checksum = 'other' WHERE number = 1")
    (found,) = wrong(await look(at_world, WEBHOOK_URL=URL))
    assert "was applied with another text" in found
    assert "install the version that migrated" in found


async def test_role_without_rights_is_given_the_statements_that_fix_it(world: World, at_world: Cli) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    async with world.sql() as owner:
        poor = await made(world.database_url, owner)
        try:
            refused = await at_world("migrate", DATABASE_URL=poor.url)
            assert refused.code == 78
            assert "GRANT SELECT, INSERT, UPDATE, DELETE ON public." in refused.err
            tables, sequences = wrong(await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=poor.url))
            for found in (tables, sequences):
                await owner.execute(found.partition(" -> ")[2])
            assert "public.observations" in sequences
            assert wrong(await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=poor.url)) == []
        finally:
            await gone(poor)


async def test_database_of_another_encoding_is_refused_with_what_to_do(world: World, at_world: Cli) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    server, _, name = world.database_url.rpartition("/")
    await world.execute(f"CREATE DATABASE {name}_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        url = f"{server}/{name}_latin"
        refused = await at_world("migrate", DATABASE_URL=url)
        assert (refused.code, "encoded in LATIN1" in refused.err) == (78, True)
        (found,) = wrong(await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=url))
        assert "encoded in LATIN1" in found.partition(" -> ")[0]
        assert "createdb --encoding=UTF8" in found.partition(" -> ")[2]
    finally:
        await world.execute(f"DROP DATABASE {name}_latin WITH (FORCE)")


async def test_parameters_of_the_url_are_refused_by_name_or_ignored_with_a_reason(
    world: World, at_world: Cli
) -> None:
    url = world.database_url
    for command in ("check", "migrate", "serve"):
        refused = await at_world(command, DATABASE_URL=f"{url}?channel_binding=require&schema=x")
        assert refused.code == 78
        assert "channel_binding" in refused.out + refused.err
        assert "DATABASE_SCHEMA" in refused.out + refused.err
    told = await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=f"{url}?keepalives_idle=30&connect_timeout=9")
    (note,) = [f["fact"] for f in told["findings"] if f["part"] == "settings" and f["ok"] is None]
    assert note.startswith("DATABASE_URL: keepalives_idle is ignored: ")


async def test_bad_settings_are_all_named_and_end_with_78(at_world: Cli) -> None:
    result = await at_world("check", BTCPAY_STORE_ID="", MQTT_PORT="many")
    assert result.code == 78
    assert result.out.count("✗ settings") == 2


async def test_a_pooler_is_named_by_check_serve_and_readiness_and_so_is_a_read_only_database(
    world: World, at_world: Cli, service_directory: Path
) -> None:
    world.simulator.add_webhook(URL, WEBHOOK_SECRET)
    async with pgbouncer(service_directory, world.database_url, mode="transaction") as url:
        (found,) = wrong(await look(at_world, WEBHOOK_URL=URL, DATABASE_URL=url))
        assert "a connection pooler stands between; connect to PostgreSQL directly" in found
        refused = await at_world("migrate", DATABASE_URL=url)
        assert (refused.code != 0, "connect to PostgreSQL directly" in refused.err) == (True, True)
        daemon = world.prepare(DATABASE_URL=url)
        await daemon.start()

        async def told() -> bool:
            status, body = await world.ready(daemon)
            return status == 503 and "directly" in body["checks"]["database"]["detail"]

        await until(told, lambda: daemon.log)
        assert "a connection pooler stands between" in daemon.log
        assert await daemon.stop() == 0
    name = urlsplit(world.database_url).path.lstrip("/")
    await world.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    (found,) = wrong(await look(at_world, WEBHOOK_URL=URL))
    assert "nothing can be written" in found
    assert "RESET default_transaction_read_only" in found
