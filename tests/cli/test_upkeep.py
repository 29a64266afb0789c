"""Looking again, saying again and watching, beside a running daemon; and help with typing."""

import asyncio
import json
import signal
from uuid import uuid4

import pytest

from kosmo_billing_daemon.link import Broker, connect
from tests.cli.conftest import Cli, Make
from tests.mqtt.shipped import PASSWORD
from tests.support.daemon import DaemonProcess
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, until

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own


async def quiet_daemon(world: World) -> DaemonProcess:
    """A daemon whose webhook nobody registered: payments are found by looking."""
    daemon = world.prepare()
    await daemon.start()
    await world.until_ready(daemon)
    return daemon


async def test_reconcile_settles_what_no_webhook_told(world: World, at_world: Cli) -> None:
    daemon = await quiet_daemon(world)
    user = uuid4()
    invoice = await world.order(daemon, user)
    await world.pay(invoice)
    told = (await at_world("reconcile", "--json")).json
    assert told["looked_at"] == 1
    await world.until_published(user)
    assert [(m["invoice_id"], m["status_before"], m["effect"]) for m in told["changed"]] in (
        [(invoice, "new", "fulfilled")],
        [],  # the daemon's own look was first
    )
    assert "0 open invoices looked at" in (await at_world("reconcile")).out


async def test_reconcile_without_btcpay_ends_with_69(world: World, at_world: Cli) -> None:
    daemon = await quiet_daemon(world)
    await world.order(daemon, uuid4())
    await world.simulator.go_away()
    result = await at_world("reconcile")
    assert result.code == 69
    assert "BTCPay" in result.err


async def test_republish_gives_new_versions(world: World, at_world: Cli) -> None:
    daemon = await world.daemon()
    first, second = await world.buy(daemon), await world.buy(daemon)
    await world.until_published(first)
    await world.until_published(second)
    seen = {user: len(world.observer.versions[user]) for user in (first, second)}
    assert (await at_world("republish", str(first), "--json")).json == {"documents": 1, "published": True}
    await until(lambda: len(world.observer.versions[first]) > seen[first], "published again")
    assert len(world.observer.versions[second]) == seen[second]
    assert "2 documents published again" in (await at_world("republish")).out
    await until(lambda: len(world.observer.versions[second]) > seen[second], "published again")
    versions = world.observer.versions[second]
    assert versions == sorted(set(versions))


async def test_republish_of_a_stranger_is_refused(at_world: Cli) -> None:
    result = await at_world("republish", str(uuid4()))
    assert (result.code, "has no document" in result.err) == (1, True)
    assert (await at_world("republish", "--no-wait", "--json")).json["documents"] == 0


async def test_watch_shows_a_purchase_and_disturbs_nobody(world: World, at_world: Cli) -> None:
    daemon = await world.daemon()
    states = world.observer.states()
    watch = await at_world.begin("watch", "--json", WATCH_USERNAME="bridge-1", WATCH_PASSWORD=PASSWORD)
    assert watch.stdout is not None
    assert watch.stderr is not None
    try:
        async with asyncio.timeout(40):
            assert b"watching kosmo/billing/v1/#" in await watch.stderr.readline()
            user = await world.buy(daemon)
            shown = json.loads(await watch.stdout.readline())
        assert shown["topic"].endswith(str(user))
        assert shown["payload"]["status"] == "active"
        watch.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            assert await watch.wait() == 0
    finally:
        if watch.returncode is None:
            watch.kill()
        await watch.communicate()
    assert world.observer.states() == states


async def test_watch_does_not_come_under_the_daemons_account(at_world: Cli) -> None:
    result = await at_world("watch")
    assert result.code == 1
    assert "WATCH_USERNAME" in result.err


async def test_watched_text_cannot_steer_the_terminal(make_cli: Make, open_broker: Mosquitto) -> None:
    cli = make_cli(MQTT_HOST=open_broker.host, MQTT_PORT=str(open_broker.port))
    watch = await cli.begin("watch")
    assert watch.stdout is not None
    assert watch.stderr is not None
    try:
        async with asyncio.timeout(40):
            await watch.stderr.readline()
            async with connect(
                Broker(host=open_broker.host, port=open_broker.port, client_id="bad", clean=True)
            ) as link:
                await link.publish("kosmo/billing/v1/usage/bad", b"\x1b[2J\x07[red]boo")
            line = await watch.stdout.readline()
        assert b"\x1b" not in line
        assert b"\x07" not in line
        assert b"[red]boo" in line
    finally:
        watch.kill()
        await watch.communicate()


async def test_completion_knows_commands_and_their_options(cli: Cli) -> None:
    asked = {"_KOSMO_BILLING_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    commands = await cli(COMP_WORDS="kosmo-billing in", **asked)
    assert commands.out.split() == ["invoices"]
    options = await cli(COMP_WORDS="kosmo-billing republish --", **{**asked, "COMP_CWORD": "2"})
    assert "--json" in options.out.split()


async def test_help_documents_the_exit_codes(cli: Cli) -> None:
    shown = " ".join((await cli("--help")).out.split())
    for words in ("0 done", "1 failed", "2 wrong usage", "69 a dependency", "78 bad settings"):
        assert words in shown
