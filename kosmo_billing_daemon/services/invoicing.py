"""Opens an invoice: reserve a row with our id, create at BTCPay carrying that id, attach.

BTCPay knows no idempotency: whoever repeats a creation looks it up by the order id first.

The rule it keeps: a reservation is given up only where BTCPay itself said no, or no connection to it was
made. After anything else an invoice may exist: the reservation stays, and the next request or reconciliation
looks for its invoice until BTCPay has shown it, or has been asked long enough.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayAway, BtcpayDenied, BtcpayRefused, CreationUnknown
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus, Observation
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.errors import NotFound, Unavailable
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.rate_limit import RateLimit
from kosmo_billing_daemon.services.idempotency import Key
from kosmo_billing_daemon.services.reservations import (
    ORPHANED_AFTER,
    OpenedInvoice,
    PurchaseRequest,
    Reservations,
)
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.store import idempotency, invoices
from kosmo_billing_daemon.store.idempotency import Reply
from kosmo_billing_daemon.store.postgres import Pool

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTACHED_WITHIN = 3.0
"""Seconds to wait for another daemon's creation; most take less than one."""

RELEASED_WITHIN = 1.0
"""Seconds to wait for a connection to release a reservation."""

REFRESH_AFTER = timedelta(seconds=2)
"""An open invoice is asked for at BTCPay at most this often by front ends."""


