"""The only path on which an invoice becomes settled, and anything else BTCPay says of it.

Whoever notices something (a webhook, a creation, reconciliation, a front end asking) brings observations
here; what comes while others are being written shares the next transaction, under the locks of its users.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial

from kosmo_billing_daemon.btcpay.client import ORDERS_PER_CALL, BtcpayClient
from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain import verdicts as rules
from kosmo_billing_daemon.domain.invoices import Effect, Invoice
from kosmo_billing_daemon.domain.ledger import Posting
from kosmo_billing_daemon.domain.polling import next_check
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.domain.verdicts import Verdict
from kosmo_billing_daemon.errors import NotFound
from kosmo_billing_daemon.runtime.batcher import Batcher, Cooldown, write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment, observations
from kosmo_billing_daemon.services.observations import LookupResult, Seen
from kosmo_billing_daemon.services.verdicts import Evaluation, affordable, change_periods
from kosmo_billing_daemon.store import attention, deliveries, invoices, purchases
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.deliveries import Delivery
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.invoices import Observed
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_owners

log = logging.getLogger(__name__)

Also = Callable[[Connection, Invoice, datetime], Awaitable[None]]

MOST_AT_ONCE = ORDERS_PER_CALL
"""Deliveries handled together: one list call's worth."""

Hint = tuple[Delivery, set[InvoiceId]]
"""A delivery, and which invoices it may mean."""


class Unreadable(Exception):
    """BTCPay's answer about an invoice makes no sense to us."""


@record
class InvoiceLookup:
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
    credit: bool = True
    _aside: Cooldown[str] = field(default_factory=Cooldown)
    _looks: Batcher[InvoiceLookup, dict[InvoiceId, Invoice]] = field(init=False)

    def __post_init__(self) -> None:
        self._looks = Batcher(self._settle, most=100)

    async def run_once(self) -> int:
        """Handle all waiting deliveries, at most one list call's worth; returns how many.

        Raises ``Unavailable`` when BTCPay or the database is away; the deliveries stay. One that cannot be
        handled is set aside for a while, and so is what a user has whose rows somebody else has locked.
        """
        resting = self._aside.resting(self.clock())
        async with self.pool.connection() as connection:
            waiting = await deliveries.load_waiting(connection, MOST_AT_ONCE, resting)
        if waiting is None:
            return 0
        if self.trust_body:
            claims = observations.claimed(waiting.deliveries, waiting.matches, waiting.known, self.store_id)
            looked = LookupResult(claims)
        else:
            looked = await observations.look_up(self.btcpay, list(waiting.known.values()), waiting.number)
        readable: list[Hint] = []
        failed: list[tuple[Delivery, Exception]] = []
        for delivery, match in zip(waiting.deliveries, waiting.matches, strict=True):
            if match.isdisjoint(looked.unreadable):
                readable.append((delivery, match))
            else:
                failed.append((delivery, Unreadable("BTCPay's answer about its invoice cannot be read")))
        # BTCPay hints several times at one payment: what is stuck is looked for by invoice.
        alike: dict[frozenset[InvoiceId], list[Hint]] = {}
        for hint in readable:
            alike.setdefault(frozenset(hint[1]), []).append(hint)
        groups = list(alike.values())
        results = await write_each(groups, partial(self._handle, looked))
        for group, result in zip(groups, results, strict=True):
            if isinstance(result, Exception):
                failed += [(delivery, result) for delivery, _ in group]
        await self._set_aside(failed)
        return len(waiting.deliveries)

    async def next_due(self) -> datetime | None:
        """Return when what was set aside is tried again."""
        return self._aside.next_end()

    async def _handle(self, looked: LookupResult, groups: Sequence[Sequence[Hint]]) -> list[None]:
        hints = [hint for group in groups for hint in group]
        seen = {key: looked.seen[key] for _, match in hints for key in match if key in looked.seen}
        outcomes = [(delivery.delivery_id, _outcome(match, seen)) for delivery, match in hints]
        await self.settle(seen, outcomes, number=looked.number)
        return [None] * len(groups)

    async def _set_aside(self, failed: Sequence[tuple[Delivery, Exception]]) -> None:
        if not failed:
            return
        now = self.clock()
        for delivery, error in failed:
            self._aside.put(delivery.delivery_id, error, now)
            named = fields(delivery=delivery.delivery_id, order=delivery.order_id)
            self._aside.tell(log, "delivery set aside", error, named, known=Unreadable)
        reasons = [(delivery.delivery_id, str(error)) for delivery, error in failed]
        async with self.pool.connection() as connection:
            await deliveries.note_set_aside(connection, reasons, now)

    async def look_up(self, asked: Sequence[Invoice]) -> LookupResult:
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
        return await self._looks.submit(InvoiceLookup(seen, outcomes, number))

    async def _settle(self, looks: Sequence[InvoiceLookup]) -> list[dict[InvoiceId, Invoice]]:
        async def work(connection: Connection) -> tuple[list[dict[InvoiceId, Invoice]], list[Event]]:
            after: list[dict[InvoiceId, Invoice]] = []
            new_events: list[Event] = []
            for together in _apart(looks):
                judged, told = await self._judge(connection, together)
                after += [{key: judged[key] for key in look.seen if key in judged} for look in together]
                new_events += told
            return after, new_events

        ids = {invoice_id for look in looks for invoice_id in look.seen}
        after, new_events = await self.pool.retrying(work, locking_owners(ids) if ids else "")
        self.changed()
        asyncio.get_running_loop().call_soon(_tell, new_events)  # nobody need wait for lines in a log
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
            judged = [Evaluation(locked[0], verdict, None)]
            return verdict.invoice, await self._write(connection, judged, now, resolution)

        invoice, new_events = await self.pool.retrying(work, locking_owners([invoice_id]))
        self.changed()
        _tell(new_events)
        return invoice

    async def _judge(
        self, connection: Connection, looks: Sequence[InvoiceLookup]
    ) -> tuple[dict[InvoiceId, Invoice], list[Event]]:
        """Apply looks at different invoices, whose users are locked, and mark their deliveries."""
        seen = {key: (look.number, observed) for look in looks for key, observed in look.seen.items()}
        locked = await purchases.lock(connection, seen) if seen else []
        # Taken under the locks, so that times of one user rise in the order of the changes (R3).
        now = self.clock()
        judged: list[Evaluation] = []
        for purchase in sorted(locked, key=lambda one: (one.invoice.created_at, one.invoice.id)):
            number, observed = seen[purchase.invoice.id]
            if number is not None and number <= purchase.observation:
                continue  # a later look has seen it
            observation, strays = observations.choose(purchase.invoice, observed)
            verdict = Verdict(purchase.invoice)
            if observation is not None:
                verdict = rules.observe(purchase.invoice, observation, now, store_id=self.store_id)
            judged.append(Evaluation(purchase, observations.with_strays(verdict, strays), number))
        outcomes = [outcome for look in looks for outcome in look.outcomes]
        handled = deliveries.mark_handled_statement(outcomes, now)
        new_events = await self._write(connection, judged, now, "settled by itself", handled)
        return {one.purchase.invoice.id: one.verdict.invoice for one in judged}, new_events

    async def _write(
        self,
        connection: Connection,
        judged: Sequence[Evaluation],
        now: datetime,
        resolution: str,
        handled: Statement | None = None,
    ) -> list[Event]:
        """Write what the verdicts ask for; returns the new_events, for the log once it is committed."""
        judged = await affordable(connection, judged)
        judged, changes, of_periods = await change_periods(connection, judged, now)
        if self.credit:
            judged = [replace(one, verdict=rules.as_credit(one.verdict)) for one in judged]
        cases = [(one.verdict.invoice, case) for one in judged for case in one.verdict.cases]
        opened = await attention.open_cases(connection, cases, now)
        closed = [
            (one.verdict.invoice.id, kind, resolution if _is_given(one.verdict) else attention.OUTDATED)
            for one in judged
            if one.purchase.has_cases
            for kind in one.verdict.closes
        ]
        new_events: list[Event] = []
        for one in judged:
            invoice = one.verdict.invoice
            new_events += [fulfilment.invoice_event(name, invoice, now) for name in one.verdict.events]
            new_events += of_periods.get(invoice.id, ())
            new_events += [
                fulfilment.case_event(invoice, case, now)
                for case in one.verdict.cases
                if (invoice.id, case.kind) in opened
            ]
        postings: list[Posting] = []
        for one in judged:
            booked = books.of_invoice(one.purchase.invoice, one.verdict.invoice)
            postings += booked
            if booked and self.credit:
                new_events += _credit_events(one.verdict, booked, now)
        saved = [
            Observed(
                one.verdict.invoice,
                next_check(one.verdict.invoice, now),
                one.number or one.purchase.observation,
            )
            for one in judged
        ]
        beside = [
            invoices.save_statement(saved, now),
            attention.close_statement(closed, now),
            handled,
        ]
        await fulfilment.write(connection, changes, new_events, now, postings=postings, beside=beside)
        return new_events


