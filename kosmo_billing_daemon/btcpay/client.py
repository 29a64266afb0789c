"""The calls we make to BTCPay, named for what is called.

The rule it keeps: every call ends within its deadline, in a value or in an error that says what to do, and
the API key appears in the request header and nowhere else. Reads are tried twice; a creation never is,
since BTCPay has no idempotency: whoever gets ``CreationUnknown`` looks the order id up first.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from kosmo_billing_daemon.btcpay import administration, answers, payloads
from kosmo_billing_daemon.btcpay.addresses import MAX_BASE_URL, Links, is_opaque, opaque, require_usable
from kosmo_billing_daemon.btcpay.administration import BtcpayServer, DeliveryAttempt, RegisteredWebhook, Store
from kosmo_billing_daemon.btcpay.errors import (
    BtcpayAway,
    BtcpayDenied,
    BtcpayRefused,
    CreationUnknown,
    Garbled,
)
from kosmo_billing_daemon.btcpay.health import BtcpayState, Call, CallScope, Health, Question, Vigil
from kosmo_billing_daemon.btcpay.timeouts import DEFAULT_TIMEOUTS, Timeouts
from kosmo_billing_daemon.domain.invoices import Observation
from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.runtime.backoff import Backoff
from kosmo_billing_daemon.runtime.clock import Clock, utc_now

if TYPE_CHECKING:
    from kosmo_billing_daemon.btcpay.wire import BtcpayWire

ORDERS_PER_CALL: Final = (8_192 - 2 * MAX_BASE_URL) // len("&orderId=00000000-0000-0000-0000-000000000000")
"""Order ids in one list call (159): web servers and proxies refuse a request line over 8,192 bytes, and
the base URL, store id and the rest of the line take their part of it."""

_TRIES: Final = 2


class BtcpayClient:
    """One store of one BTCPay server. ``public_url`` is where customers reach it, if not at ``url``.

    Safe for concurrent calls; holds its connections between ``async with``.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key: str,
        store_id: str,
        public_url: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        clock: Clock = utc_now,
    ) -> None:
        require_usable(url, api_key, store_id, public_url)
        self._url = url.rstrip("/")
        self._key = api_key
        self.store_id = store_id
        self._store = f"/api/v1/stores/{store_id}"
        self._invoices = f"{self._store}/invoices"
        self._webhooks = f"{self._store}/webhooks"
        self.links = Links.of(self._url, public_url)
        self._timeouts = timeouts
        self._clock = clock
        self._health = Health(clock)
        reads = Question(ask=self.probe, every=timeouts.idle, again=timeouts.again)
        creations = Question(ask=self.try_creation, every=None, again=timeouts.lull)
        self._vigil = Vigil(self._health, {CallScope.READ: reads, CallScope.CREATE: creations})
        self._wire: BtcpayWire | None = None
        self._is_open = self._is_closed = False

    def __repr__(self) -> str:
        return f"BtcpayClient(url={self._url!r}, store_id={self.store_id!r})"

    async def __aenter__(self) -> Self:
        self._is_open = True
        self._vigil.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closed = True
        await self._vigil.end()
        if self._wire is not None:
            await self._wire.close()

    def connect(self) -> "BtcpayWire":
        """Load what calls need, which the first one does otherwise."""
        # Not at the top: most commands ask BTCPay nothing, and aiohttp would take half of their start.
        from kosmo_billing_daemon.btcpay.wire import BtcpayWire  # noqa: PLC0415

        self._wire = BtcpayWire(self._url, self._key, self._timeouts)
        return self._wire

    @property
    def state(self) -> BtcpayState:
        """How the last calls went."""
        return self._health.state

    async def create_invoice(
        self,
        order_id: UUID,
        plan: Plan,
        *,
        asked: Price | None = None,
        redirect_url: str | None = None,
        expiration: timedelta | None = None,
    ) -> Observation:
        """Create an invoice carrying our id, over the plan's price unless something else is ``asked``.

        Raises ``CreationUnknown`` if it may exist all the same.
        """
        body = payloads.creation(
            order_id, plan, asked=asked or plan.price, redirect_url=redirect_url, expiration=expiration
        )
        try:
            async with self._call("create_invoice", CallScope.CREATE, seconds=self._timeouts.create):
                created = await self._exchange("POST", self._invoices, body=body)
                (seen,) = payloads.of_orders([payloads.observation(created, links=self.links)], [order_id])
                return seen
        except BtcpayAway as error:
            if not error.reached:
                raise
            raise CreationUnknown(error.message, retry_after=error.retry_after) from error

    async def try_creation(self) -> None:
        """Ask for an invoice BTCPay must refuse: if it does, creations reach it and our key may create."""
        async with self._call("try_creation", CallScope.CREATE):
            try:
                await self._exchange("POST", self._invoices, body=payloads.IMPOSSIBLE_CREATION)
            except BtcpayRefused as error:
                if not any(complaint.path for complaint in error.complaints):
                    raise
                return
            raise Garbled("body", "an invoice of less than nothing was accepted")

    async def probe(self) -> None:
        """Read one invoice of the store, or see that it has none."""
        async with self._call("probe", CallScope.READ):
            payloads.sample(await self._read(self._invoices, {"take": "1"}), self.store_id)

    async def find_invoices(self, order_ids: Sequence[UUID]) -> list[Observation]:
        """Return every invoice that carries one of these order ids, archived ones too.

        ``Garbled`` carries what was readable; an order it does not name was read, or has no invoice.
        """
        wanted = list(dict.fromkeys(order_ids))
        chunks = [wanted[at : at + ORDERS_PER_CALL] for at in range(0, len(wanted), ORDERS_PER_CALL)]
        if not chunks:
            return []
        async with self._call("find_invoices", CallScope.READ):
            return payloads.joined(
                await asyncio.gather(*(self._find(chunk) for chunk in chunks), return_exceptions=True)
            )

    async def fetch_invoice(self, btcpay_id: str) -> Observation | None:
        """Return one invoice of our store, or ``None`` if it has none of that id."""
        if not is_opaque(btcpay_id):
            return None
        async with self._call("fetch_invoice", CallScope.READ_ONE):
            try:
                document = await self._read(f"{self._invoices}/{btcpay_id}")
            except BtcpayRefused as error:
                if error.btcpay_code != "invoice-not-found":
                    raise
                return None
            except BtcpayDenied as error:
                if error.unauthenticated:
                    raise
                # From 2.4.0 an unknown id is answered like a missing right. A list of the same store needs
                # the same right, of the key and of its user, and no id: if that is denied too, this raises.
                await self._read(self._invoices, {"orderId": btcpay_id, "take": "1"})
                return None
            return payloads.of_id(payloads.observation(document, links=self.links), btcpay_id)

    async def fetch_confirmations(self, seen: Observation) -> Observation:
        """Return the observation with ``confirmed_amount`` and ``last_received_at`` from its payments."""
        async with self._call("fetch_confirmations", CallScope.READ_ONE):
            methods = await self._read(
                f"{self._invoices}/{opaque(seen.btcpay_invoice_id)}/payment-methods",
                {"onlyAccountedPayments": "true"},
            )
            return payloads.confirmed(seen, methods, self._clock())

    async def fetch_payment_options(self, btcpay_id: str) -> tuple[payloads.PaymentOption, ...]:
        """Return how an open invoice can be paid without BTCPay's own checkout."""
        path = f"{self._invoices}/{opaque(btcpay_id)}/payment-methods"
        async with self._call("fetch_payment_options", CallScope.READ_ONE):
            return payloads.payment_options(await self._read(path))

    async def mark(self, btcpay_id: str, *, settled: bool) -> Observation:
        """Mark an invoice Settled or Invalid by hand; ``BtcpayRefused`` where its state does not allow it."""
        async with self._call("mark"):
            body = {"status": "Settled" if settled else "Invalid"}
            marked = await self._exchange("POST", f"{self._invoices}/{opaque(btcpay_id)}/status", body=body)
            return payloads.of_id(payloads.observation(marked, links=self.links), btcpay_id)

    async def server_info(self) -> BtcpayServer:
        async with self._call("server_info"):
            return administration.server(await self._read("/api/v1/server/info"))

    async def current_key(self) -> frozenset[str]:
        """Return the permissions of our key, some with ``:STOREID`` behind them."""
        async with self._call("current_key"):
            return administration.permissions(await self._read("/api/v1/api-keys/current"))

    async def fetch_store(self) -> Store:
        """Return our store; needs ``btcpay.store.canviewstoresettings``."""
        async with self._call("fetch_store"):
            return administration.store(await self._read(self._store))

    async def payment_methods(self) -> dict[str, bool]:
        """Return which payment methods the store has, and whether each is enabled."""
        async with self._call("payment_methods"):
            return administration.payment_methods(await self._read(f"{self._store}/payment-methods"))

    async def list_webhooks(self) -> list[RegisteredWebhook]:
        async with self._call("list_webhooks"):
            return administration.webhooks(await self._read(self._webhooks))

    async def create_webhook(
        self, url: str, *, secret: str | None = None, events: Sequence[str] | None = None
    ) -> RegisteredWebhook:
        """Register a webhook, for all events unless some are named. The answer holds the secret, once.

        BTCPay does not merge equal addresses: list first, or deliveries come twice.
        """
        body = administration.webhook_settings(
            url=url, enabled=True, automatic_redelivery=True, events=events, secret=secret
        )
        async with self._call("create_webhook"):
            return administration.webhook(await self._exchange("POST", self._webhooks, body=body))

    async def update_webhook(
        self, webhook: RegisteredWebhook, *, secret: str | None = None
    ) -> RegisteredWebhook:
        """Make the webhook of that id be as given, all of it; without ``secret`` the old one stays."""
        body = administration.webhook_settings(
            url=webhook.url,
            enabled=webhook.enabled,
            automatic_redelivery=webhook.automatic_redelivery,
            events=None if webhook.everything else webhook.events,
            secret=secret,
        )
        async with self._call("update_webhook"):
            path = f"{self._webhooks}/{opaque(webhook.id)}"
            return administration.webhook(await self._exchange("PUT", path, body=body))

    async def list_deliveries(self, webhook_id: str, count: int = 10) -> list[DeliveryAttempt]:
        """Return the last attempted deliveries, newest first."""
        async with self._call("list_deliveries"):
            path = f"{self._webhooks}/{opaque(webhook_id)}/deliveries"
            return administration.delivery_attempts(await self._read(path, {"count": str(count)}))

    async def ask(
        self, name: str, path: str, *, method: str = "GET", body: Mapping[str, Any] | None = None
    ) -> Any:
        """Make a call that another module reads; ``path`` is below the store if it begins with no slash."""
        async with self._call(name):
            where = path if path.startswith("/") else f"{self._store}/{path}"
            return await (self._read(where) if method == "GET" else self._exchange(method, where, body=body))

    def _call(self, name: str, scope: CallScope = CallScope.OTHER, *, seconds: float | None = None) -> Call:
        return Call(name, scope, seconds or self._timeouts.call, self._health)

    async def _find(self, order_ids: Sequence[UUID]) -> list[Observation]:
        wanted = "&".join(f"orderId={order_id}" for order_id in order_ids)  # nothing in them to be quoted
        found = await self._read(f"{self._invoices}?{wanted}&includeArchived=true")
        return payloads.of_orders(payloads.observations(found, links=self.links), order_ids)

    async def _read(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """GET, once more if no usable answer came and we were not told to wait."""
        backoff = Backoff(first=0.2, most=1.0)
        for _ in range(_TRIES - 1):
            try:
                return await self._exchange("GET", path, params)
            except BtcpayAway as error:
                if error.told_to_wait:
                    raise
                await asyncio.sleep(backoff.failed())
        return await self._exchange("GET", path, params)

    async def _exchange(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._is_closed:  # a daemon that stops waits only so long for what nobody waits for any more
            raise BtcpayAway("the connection to BTCPay is closed", reached=False)
        if not self._is_open:
            raise RuntimeError("the client is not open; use it in 'async with'")
        answer = await (self._wire or self.connect()).exchange(
            method, path, params, None if body is None else json.dumps(body).encode()
        )
        if 200 <= answer.status <= 299:
            if method == "DELETE" and not answer.body:  # nothing is said of what is gone
                return None
            return answers.document(answer.status, answer.headers.get("content-type", ""), answer.body)
        # A proxy that echoes our request in its error page must not bring the key into a message.
        # Real keys have 40 characters; replacing a short one of a test would garble the words instead.
        safe = answer.body.replace(self._key.encode(), b"***") if len(self._key) >= 16 else answer.body
        raise answers.problem(answer.status, answer.headers, safe, self._clock())
