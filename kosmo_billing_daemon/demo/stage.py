"""The demo: PostgreSQL, broker, BTCPay simulator, between them the real daemon; a gateway, and a page."""

import asyncio
import contextlib
import secrets
import socket
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID

from kosmo_billing_daemon.admin.access import ConsoleAccess
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.hooks import HookActions
from kosmo_billing_daemon.assembly.front import CannotListen
from kosmo_billing_daemon.contract.paths import ADMIN, WEBHOOK
from kosmo_billing_daemon.daemon import Daemon, Started
from kosmo_billing_daemon.demo.broker import EmbeddedBroker
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.demo.children import private_directory, temporary_directory
from kosmo_billing_daemon.demo.console import Console
from kosmo_billing_daemon.demo.console.phone import EVENTS, TEXTS, Phone
from kosmo_billing_daemon.demo.embedded import HOST
from kosmo_billing_daemon.demo.gateway import Gateway
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from kosmo_billing_daemon.demo.practice import PracticeCases
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.errors import KosmoError, Unavailable
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.runtime.task_groups import ungrouped
from kosmo_billing_daemon.settings import CreditMode, load
from kosmo_billing_daemon.store.postgres import Database, Pool

STORE_ID = "DemoStore"
GATEWAY = "demo-gateway"
CONSOLE = "demo-console"
READY_WITHIN = 30.0  # seconds; on two cores it takes about two
PLANS = Path(__file__).parent / "plans.toml"
_DEMO_LASTS = timedelta(days=1)  # of the link to the operator's console


class DemoStage:
    """All parts up within ``async with``, all down after it; nothing is left behind."""

    def __init__(
        self,
        *,
        port: int = 0,
        data_dir: Path | None = None,
        broker: str | None = None,
        has_cases: bool = False,
    ) -> None:
        self._port = port
        self._has_cases = has_cases
        self._data_dir = data_dir
        self._broker = broker
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._resources = contextlib.AsyncExitStack()
        self.urls: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        async with self._resources:
            await self._raise_curtain()
            self._resources = self._resources.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    async def until_ended(self, stop: asyncio.Event) -> None:
        """Wait for ``stop``; raises what ended the daemon if that comes first."""
        assert self._running is not None  # noqa: S101 - entered
        asked = asyncio.create_task(stop.wait())
        await asyncio.wait({asked, self._running}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if self._running.done():
            await self._running

    async def _raise_curtain(self) -> None:
        # First: a taken port stops everything. The daemon needs its own address for the links it gives out.
        listening = self._resources.enter_context(_listen(self._port))
        directory = self._data_dir
        if directory is None:
            directory = self._resources.enter_context(temporary_directory("kosmo-demo-"))
        else:
            directory = private_directory(directory)
        postgres = EmbeddedPostgres(directory / "postgres", durable=self._data_dir is not None)
        broker = EmbeddedBroker(directory / "broker", kind=self._broker)
        simulator = Simulator(store_id=STORE_ID, api_key=secrets.token_hex(20))
        with ungrouped(KosmoError):
            async with asyncio.TaskGroup() as group:
                for part in (postgres, broker, simulator):
                    group.create_task(self._resources.enter_async_context(part))
        webhook_secret = secrets.token_hex(20)
        mqtt = urlsplit(broker.url)
        daemon = Daemon(
            load(
                {
                    "BTCPAY_URL": simulator.url,
                    "BTCPAY_API_KEY": simulator.api_key,
                    "BTCPAY_STORE_ID": STORE_ID,
                    "WEBHOOK_SECRET": webhook_secret,
                    "DATABASE_URL": postgres.url,
                    "MQTT_HOST": mqtt.hostname or HOST,
                    "MQTT_PORT": str(mqtt.port),
                    "MQTT_PROTOCOL": broker.protocol,
                    "HOST": HOST,
                    "PLANS_FILE": str(PLANS),
                    "ADMIN_LISTEN": f"{HOST}:0",
                    "PUBLIC_URL": f"http://{HOST}:{listening.getsockname()[1]}",
                    "CREDIT": CreditMode.OFF if self._has_cases else CreditMode.AUTO,
                }
            )
        )
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(
            daemon.run(stop=self._stop, started=started.set_result, sockets=[listening])
        )
        self._resources.push_async_callback(self._bow)
        awaited: set[asyncio.Future[Any]] = {started, self._running}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            await self._running
        desk = f"http://{(await started).console}{ADMIN}"
        api = f"http://{HOST}:{listening.getsockname()[1]}"
        simulator.add_webhook(f"{api}{WEBHOOK}", webhook_secret)
        await _until_ready(daemon)
        at = Broker(host=mqtt.hostname or HOST, port=broker.port, client_id=GATEWAY, protocol=broker.protocol)
        gateway = await self._resources.enter_async_context(Gateway(at, directory / "gateway.db"))
        try:
            await gateway.gate.ready(READY_WITHIN)
        except TimeoutError:
            raise Unavailable(f"the demo's gateway did not become ready: {gateway.gate.status}") from None
        watching = replace(at, client_id=CONSOLE, clean=True)
        pool = await self._resources.enter_async_context(Pool(Database(url=postgres.url)))
        phone = Phone(partial(pass_time, pool))
        console = await self._resources.enter_async_context(
            Console(watching, api=api, gateway=gateway.url, btcpay=simulator.url, phone=phone)
        )
        phone.secret = await _add_hook(pool, f"{console.url}/mesh-bot")
        if self._has_cases:
            await PracticeCases(api=api, simulator=simulator, pool=pool, plan=BUILT_IN.plans[0]).make()
        access = ConsoleAccess(pool=pool, clock=utc_now)
        self.urls = {
            "console": console.url,
            "operator": f"{desk}/login?token={await access.invite('demo', _DEMO_LASTS)}",
            "api": api,
            "gateway": gateway.url,
            "mqtt": broker.url,
            "btcpay": simulator.url,
            "database": postgres.url,
        }

    async def _bow(self) -> None:
        self._stop.set()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)


_THREE_DAYS_BEFORE_THE_END = """
UPDATE subscriptions SET
    valid_from = valid_from - (valid_until - interval '3 days' - $2::timestamptz),
    valid_until = $2::timestamptz + interval '3 days'
WHERE user_id = $1 AND status = 'active' AND valid_until > $2::timestamptz + interval '3 days'
"""


async def pass_time(pool: Pool, user_id: str) -> bool:
    """Move a user's plan to three days before its end, by SQL of somebody else, as an old gateway would."""
    async with pool.connection() as connection:
        done = await connection.execute(_THREE_DAYS_BEFORE_THE_END, UUID(user_id), utc_now())
        return bool(done == "UPDATE 1")


async def _add_hook(pool: Pool, url: str) -> str:
    """Let the phone's bot be the only endpoint; those of earlier runs are gone with their ports."""
    actions, by = HookActions(pool=pool, clock=utc_now), OperatorAction("demo", "the phone of the demo")
    for listed in await actions.load_all():
        await actions.remove(listed.hook.id, by)
    return (await actions.add(url, EVENTS, texts=TEXTS, allow_private=True, by=by)).secret


def _listen(port: int) -> socket.socket:
    """Return a socket that listens; raises ``CannotListen``."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise CannotListen(f"cannot listen on {HOST} port {port}: {error}") from error


async def _until_ready(daemon: Daemon) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN):
            while True:
                readiness = await daemon.readiness()
                broker = readiness.checks.get("broker")
                if readiness.ok and broker is not None and broker.ok:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Unavailable(f"the demo did not become ready: {await daemon.readiness()}") from None
