"""The only path on which an invoice becomes settled, and anything else BTCPay says of it.

Whoever notices something (a webhook, a creation, reconciliation, a front end asking) brings observations
here; what comes while others are being written shares the next transaction, under the locks of its users.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kosmo_billing_daemon.batching import Batches
from kosmo_billing_daemon.btcpay.client import ORDERS_PER_CALL, BtcpayClient
from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.domain import invoices as rules
from kosmo_billing_daemon.domain.invoices import Invoice, Verdict
from kosmo_billing_daemon.domain.polling import next_check
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.errors import NotFound, Unavailable
from kosmo_billing_daemon.logs import fields
from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.services import fulfilment, observations
from kosmo_billing_daemon.services.observations import LookedUp, Seen
from kosmo_billing_daemon.services.verdicts import Judged, change_periods
from kosmo_billing_daemon.store import attention, deliveries, invoices, purchases
from kosmo_billing_daemon.store.deliveries import Delivery
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.invoices import Observed
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_owners
from kosmo_billing_daemon.store.together import Statement

log = logging.getLogger(__name__)

Also = Callable[[Connection, Invoice, datetime], Awaitable[None]]

MOST_AT_ONCE = ORDERS_PER_CALL
"""Deliveries handled together: one list call's worth."""

SET_ASIDE = timedelta(minutes=1)
"""How long a delivery that could not be handled waits; the others go on."""


@record
class Look:
    """What was seen and by which look, and what becomes of the deliveries that asked for it."""

    seen: Seen
    outcomes: Sequence[tuple[str, str]] = ()
    number: int | None = None


