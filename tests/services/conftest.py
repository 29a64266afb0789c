"""The services on a real database and a simulated BTCPay, wired by hand, on a clock moved by hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Self
from uuid import uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.payloads import hint
from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.demo.btcpay import SimulatedInvoice as Payable
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.expiry import Expiry
from kosmo_billing_daemon.services.inbox import Inbox
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.reconciliation import Reconciliation
from kosmo_billing_daemon.services.recounting import Recounting
from kosmo_billing_daemon.services.reservations import ORPHANED_AFTER
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.store import invoices, lookups, quotes
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.deliveries import Delivery
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.demo.btcpay.conftest import HandClock

STORE = "StoreOne"
KEY = "a1" * 20
DEADLINE = 10.0
PUBLIC = "https://billing.kosmoconnect.example"
STEPS = (168, 72, 24)  # hours
TIMEOUTS = Timeouts(connect=2, call=5, create=5)
IMPATIENT = Timeouts(connect=2, call=5, create=0.5)  # for creations whose answer never comes


@dataclass(frozen=True)
class Daemon:
    """The services of one process. ``changes`` counts how often somebody was woken."""

    pool: Pool
    btcpay: BtcpayClient
    settlement: Settlement
    invoicing: Invoicing
    reconciliation: Reconciliation
    renewals: AutoRenewals
    expiry: Expiry
    recounting: Recounting
    inbox: Inbox
    changes: list[None]

    async def open(self, user_id: UserId, plan_type: str) -> tuple[Invoice, bool]:
        """Return an open invoice for a plan, and whether it is new."""
        opened = await self.invoicing.open(user_id, self.renewals.catalogue.require(plan_type), None)
        return opened.invoice, opened.is_new

    async def settle(self) -> int:
        """Make lookups until none is due; returns how many there were."""
        total = 0
        while made := await self.reconciliation.run_once():
            total += made
        return total

    async def expire(self) -> int:
        """End and announce subscriptions until none is due."""
        total = 0
        while done := await self.expiry.run_once():
            total += done
        return total

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        async with self.pool.connection() as connection:
            return list(await connection.fetch(sql, *arguments))

    async def execute(self, sql: str, *arguments: Any) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(sql, *arguments)

    async def invoice(self, invoice_id: InvoiceId) -> Any:
        (row,) = await self.rows("SELECT * FROM btcpay_invoices WHERE id = $1", invoice_id)
        return row

    async def events(self, user_id: UserId) -> list[str]:
        """The types of a user's events in order: every one there is."""
        rows = await self.rows("SELECT type FROM events WHERE user_id = $1 ORDER BY id", user_id)
        return [row["type"] for row in rows]

    async def subscriptions(self, user_id: UserId) -> list[Any]:
        return await self.rows(
            "SELECT s.*, q.plan_type FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id"
            " WHERE user_id = $1 ORDER BY number",
            user_id,
        )

    async def statuses(self, user_id: UserId) -> list[str]:
        return [row["status"] for row in await self.subscriptions(user_id)]

    async def cases(self, user_id: UserId) -> list[tuple[str, Decimal | None, bool]]:
        """A user's cases: kind, amount, and whether it is still open."""
        rows = await self.rows("SELECT * FROM attention_cases WHERE user_id = $1 ORDER BY id", user_id)
        return [(row["kind"], row["amount"], row["closed_at"] is None) for row in rows]


