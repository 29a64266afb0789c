"""The operator's console on a real database and a simulated BTCPay, and operators who are logged in."""

import html
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from playwright.async_api import Browser, async_playwright

from kosmo_billing_daemon.admin.access import ConsoleAccess
from kosmo_billing_daemon.admin.actions import AdminActions
from kosmo_billing_daemon.admin.extending import Extending
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.console.app import build_console
from kosmo_billing_daemon.console.desk import Desk
from kosmo_billing_daemon.console.forms import OperatorForm
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.store.postgres import Database, Pool
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.server.serving import serve
from tests.support.chromium import ARGUMENTS, PROGRAM
from tests.support.node import node_modules

STORE = "StoreOne"
KEY = "a1" * 20
HOSTILE = "<img src=x onerror=alert(1)>'\"&"
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')
_INPUT = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
_CONFIRM = re.compile(r'name="confirm" value="([^"]+)"')


def text(page: str) -> str:
    """What is read, one blank between words."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


@dataclass
class MovedClock:
    """The system's clock, moved by hand."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@dataclass(frozen=True)
class Shown:
    """One answer of the console."""

    status: int
    headers: CIMultiDictProxy[str]
    text: str

    @property
    def location(self) -> str:
        return self.headers["Location"]

    @property
    def csrf(self) -> str:
        found = _CSRF.search(self.text)
        assert found is not None, self.text
        return found[1]

    @property
    def hidden(self) -> dict[str, str]:
        """The hidden fields of the page's own form, which comes last, and its confirmation."""
        form = self.text.rpartition("<form")[2]
        fields = {name: html.unescape(value) for name, value in _INPUT.findall(form)}
        confirmation = _CONFIRM.search(form)
        return fields if confirmation is None else {**fields, "confirm": confirmation[1]}


@dataclass
class Visitor:
    """A browser without a screen: keeps cookies, follows nothing, and says where its forms come from."""

    url: str
    http: aiohttp.ClientSession
    own: Mapping[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, **more: Any) -> Shown:
        async with self.http.request(method, f"{self.url}{path}", allow_redirects=False, **more) as response:
            return Shown(response.status, response.headers, await response.text())

    async def get(self, path: str, **headers: str) -> Shown:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, form: Mapping[str, str], **headers: str) -> Shown:
        return await self.ask("POST", path, data=form, headers={"Origin": self.url, **headers})

    async def send(self, path: str, form: Mapping[str, str]) -> Shown:
        """Fill in the form of a page and press its first button."""
        return await self.post(path, {**(await self.get(path)).hidden, **form})

    async def carry_out(self, path: str, form: Mapping[str, str]) -> Shown:
        """Fill in an action, look at its preview, and confirm it; the answer is the page it leads to."""
        preview = await self.send(path, form)
        assert "confirm" in preview.hidden, preview.text
        done = await self.post(path, preview.hidden)
        assert done.status == 303, done.text
        return await self.get(done.location)

    @property
    def cookie(self) -> str:
        (cookie,) = (cookie for cookie in self.http.cookie_jar if cookie.key == "kosmo_console")
        return cookie.value


@dataclass
class ConsoleShop:
    """The running console, and the parts a test looks into or sets up a shop with."""

    url: str
    pool: Pool
    clock: MovedClock
    access: ConsoleAccess
    operations: AdminActions
    settlement: Settlement
    simulator: Simulator
    _stack: AsyncExitStack

    async def visitor(self) -> Visitor:
        """Somebody without a session."""
        jar = aiohttp.CookieJar(unsafe=True)  # addresses count as hosts
        session = await self._stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
        return Visitor(self.url, session)

    async def operator(self, who: str = "alice") -> Visitor:
        """Somebody who is logged in."""
        visitor = await self.visitor()
        entered = await visitor.post("/admin/login", {"token": await self.access.invite(who)})
        assert entered.status == 303, entered.text
        return visitor

    async def execute(self, statement: str, *values: object) -> str:
        async with self.pool.connection() as connection:
            return str(await connection.execute(statement, *values))

    async def value(self, query: str, *values: object) -> Any:
        async with self.pool.connection() as connection:
            return await connection.fetchval(query, *values)


class ConsoleStarter:
    """Starts the console as often as a test wants."""

    def __init__(self, database_url: str, stack: AsyncExitStack) -> None:
        self._database_url = database_url
        self._stack = stack

    async def __call__(self, *forms: OperatorForm) -> ConsoleShop:
        """Start it with these actions beside its own."""
        enter = self._stack.enter_async_context
        simulator = await enter(Simulator(store_id=STORE, api_key=KEY))
        pool = await enter(Pool(Database(url=self._database_url, connect_timeout=2)))
        btcpay = await enter(BtcpayClient(url=simulator.url, api_key=KEY, store_id=STORE))
        clock = MovedClock()
        settlement = Settlement(
            pool=pool, btcpay=btcpay, store_id=STORE, clock=clock, changed=lambda: None, credit=True
        )
        operations = AdminActions(pool=pool, settlement=settlement, catalogue=BUILT_IN, clock=clock)

        desk = Desk(
            pool=pool,
            clock=clock,
            access=ConsoleAccess(pool=pool, clock=clock),
            operations=operations,
            extending=Extending(pool=pool, clock=clock, remind_hours=(168, 72, 24)),
            renewals=AutoRenewals(pool=pool, clock=clock, catalogue=BUILT_IN, spends=True),
            settlement=settlement,
            links=RenewalLinks(pool=pool, clock=clock, key=b"key", public_url="https://b.example"),
            readiness=ready,
        )
        return await serve_desk(self._stack, desk, simulator, *forms, clock=clock)


async def serve_desk(
    stack: AsyncExitStack,
    desk: Desk,
    simulator: Simulator,
    *forms: OperatorForm,
    clock: MovedClock | None = None,
) -> ConsoleShop:
    """Serve the console of these parts until the stack is closed."""
    app = build_console(desk)
    for form in forms:
        app.add_routes(form.routes())
    runner, port = await serve(app, host="127.0.0.1", port=0)
    stack.push_async_callback(runner.cleanup)
    return ConsoleShop(
        url=f"http://127.0.0.1:{port}",
        pool=desk.pool,
        clock=clock or MovedClock(),
        access=desk.access,
        operations=desk.operations,
        settlement=desk.settlement,
        simulator=simulator,
        _stack=stack,
    )


async def ready() -> Readiness:
    """A daemon that is well but for its broker."""
    checks = {
        "database": Check(ok=True, detail="answers"),
        "broker": Check(ok=False, detail="<b>not connected</b> since 2 min"),
    }
    return Readiness(ok=True, checks=checks)


@pytest.fixture
async def start_console(database_url: str) -> AsyncIterator[ConsoleStarter]:
    async with AsyncExitStack() as stack:
        yield ConsoleStarter(database_url, stack)


@pytest.fixture
async def shop(start_console: ConsoleStarter) -> ConsoleShop:
    """The console of an empty shop."""
    return await start_console()


@pytest.fixture
async def alice(shop: ConsoleShop) -> Visitor:
    """An operator who is logged in."""
    return await shop.operator()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=PROGRAM, args=[*ARGUMENTS])
        yield chromium
        await chromium.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script that finds what keeps people out."""
    modules = node_modules(Path(__file__).parents[1] / "web" / "axe" / "package.json")
    return (modules / "axe-core" / "axe.min.js").read_text()