@dataclass(slots=True, kw_only=True)
class Settlement:
    """Judges observations. ``changed`` is called after each commit, to wake who waits for it."""

    pool: Pool
    btcpay: BtcpayClient
    store_id: str
    clock: Clock
    changed: Callable[[], None]
    trust_body: bool = False
    _aside: dict[str, datetime] = field(default_factory=dict)
    _looks: Batches[Look, dict[InvoiceId, Invoice]] = field(init=False)

    def __post_init__(self) -> None:
        self._looks = Batches(self._settle, most=100)

    async def run_once(self) -> int:
        """Handle all waiting deliveries, at most one list call's worth; returns how many.

        Raises ``Unavailable`` when BTCPay or the database is away; the deliveries stay.
        """
        now = self.clock()
        for delivery_id in [key for key, until in self._aside.items() if not now < until <= now + SET_ASIDE]:
            del self._aside[delivery_id]
        async with self.pool.connection() as connection:
            waiting = await deliveries.load_waiting(connection, MOST_AT_ONCE, list(self._aside))
        if waiting is None:
            return 0
        if self.trust_body:
            claims = observations.claimed(waiting.deliveries, waiting.matches, waiting.known, self.store_id)
            looked = LookedUp(claims)
        else:
            looked = await observations.look_up(self.btcpay, list(waiting.known.values()), waiting.number)
        readable: list[tuple[Delivery, set[InvoiceId]]] = []
        for delivery, match in zip(waiting.deliveries, waiting.matches, strict=True):
            if match.isdisjoint(looked.unreadable):
                readable.append((delivery, match))
            else:
                self._set_aside(delivery)
        outcomes = [(delivery.delivery_id, _outcome(match, looked.seen)) for delivery, match in readable]
        try:
            await self.settle(looked.seen, outcomes, number=looked.number)
        except Unavailable:
            raise
        except Exception:
            log.exception("a batch of deliveries failed; each is tried alone")
            await self._settle_alone(readable, looked)
        return len(waiting.deliveries)

    async def _settle_alone(
        self, waiting: Sequence[tuple[Delivery, set[InvoiceId]]], looked: LookedUp
    ) -> None:
        """Keep one delivery that cannot be handled from holding up the others."""
        seen = looked.seen
        for delivery, match in waiting:
            mine = {invoice_id: seen[invoice_id] for invoice_id in match if invoice_id in seen}
            try:
                outcome = (delivery.delivery_id, _outcome(match, seen))
                await self.settle(mine, [outcome], number=looked.number)
            except Unavailable:
                raise
            except Exception:
                log.exception("delivery %s failed", delivery.delivery_id)
                self._set_aside(delivery)

    def _set_aside(self, delivery: Delivery) -> None:
        self._aside[delivery.delivery_id] = self.clock() + SET_ASIDE
        log.warning("delivery %s is set aside for a while", delivery.delivery_id)

    async def look_up(self, asked: Sequence[Invoice]) -> LookedUp:
        """Ask BTCPay for invoices; raises ``Unavailable`` when it cannot be asked."""
        async with self.pool.connection() as connection:
            number = await invoices.number_observation(connection)
        return await observations.look_up(self.btcpay, asked, number)

    async def settle(
        self, seen: Seen, outcomes: Sequence[tuple[str, str]] = (), *, number: int | None = None
    ) -> dict[InvoiceId, Invoice]:
        """Judge and write observations, and mark deliveries, in one transaction.

        Returns the invoices as they are afterwards, without those that a later look than ``number`` has
        seen. A repeat changes nothing.
        """
        return await self._looks.submit(Look(seen, outcomes, number))

    async def _settle(self, looks: Sequence[Look]) -> list[dict[InvoiceId, Invoice]]:
        async def work(connection: Connection) -> tuple[list[dict[InvoiceId, Invoice]], list[Event]]:
            after: list[dict[InvoiceId, Invoice]] = []
            news: list[Event] = []
            for together in _apart(looks):
                judged, told = await self._judge(connection, together)
                after += [{key: judged[key] for key in look.seen if key in judged} for look in together]
                news += told
            return after, news

        ids = {invoice_id for look in looks for invoice_id in look.seen}
        after, news = await self.pool.retrying(work, locking_owners(ids) if ids else "")
        self.changed()
        asyncio.get_running_loop().call_soon(_tell, news)  # nobody need wait for lines in a log
        return after

    async def settle_by_hand(self, invoice_id: InvoiceId, resolution: str, *, also: Also) -> Invoice:
        """Fulfil an invoice because the operator decided so (R6), and close its cases.

        ``also`` is awaited in the same transaction, with the invoice as it was before. Raises ``NotFound``
        for an unknown one. A repeat changes nothing.
        """

        async def work(connection: Connection) -> tuple[Invoice, list[Event]]:
            locked = await purchases.lock(connection, [invoice_id])
            if not locked:
                raise NotFound("there is no such invoice", code="invoice_not_found")
            now = self.clock()
            invoice = locked[0].invoice
            verdict = rules.settle_by_hand(invoice, now)
            await also(connection, invoice, now)
            judged = [Judged(locked[0], verdict, None)]
            return verdict.invoice, await self._write(connection, judged, now, resolution)

        invoice, news = await self.pool.retrying(work, locking_owners([invoice_id]))
        self.changed()
        _tell(news)
        return invoice

    async def _judge(
        self, connection: Connection, looks: Sequence[Look]
    ) -> tuple[dict[InvoiceId, Invoice], list[Event]]:
        """Apply looks at different invoices, whose users are locked, and mark their deliveries."""
        seen = {key: (look.number, observed) for look in looks for key, observed in look.seen.items()}
        locked = await purchases.lock(connection, seen) if seen else []
        # Taken under the locks, so that times of one user rise in the order of the changes (R3).
        now = self.clock()
        judged: list[Judged] = []
        for purchase in sorted(locked, key=lambda one: (one.invoice.created_at, one.invoice.id)):
            number, observed = seen[purchase.invoice.id]
            if number is not None and number <= purchase.observation:
                continue  # a later look has seen it
            observation, strays = observations.choose(purchase.invoice, observed)
            verdict = Verdict(purchase.invoice)
            if observation is not None:
                verdict = rules.observe(purchase.invoice, observation, now, store_id=self.store_id)
            judged.append(Judged(purchase, observations.with_strays(verdict, strays), number))
        outcomes = [outcome for look in looks for outcome in look.outcomes]
        handled = deliveries.marking_handled(outcomes, now)
        news = await self._write(connection, judged, now, "settled by itself", handled)
        return {one.purchase.invoice.id: one.verdict.invoice for one in judged}, news

    async def _write(
        self,
        connection: Connection,
        judged: Sequence[Judged],
        now: datetime,
        resolution: str,
        handled: Statement | None = None,
    ) -> list[Event]:
        """Write what the verdicts ask for; returns the news, for the log once it is committed."""
        cases = [(one.verdict.invoice, case) for one in judged for case in one.verdict.cases]
        opened = await attention.open_cases(connection, cases, now)
        closed = [
            (one.verdict.invoice.id, kind)
            for one in judged
            if one.purchase.has_cases
            for kind in one.verdict.closes
        ]
        changes, of_periods = await change_periods(connection, judged, now)
        news: list[Event] = []
        for one in judged:
            invoice = one.verdict.invoice
            news += [fulfilment.invoice_news(name, invoice, now) for name in one.verdict.events]
            news += of_periods.get(invoice.id, ())
            news += [
                fulfilment.case_news(invoice, case, now)
                for case in one.verdict.cases
                if (invoice.id, case.kind) in opened
            ]
        saved = [
            Observed(one.verdict.invoice, next_check(one.verdict.invoice, now), one.number) for one in judged
        ]
        beside = [invoices.saving(saved, now), attention.closing(closed, resolution, now), handled]
        await fulfilment.write(connection, changes, news, beside)
        return news


def _apart(looks: Sequence[Look]) -> Iterator[list[Look]]:
    """Part looks, in order, so that no invoice is in one part twice: each is judged on what the last left."""
    part: list[Look] = []
    seen: set[InvoiceId] = set()
    for look in looks:
        if not seen.isdisjoint(look.seen):
            yield part
            part, seen = [], set()
        part.append(look)
        seen.update(look.seen)
    if part:
        yield part


def _tell(news: Sequence[Event]) -> None:
    """Log what was committed: rights that changed, and money that needs a decision."""
    for event in news:
        named = fields(user=event.user_id, order=event.data.get("order_id"))
        if event.type == "invoice.needs_attention":
            log.warning("money needs a decision: %s", event.data["kind"], extra=named)
        elif event.type.startswith("subscription."):
            log.info("%s", event.type.replace(".", " "), extra=named)


def _outcome(match: set[InvoiceId], seen: Seen) -> str:
    if not match:
        return "not ours"
    return "observed" if any(invoice_id in seen for invoice_id in match) else "unknown at BTCPay"
