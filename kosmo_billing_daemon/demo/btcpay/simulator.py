"""The simulator as Python callers use it: an engine, and an HTTP server that can go away and come back.

The rule it keeps: stopping to listen loses nothing, and the port stays the same, so that a client sees an
outage and not another server.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Self

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay import checkout, greenfield, refund_routes, simulation, webhook_routes
from kosmo_billing_daemon.demo.btcpay.access import ENGINE
from kosmo_billing_daemon.demo.btcpay.actions import act
from kosmo_billing_daemon.demo.btcpay.engine import Engine, ServerClock
from kosmo_billing_daemon.demo.btcpay.faults import Faults
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice
from kosmo_billing_daemon.demo.btcpay.middleware import answer
from kosmo_billing_daemon.demo.btcpay.refunds import SimulatedPayout, SimulatedPullPayment
from kosmo_billing_daemon.demo.btcpay.stores import SimulatedStore
from kosmo_billing_daemon.demo.btcpay.webhooks import BTCPAY_RETRY_WAITS, SimulatedDelivery, Webhooks
from kosmo_billing_daemon.demo.local_http import listen
from kosmo_billing_daemon.runtime.clock import utc_now

_STATIC = Path(__file__).parent / "static"
# BTCPay Server raises Kestrel's request line to this, so that long queries pass.
_MAX_REQUEST_LINE = 8192 * 10 * 5
_SHUTDOWN_SECONDS = 0.1  # requests under way are cut off, as by a crash


class Simulator:
    """A BTCPay Server with one store, or more, and payers that do what they are told."""

    def __init__(
        self,
        *,
        store_id: str,
        api_key: str,
        clock: Callable[[], datetime] = utc_now,
        retry_waits: Sequence[float] = BTCPAY_RETRY_WAITS,
        version: str = "2.4.1",
        seed: int = 0,
    ) -> None:
        chance = Random(seed)  # noqa: S311 - repeatable faults, no secrets
        server_clock = ServerClock(clock)
        webhooks = Webhooks(
            clock=server_clock, retry_waits=retry_waits, user_agent=f"BTCPayServer/{version}", chance=chance
        )
        self._engine = Engine(clock=server_clock, webhooks=webhooks, chance=chance, version=version)
        self.store_id, self.api_key = store_id, api_key
        self.add_store(SimulatedStore(store_id=store_id, api_key=api_key))
        self._runner: web.AppRunner | None = None
        self._host = "127.0.0.1"
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        self._host, self._port = host, port
        await self._engine.open()
        try:
            await self.come_back()
        except BaseException:
            await self._engine.close()
            raise

    async def close(self) -> None:
        """Stop listening and sending; what was queued is lost."""
        self._engine.closing.set()
        await self.go_away()
        await self._engine.close()

    async def go_away(self) -> None:
        """Stop listening and cut every connection; invoices, timers and webhooks go on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def come_back(self) -> None:
        """Listen again on the same port."""
        if self._runner is not None:
            return
        self._runner = await listen(
            self._application(),
            self._host,
            self._port,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            max_line_size=_MAX_REQUEST_LINE,
            max_field_size=_MAX_REQUEST_LINE,
        )
        self._port = self._runner.addresses[0][1]

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def invoices(self) -> Mapping[str, SimulatedInvoice]:
        """Every invoice by id, in order of creation, up to date with the clock."""
        self._engine.run_due()
        return MappingProxyType(self._engine.ledger.by_id)

    @property
    def faults(self) -> Faults:
        return self._engine.faults

    def add_store(self, store: SimulatedStore) -> None:
        """Add a store with its key; equal ids replace."""
        self._engine.stores.add(store)

    def add_key(self, api_key: str, permissions: tuple[str, ...], store_id: str | None = None) -> None:
        """Add a key for a store, by default the first one."""
        self._engine.stores.add_key(api_key, store_id or self.store_id, permissions)

    def revoke_key(self, api_key: str) -> None:
        """Make the server forget a key."""
        del self._engine.stores.keys[api_key]

    def add_webhook(
        self,
        url: str,
        secret: str = "",
        *,
        events: Sequence[str] | None = None,
        automatic_redelivery: bool = True,
        enabled: bool = True,
    ) -> str:
        """Register a webhook, for all events unless some are named, and return its id."""
        webhook = self._engine.webhooks.add(
            self.store_id,
            url,
            secret,
            everything=events is None,
            specific_events=tuple(events or ()),
            automatic_redelivery=automatic_redelivery,
            enabled=enabled,
        )
        return webhook.id

    async def act(
        self, invoice_id: str, action: str, amount: Decimal | str | None = None, method: str | None = None
    ) -> SimulatedInvoice:
        """Do what ``POST /simulate/invoices/{id}`` does; raises ``GreenfieldRefused``."""
        self._engine.run_due()
        invoice = self._engine.invoice(invoice_id)
        act(self._engine, invoice, action, amount, method)
        return invoice

    @property
    def pull_payments(self) -> Mapping[str, SimulatedPullPayment]:
        """Every pull payment by id, in order of creation."""
        return MappingProxyType(self._engine.pull_payments)

    def refund(self, invoice_id: str, **body: Any) -> SimulatedPullPayment:
        """Refund an invoice as the operator of BTCPay does in its pages; all of it unless told otherwise."""
        invoice = self._engine.ledger.by_id[invoice_id]
        return self._engine.refund(invoice, {"refundVariant": "Fiat", **body})

    def claim(self, pull_payment_id: str, amount: Decimal | str | None = None) -> SimulatedPayout:
        """Claim a refund, as the customer does."""
        return self._engine.claim(pull_payment_id, amount, "bc1qclaim")

    def pay_out(self, payout: SimulatedPayout) -> None:
        """Approve and pay a claim."""
        self._engine.pay_out(payout)

    def replace_metadata(self, invoice_id: str, metadata: dict[str, Any]) -> None:
        """Do what ``PUT stores/{id}/invoices/{id}`` does, though the server be away."""
        ledger = self._engine.ledger
        ledger.replace_metadata(ledger.by_id[invoice_id], metadata)

    def set_faults(self, **changes: Any) -> Faults:
        """Switch faults as ``POST /simulate/faults`` does: ``set_faults(webhooks={"hold": True})``."""
        return self._engine.set_faults(changes)

    def advance(self, seconds: float) -> None:
        """Move the server's clock forward and do what became due."""
        self._engine.advance(timedelta(seconds=seconds))

    async def restart(self) -> None:
        """Lose queued webhooks and pending retries, as a restart does."""
        await self._engine.restart()

    def deliveries(self, webhook_id: str) -> list[SimulatedDelivery]:
        """Return the attempted deliveries of a webhook, newest first."""
        return self._engine.webhooks.deliveries(webhook_id)

    async def drained(self) -> None:
        """Wait until every queued webhook was sent or given up."""
        await self._engine.webhooks.drained()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[answer])
        application[ENGINE] = self._engine
        store_less = self._engine.hides_unknown_ids
        for calls in (greenfield, refund_routes, webhook_routes):
            application.add_routes(calls.routes(store_less=store_less))
        application.add_routes(simulation.routes())
        application.add_routes(checkout.routes())
        application.router.add_static("/static/", _STATIC)
        return application