@dataclass
class Shop:
    """A BTCPay, a database, and daemons on both; webhooks go to the daemon in ``front``."""

    simulator: Simulator
    clock: HandClock
    database_url: str
    hook: str = ""
    bodies: list[bytes] = field(default_factory=list)
    _front: Daemon | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/hook", self._receive)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.hook = self.simulator.add_webhook(f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def front(self) -> Daemon:
        assert self._front is not None, "no daemon was started"
        return self._front

    async def start(
        self,
        *,
        trust_body: bool = False,
        catalogue: Catalogue = BUILT_IN,
        btcpay_url: str | None = None,
        timeouts: Timeouts = TIMEOUTS,
        credit: bool = False,
    ) -> Daemon:
        """Start a daemon with objects of its own; from now on it receives the webhooks."""
        pool = await self._stack.enter_async_context(
            Pool(Database(url=self.database_url, connect_timeout=2, most_connections=6))
        )
        btcpay = await self._stack.enter_async_context(
            BtcpayClient(
                url=btcpay_url or self.simulator.url,
                api_key=KEY,
                store_id=STORE,
                timeouts=timeouts,
                clock=self.clock,
            )
        )
        changes: list[None] = []
        settlement = Settlement(
            pool=pool,
            btcpay=btcpay,
            store_id=STORE,
            clock=self.clock,
            changed=lambda: changes.append(None),
            trust_body=trust_body,
            credit=credit,
        )
        links = RenewalLinks(pool=pool, clock=self.clock, key=b"key", public_url=PUBLIC)
        renewals = AutoRenewals(pool=pool, clock=self.clock, catalogue=catalogue, spends=credit)
        self._front = Daemon(
            pool=pool,
            btcpay=btcpay,
            settlement=settlement,
            invoicing=Invoicing(pool=pool, btcpay=btcpay, settlement=settlement, clock=self.clock),
            reconciliation=Reconciliation(pool=pool, settlement=settlement, clock=self.clock),
            renewals=renewals,
            expiry=Expiry(
                pool=pool,
                clock=self.clock,
                remind_hours=STEPS,
                links=links,
                renewals=renewals,
                changed=lambda: changes.append(None),
            ),
            recounting=Recounting(pool=pool, clock=self.clock, changed=lambda: changes.append(None)),
            inbox=Inbox(pool=pool, wake=lambda: True),
            changes=changes,
        )
        return self._front

    async def open(self, user_id: UserId, plan_type: str = "wanderer") -> Invoice:
        """Open an invoice, and let its first webhook pass."""
        invoice, _ = await self.front.open(user_id, plan_type)
        await self.told()
        return invoice

    async def act(self, invoice: Invoice, *actions: str, amount: str | None = None) -> None:
        """Let the payer or the operator of BTCPay do something, each with all that follows from it."""
        for action in actions:
            await self.simulator.act(self.btcpay_id(invoice), action, amount)
            await self.told()

    async def lightning(self, invoice: Invoice, amount: str | None = None) -> None:
        await self.simulator.act(self.btcpay_id(invoice), "pay", amount, "BTC-LN")
        await self.told()

    async def buy(self, user_id: UserId, plan_type: str = "wanderer") -> Invoice:
        """Open and pay an invoice."""
        invoice = await self.open(user_id, plan_type)
        await self.lightning(invoice)
        return invoice

    async def told(self) -> int:
        """Let every webhook arrive and settle; returns how many deliveries were handled."""
        await self.simulator.drained()
        return await self.front.settle()

    async def wait(self, **duration: float) -> None:
        """Let time pass in one step, with all that is due at its end."""
        self.clock.move(**duration)
        assert self.simulator.invoices is not None  # looking brings the simulator up to date
        await self.told()
        await self.front.expire()

    def at_btcpay(self, invoice: Invoice) -> Payable:
        return self.simulator.invoices[self.btcpay_id(invoice)]

    def btcpay_id(self, invoice: Invoice) -> str:
        assert invoice.btcpay_invoice_id is not None
        return invoice.btcpay_invoice_id

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        await self.front.inbox.record(self.delivery(body))
        return web.Response()

    def delivery(self, body: bytes, delivery_id: str | None = None) -> Delivery:
        """The row that a webhook's body becomes."""
        read = hint(body)
        return Delivery(
            delivery_id=delivery_id or read.delivery_id or str(uuid4()),
            received_at=self.clock(),
            type=read.type,
            btcpay_invoice_id=read.invoice_id,
            order_id=read.order_id,
            store_id=read.store_id,
            pull_payment_id=read.pull_payment_id,
            claimed_status=read.claimed_status,
        )


async def until(fact: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until ``fact`` holds; fail with ``what`` after some seconds."""
    deadline = time.monotonic() + DEADLINE
    while not await fact():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.01)


async def everything(daemon: Daemon) -> dict[str, list[tuple[Any, ...]]]:
    """What is kept for ever, without what may differ between two ways to the same end: times and row ids."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table, columns, order in (
        (
            "btcpay_invoices",
            "id, user_id, quote_id, status, payment, effect, btcpay_invoice_id, paid_amount",
            1,
        ),
        ("subscriptions", "invoice_id, user_id, source, quote_id, status, messages_limit", 1),
        ("attention_cases", "invoice_id, kind, amount, closed_at IS NULL", "1, 2"),
    ):
        rows = await daemon.rows(f"SELECT {columns} FROM {table} ORDER BY {order}")  # noqa: S608  constants
        found[table] = [tuple(row) for row in rows]
    # A balance may have been below zero for a while, by the way in which things came.
    found["attention_cases"] = [
        row for row in found["attention_cases"] if row[3] or row[1] != "negative_balance"
    ]
    sums = await daemon.rows(
        "SELECT user_id, kind, currency, sum(amount) FROM ledger GROUP BY 1, 2, 3 HAVING sum(amount) <> 0"
        " ORDER BY 1, 2, 3"
    )
    found["ledger"] = [tuple(row) for row in sums]
    return found


def carried(rows: Sequence[Any]) -> list[tuple[str, timedelta, int]]:
    """What each subscription took over from its predecessor."""
    return [(row["carried_rule"], row["carried_time"], row["carried_messages"]) for row in rows]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def simulator(clock: HandClock) -> AsyncIterator[Simulator]:
    async with Simulator(store_id=STORE, api_key=KEY, clock=clock, retry_waits=(0.01,) * 8) as running:
        yield running


@pytest.fixture
async def shop(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    """A shop with one daemon."""
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start()
        yield opened


@pytest.fixture
def user() -> UserId:
    return UserId(uuid4())


async def reserve(shop: Shop, user: UserId) -> InvoiceId:
    """Leave the reservation of a daemon that died before it asked BTCPay."""
    now = shop.clock()
    plan = BUILT_IN.plans[0]
    reserved = Invoice(
        id=InvoiceId(uuid4()), user_id=user, plan=plan, status=InvoiceStatus.RESERVED, created_at=now
    )
    check_at = now + ORPHANED_AFTER
    async with shop.front.pool.transaction() as connection:
        await combine(
            connection,
            [
                quotes.save_statement([plan]),
                invoices.reserve_statement([reserved], check_at),
                lookups.append_statement([(check_at, reserved.id)]),
            ],
        )
    return reserved.id


async def nothing_more(_connection: object, _invoice: object, _now: object) -> None:
    """What a settlement by hand writes beside itself, where a test does not care."""