def _apart(looks: Sequence[InvoiceLookup]) -> Iterator[list[InvoiceLookup]]:
    """Part looks, in order, so that no invoice is in one part twice: each is judged on what the last left."""
    part: list[InvoiceLookup] = []
    seen: set[InvoiceId] = set()
    for look in looks:
        if not seen.isdisjoint(look.seen):
            yield part
            part, seen = [], set()
        part.append(look)
        seen.update(look.seen)
    if part:
        yield part


def _credit_events(verdict: Verdict, booked: Sequence[Posting], now: datetime) -> list[Event]:
    """Tell what an invoice did to its user's credit; one that was paid in full and no more did nothing."""
    total = sum((one.amount for one in booked), Decimal(0))
    if not total:
        return []
    why = "purchase" if verdict.credited is None else str(verdict.credited)
    return [fulfilment.credit_event(replace(booked[0], amount=total), why, now)]


def _is_given(verdict: Verdict) -> bool:
    return verdict.invoice.effect is Effect.FULFILLED


def _tell(new_events: Sequence[Event]) -> None:
    """Log what was committed: rights that changed, and money that needs a decision."""
    for event in new_events:
        named = fields(user=event.user_id, order=event.data.get("order_id"))
        if event.type == "invoice.needs_attention":
            log.warning("payment needs attention: %s", event.data["kind"], extra=named)
        elif event.type.startswith("subscription."):
            log.info("%s", event.type.replace(".", " "), extra=named)


def _outcome(match: set[InvoiceId], seen: Seen) -> str:
    if not match:
        return "not ours"
    return "observed" if any(invoice_id in seen for invoice_id in match) else "unknown at BTCPay"