@dataclass(slots=True, kw_only=True)
class Invoicing:
    """Opens and shows the invoices of one user at a time; no ``limit`` allows any number of them."""

    pool: Pool
    btcpay: BtcpayClient
    settlement: Settlement
    clock: Clock
    expiration: timedelta | None = None
    limit: RateLimit | None = None
    _reservations: Reservations = field(init=False)
    _in_progress: dict[InvoiceId, asyncio.Task[Invoice]] = field(default_factory=dict)
    _refreshing: dict[InvoiceId, asyncio.Task[Invoice]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reservations = Reservations(
            pool=self.pool,
            clock=self.clock,
            changed=self.settlement.changed,
            limit=self.limit,
            credit=self.settlement.credit,
        )

    async def open(
        self, user_id: UserId, plan: Plan, redirect_url: str | None, *, key: Key | None = None
    ) -> OpenedInvoice:
        """Return an open invoice for a plan or pack (R10); under a known key, the one that it led to.

        Raises ``Conflict`` beyond the prepaid cap (R11) and for a pack that fits nothing (R17), ``TooMany``
        beyond the limit, ``Invalid`` when something else was asked under the key, and ``Unavailable`` when
        BTCPay could not be asked; then the same request may be repeated.
        """
        return await _finished(
            asyncio.create_task(self._open(PurchaseRequest(user_id, plan, redirect_url, key)))
        )

    async def _open(self, request: PurchaseRequest) -> OpenedInvoice:
        opened = await self._reservations.reserve(request)
        if opened.reply is not None or opened.invoice.status is not InvoiceStatus.RESERVED:
            return opened
        reserved = opened.invoice
        try:
            attached = await _shared(self._in_progress, reserved.id, lambda: self._try(reserved))
        finally:
            self._reservations.unsent.discard(reserved.id)
        return OpenedInvoice(attached, opened.is_new)

    async def keep(self, user_id: UserId, key: Key, invoice: Invoice, reply: Reply) -> Reply:
        """Keep the answer under its key, and return the one to give: the first."""
        async with self.pool.connection() as connection:
            return await idempotency.save_reply(
                connection,
                user_id,
                key.value,
                fingerprint=key.fingerprint,
                invoice_id=invoice.id,
                reply=reply,
            )

    async def _try(self, reserved: Invoice) -> Invoice:
        """Complete a reservation; one whose outcome is not known afterwards is nobody's work any more."""
        try:
            return await self._complete(reserved)
        except Unavailable:
            with contextlib.suppress(Unavailable):  # then the next one waits for nobody, no worse
                async with self.pool.connection(wait=RELEASED_WITHIN) as connection:
                    await invoices.release(connection, reserved.id, self.clock())
            raise

    async def _complete(self, reserved: Invoice) -> Invoice:
        """Create at BTCPay, unless an earlier try already did, and attach."""
        observations: Sequence[Observation] = ()
        if reserved.id not in self._reservations.unsent:
            if self.clock() - reserved.created_at < ORPHANED_AFTER:
                attached = await self._wait_until_attached(reserved)
                if attached is not None:
                    return attached
            observations = await self._find(reserved)
        self._reservations.unsent.discard(reserved.id)
        if not observations:
            observations = [await self._create(reserved)]
        attached = (await self.settlement.settle({reserved.id: observations}))[reserved.id]
        if attached.checkout_url is None:
            raise Unavailable(
                "the payment server asks for another amount or currency than the plan costs, so it cannot be"
                " paid; the operator is informed",
                code="btcpay_mismatch",
            )
        return attached

    async def _create(self, reserved: Invoice) -> Observation:
        try:
            return await self.btcpay.create_invoice(
                reserved.id,
                reserved.plan,
                asked=reserved.asked,
                redirect_url=reserved.redirect_url,
                expiration=self.expiration,
            )
        except CreationUnknown:
            # The request may have arrived: look before anyone tries again.
            found = await self._find(reserved)
            if found:
                return found[0]
            raise
        except BtcpayAway as error:
            if not error.reached:
                await self._abandon(reserved)
            raise
        except BtcpayDenied:
            await self._abandon(reserved)
            raise
        except BtcpayRefused as error:
            await self._abandon(reserved)
            raise Unavailable(
                "the payment server refuses to create invoices at the moment", code="btcpay_refused"
            ) from error

    async def _find(self, reserved: Invoice) -> Sequence[Observation]:
        result = await self.settlement.look_up([reserved])
        if result.unreadable:  # there is one, so none may be created beside it
            raise Unavailable("the payment server's invoice cannot be read", code="btcpay_garbled")
        return result.observations.get(reserved.id, ())

    async def _abandon(self, reserved: Invoice) -> None:
        async with self.pool.transaction() as connection:
            await invoices.abandon(connection, [reserved.id])

    async def _wait_until_attached(self, reserved: Invoice) -> Invoice | None:
        """Let another daemon finish the same reservation; ``None`` when it is, or seems to be, nobody's.

        Raises ``Unavailable`` when the other one gives it up.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ATTACHED_WITHIN
        while loop.time() < deadline:
            async with self.pool.connection() as connection:
                if await invoices.take_over(connection, reserved.id):
                    return None
                row = (await invoices.load(connection, [reserved.id])).get(reserved.id)
            if row is not None and row.status is InvoiceStatus.ABANDONED:  # it found BTCPay away
                raise Unavailable("the payment server cannot be reached at the moment", code="btcpay_away")
            if row is not None and row.status is not InvoiceStatus.RESERVED:
                return row
            await asyncio.sleep(0.1)
        return None

    async def show(self, user_id: UserId, btcpay_invoice_id: str) -> Invoice:
        """Return one invoice of the user, as BTCPay sees it right now if it is still open.

        Raises ``NotFound`` alike for unknown and for foreign invoices.
        """
        async with self.pool.connection() as connection:
            invoice = await invoices.load_of_user(connection, btcpay_invoice_id, user_id)
        if invoice is None:
            raise NotFound("there is no such invoice", code="invoice_not_found")
        if invoice.status not in (InvoiceStatus.NEW, InvoiceStatus.PROCESSING):
            return invoice
        try:
            return await _shared(self._refreshing, invoice.id, lambda: self._refresh(invoice))
        except Unavailable as error:
            log.info("invoice is shown as last seen: %s", error, extra=fields(invoice=btcpay_invoice_id))
            return invoice

    async def _refresh(self, invoice: Invoice) -> Invoice:
        async with self.pool.connection() as connection:
            if not await invoices.claim_refresh(connection, invoice.id, self.clock(), REFRESH_AFTER):
                return invoice
        if self.settlement.trust_body:
            return invoice
        result = await self.settlement.look_up([invoice])
        if not result.observations:
            return invoice
        settled = await self.settlement.settle(result.observations, number=result.number)
        return settled.get(invoice.id, invoice)


async def _shared(
    tasks: dict[InvoiceId, asyncio.Task[Invoice]],
    key: InvoiceId,
    work: Callable[[], Coroutine[Any, Any, Invoice]],
) -> Invoice:
    """Let concurrent callers wait for one task; a caller that goes away does not end it."""
    task = tasks.get(key)
    if task is None:
        task = tasks[key] = asyncio.create_task(work())
        task.add_done_callback(lambda _: tasks.pop(key, None))
    return await _finished(task)


async def _finished(task: asyncio.Task[T]) -> T:
    """Wait for a task that goes on, and whose error is nobody's any more, when its caller goes away."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)
