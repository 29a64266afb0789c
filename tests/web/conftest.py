"""The HTTP service on a real database and a simulated BTCPay, without the loops of a leader."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Self
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import SecretStr

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.signature import sign
from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue
from kosmo_billing_daemon.runtime.clock import Clock, utc_now
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.runtime.metrics import Metrics, Reading
from kosmo_billing_daemon.runtime.rate_limit import RateLimit
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.services.inbox import Inbox
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.reconciliation import Reconciliation
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.services.streams import EntitlementStreams
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.settings import Http, Proxies, WebhookSettings, WebhookTrust
from kosmo_billing_daemon.store.postgres import Database, Pool
from kosmo_billing_daemon.web import metrics
from kosmo_billing_daemon.web.app import OPERATIONS, build_app
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.keys import WebServices
from kosmo_billing_daemon.web.openapi import problem_codes
from kosmo_billing_daemon.web.server.admission import Admission
from kosmo_billing_daemon.web.server.serving import KEEPALIVE_SECONDS, serve
from tests.web.record import Record

STORE = "StoreOne"
KEY = "a1" * 20
SECRET = "present secret"
OLD_SECRET = "former secret"
HOOK = "/webhooks/btcpay"
CODES = problem_codes(OPERATIONS)
LOOPBACK = Proxies((ip_network("127.0.0.0/8"), ip_network("::1")))


READY = Readiness(ok=True, checks={"database": Check(ok=True, detail="answers")})


def told(readiness: Readiness) -> Callable[[], Awaitable[Readiness]]:
    async def tell() -> Readiness:
        return readiness

    return tell


ALL_IS_WELL = told(READY)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        """The problem's code; only problems have one."""
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.body["status"] == self.status
        assert self.body["request_id"] == self.headers["X-Request-ID"]
        assert self.body["code"] in CODES
        return str(self.body["code"])

    @property
    def fields(self) -> list[str]:
        return [error["field"] for error in self.body["errors"]]


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@dataclass(frozen=True)
class Service:
    """The running service, and the parts a test looks into."""

    url: str
    session: aiohttp.ClientSession
    pool: Pool
    reconciliation: Reconciliation
    simulator: Simulator
    runner: web.AppRunner
    live: EntitlementStreams
    admission: Admission

    async def ask(
        self,
        method: str,
        path: str,
        *,
        user: UUID | str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        """Send a request below the prefix; other paths are given as they are, with two slashes."""
        named = CIMultiDict(headers or {})
        if user is not None:
            named.add("X-User-ID", str(user))
        url = self.url + (path[1:] if path.startswith("//") else API + path)
        async with self.session.request(method, url, headers=named, **more) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def buy(self, user: UUID, plan_type: str, **more: Any) -> Answer:
        return await self.ask("POST", "/invoices", user=user, json={"plan_type": plan_type, **more})

    async def hook(
        self, body: bytes | Mapping[str, Any], *, secret: str | None = SECRET, **more: Any
    ) -> Answer:
        """Deliver a webhook, signed unless ``secret`` is None."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if secret is None else {"BTCPay-Sig": sign(raw, secret.encode())}
        return await self.ask("POST", HOOK, data=raw, headers={**headers, **more.pop("headers", {})}, **more)

    async def subscribe(self, user: UUID, plan_type: str) -> None:
        """Buy and pay a plan, and let it be settled."""
        invoice = (await self.buy(user, plan_type)).body
        await self.simulator.act(invoice["invoice_id"], "pay")
        await self.simulator.act(invoice["invoice_id"], "confirm")
        told = {"deliveryId": str(uuid4()), "type": "InvoiceSettled", "invoiceId": invoice["invoice_id"]}
        assert (await self.hook(told)).status == 200
        assert await self.reconciliation.run_once() == 1

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        async with self.pool.connection() as connection:
            return list(await connection.fetch(sql, *arguments))


class Starter:
    """Starts services for one test; each closes when the test ends."""

    def __init__(self, database_url: str, simulator: Simulator, record: Record) -> None:
        self._record = record
        self._database_url = database_url
        self._simulator = simulator
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def __call__(
        self,
        *,
        secrets: tuple[str, ...] = (SECRET, OLD_SECRET),
        trust: WebhookTrust = WebhookTrust.BTCPAY,
        database_url: str | None = None,
        sockets: Sequence[socket.socket] = (),
        clock: Clock = utc_now,
        document_clock: Clock = utc_now,
        readiness: Callable[[], Awaitable[Readiness]] = ALL_IS_WELL,
        body_seconds: float = 30.0,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        beat: float = 15.0,
        longest: float = 3600.0,
        most_streams: int = 100,
        admission: Admission | None = None,
        invoice_rate: int = 10,
        new_nodes_per_day: int = 100,
        catalogue: Catalogue = BUILT_IN,
        **http: Any,
    ) -> Service:
        pool = await self._stack.enter_async_context(
            Pool(Database(url=database_url or self._database_url, connect_timeout=2))
        )
        btcpay = await self._stack.enter_async_context(
            BtcpayClient(url=self._simulator.url, api_key=KEY, store_id=STORE)
        )
        live = EntitlementStreams(
            pool=pool, clock=document_clock, beat=beat, longest=longest, most=most_streams
        )
        admission = admission or Admission()
        settlement = Settlement(
            pool=pool,
            btcpay=btcpay,
            store_id=STORE,
            clock=clock,
            changed=live.wake,
            trust_body=trust is WebhookTrust.BODY,
        )
        numbers = Metrics("0")

        async def expose() -> bytes:
            return numbers.expose(Reading())

        services = WebServices(
            pool=pool,
            invoicing=Invoicing(
                pool=pool,
                btcpay=btcpay,
                settlement=settlement,
                clock=clock,
                limit=RateLimit(invoice_rate),
            ),
            inbox=Inbox(pool=pool, wake=lambda: True),
            entitlements=Entitlements(pool=pool, clock=document_clock),
            whitelist=Whitelist(pool=pool, clock=clock, changed=live.wake, new_per_day=new_nodes_per_day),
            links=RenewalLinks(pool=pool, clock=clock, key=b"key", public_url=http.get("public_url")),
            renewals=AutoRenewals(pool=pool, clock=clock, catalogue=catalogue, spends=settlement.credit),
            streams=live,
            catalogue=catalogue,
            clock=clock,
        )
        app = build_app(
            services,
            http=Http(**{"trusted_proxies": LOOPBACK, **http}),
            webhook=WebhookSettings(secrets=tuple(map(SecretStr, secrets)), trust=trust),
            readiness=readiness,
            body_seconds=body_seconds,
        )
        metrics.install(app, numbers, expose)
        app.on_response_prepare.append(self._record.note)
        runner, port = await serve(
            app,
            host="127.0.0.1",
            port=0,
            sockets=sockets,
            keepalive_seconds=keepalive_seconds,
            admission=admission,
        )
        self._stack.push_async_callback(runner.cleanup)
        pushing = asyncio.create_task(live.run())
        self._stack.push_async_callback(_ended, pushing)
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        url = f"http://127.0.0.1:{port}"
        reconciliation = Reconciliation(pool=pool, settlement=settlement, clock=clock)
        return Service(url, session, pool, reconciliation, self._simulator, runner, live, admission)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(store_id=STORE, api_key=KEY) as running:
        yield running


@pytest.fixture
async def start(database_url: str, simulator: Simulator) -> AsyncIterator[Starter]:
    """Starts a service with the settings a test wants; whatever it answers must be documented."""
    record = Record()
    async with Starter(database_url, simulator, record) as starter:
        yield starter
    assert not record.undocumented


@pytest.fixture
async def service(start: Starter) -> Service:
    """A service that demands signed webhooks and trusts loopback to name users."""
    return await start()


@pytest.fixture
def user() -> UUID:
    return uuid4()
