"""The only path on which an invoice becomes settled, and anything else BTCPay says of it.

Whoever notices something (a webhook, a creation, reconciliation, a front end asking) brings observations
here; what comes while others are being written shares the next transaction, under the locks of its users.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import uuid4

from kosmo_billing_daemon.batching import Batches
from kosmo_billing_daemon.btcpay.client import ORDERS_PER_CALL, BtcpayClient
from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.domain import invoices as rules
from kosmo_billing_daemon.domain import subscriptions as periods
from kosmo_billing_daemon.domain.invoices import (
    Action,
    Invoice,
    InvoiceStatus,
    Verdict,
)
from kosmo_billing_daemon.domain.polling import next_check
from kosmo_billing_daemon.domain.subscriptions import (
    InvoiceId,
    Outcome,
    Subscription,
    SubscriptionId,
    UserId,
)
from kosmo_billing_daemon.errors import NotFound, Unavailable
from kosmo_billing_daemon.logs import fields
from kosmo_billing_daemon.services import fulfilment, observations
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.services.observations import LookedUp, Seen
from kosmo_billing_daemon.store import attention, deliveries, events, invoices, subscriptions
from kosmo_billing_daemon.store.deliveries import Delivery
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.invoices import Observed
from kosmo_billing_daemon.store.postgres import Connection, Pool

log = logging.getLogger(__name__)

Also = Callable[[Connection, Invoice, datetime], Awaitable[None]]

SET_ASIDE = timedelta(minutes=1)
"""How long a delivery that could not be handled waits; the others go on."""


@dataclass(frozen=True, slots=True)
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
        for delivery_id in [key for key, until in self._aside.items() if until <= now]:
            del self._aside[delivery_id]
        async with self.pool.connection() as connection:
            waiting = await deliveries.load_unhandled(connection, ORDERS_PER_CALL, list(self._aside))
            if not waiting:
                return 0
            hints = [(delivery.btcpay_invoice_id, delivery.order_id) for delivery in waiting]
            matches, known = await invoices.match(connection, hints)
            number = await invoices.number_observation(connection)
        if self.trust_body:
            looked = LookedUp(observations.claimed(waiting, matches, known, self.store_id))
        else:
            looked = await observations.look_up(self.btcpay, list(known.values()), number)
        readable: list[tuple[Delivery, set[InvoiceId]]] = []
        for delivery, match in zip(waiting, matches, strict=True):
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
        return len(waiting)

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
            ids = {invoice_id for look in looks for invoice_id in look.seen}
            if ids:
                await invoices.lock_owners(connection, ids)
            for together in _apart(looks):
                judged, told = await self._judge(connection, together)
                after += [{key: judged[key] for key in look.seen if key in judged} for look in together]
                news += told
            outcomes = [outcome for look in looks for outcome in look.outcomes]
            await deliveries.mark_handled(connection, outcomes, self.clock())
            return after, news

        after, news = await self.pool.retrying(work)
        self.changed()
        _tell(news)
        return after

    async def settle_by_hand(self, invoice_id: InvoiceId, resolution: str, *, also: Also) -> Invoice:
        """Fulfil an invoice because the operator decided so (R6), and close its cases.

        ``also`` is awaited in the same transaction, with the invoice as it was before. Raises ``NotFound``
        for an unknown one. A repeat changes nothing.
        """

        async def work(connection: Connection) -> tuple[Invoice, list[Event]]:
            await invoices.lock_owners(connection, [invoice_id])
            invoice = (await invoices.lock(connection, {invoice_id: None})).get(invoice_id)
            if invoice is None:
                raise NotFound("there is no such invoice", code="invoice_not_found")
            now = self.clock()
            verdict = rules.settle_by_hand(invoice, now)
            await also(connection, invoice, now)
            return verdict.invoice, await self._write(connection, [(invoice, verdict)], now, resolution, {})

        invoice, news = await self.pool.retrying(work)
        self.changed()
        _tell(news)
        return invoice

    async def _judge(
        self, connection: Connection, looks: Sequence[Look]
    ) -> tuple[dict[InvoiceId, Invoice], list[Event]]:
        """Apply looks at different invoices, whose users are locked."""
        seen = {invoice_id: observed for look in looks for invoice_id, observed in look.seen.items()}
        if not seen:
            return {}, []
        numbers = {invoice_id: look.number for look in looks for invoice_id in look.seen}
        locked = await invoices.lock(connection, numbers)
        # Taken under the locks, so that times of one user rise in the order of the changes (R3).
        now = self.clock()
        verdicts: list[tuple[Invoice, Verdict]] = []
        for invoice in sorted(locked.values(), key=lambda invoice: (invoice.created_at, invoice.id)):
            observation, strays = observations.choose(invoice, seen[invoice.id])
            verdict = Verdict(invoice)
            if observation is not None:
                verdict = rules.observe(invoice, observation, now, store_id=self.store_id)
            verdicts.append((invoice, observations.with_strays(verdict, strays)))
        news = await self._write(connection, verdicts, now, "settled by itself", numbers)
        return {invoice.id: verdict.invoice for invoice, verdict in verdicts}, news

    async def _write(
        self,
        connection: Connection,
        verdicts: Sequence[tuple[Invoice, Verdict]],
        now: datetime,
        resolution: str,
        numbers: Mapping[InvoiceId, int | None],
    ) -> list[Event]:
        """Write what the verdicts ask for; returns the news, for the log once it is committed."""
        news: list[Event] = []
        saved = [
            Observed(verdict.invoice, next_check(verdict.invoice, now), numbers.get(verdict.invoice.id))
            for _, verdict in verdicts
        ]
        await invoices.save(connection, saved, now)
        cases = [(verdict.invoice, case) for _, verdict in verdicts for case in verdict.cases]
        opened = await attention.open_cases(connection, cases, now)
        closed = [(verdict.invoice.id, kind) for _, verdict in verdicts for kind in verdict.closes]
        await attention.close_cases(connection, closed, resolution, now)
        affected = _affected(verdicts)
        periods_news = await self._apply(connection, affected, now) if affected else {}
        for _, verdict in verdicts:
            news += [fulfilment.invoice_news(name, verdict.invoice, now) for name in verdict.events]
            news += periods_news.pop(verdict.invoice.id, [])
            news += [
                fulfilment.case_news(verdict.invoice, case, now)
                for case in verdict.cases
                if (verdict.invoice.id, case.kind) in opened
            ]
        await events.append(connection, news)
        return news

    async def _apply(
        self,
        connection: Connection,
        affected: Mapping[UserId, Sequence[tuple[Invoice, Verdict]]],
        now: datetime,
    ) -> dict[InvoiceId, list[Event]]:
        """Change the subscriptions of users; returns the news, by the invoice that made them."""
        current = await subscriptions.lock_current(connection, affected)
        processing = await invoices.load_processing(connection, affected)
        changes: list[Change] = []
        news: dict[InvoiceId, list[Event]] = {}
        for user_id, verdicts in affected.items():
            before: tuple[Subscription, ...] = (current[user_id],) if user_id in current else ()
            if any(verdict.action in (Action.REVOKE, Action.REINSTATE) for _, verdict in verdicts):
                before = await subscriptions.lock_history(connection, user_id)
            # Saved before: an invoice just fulfilled is no longer among those that are confirming.
            holding = bool(processing.get(user_id))
            rows: tuple[Subscription, ...] = before
            for invoice, verdict in verdicts:
                outcome = _change(rows, verdict, now, holding=holding)
                earlier, rows = rows, outcome.history
                news.setdefault(invoice.id, []).extend(
                    fulfilment.subscription_news(happening, rows, now) for happening in outcome.happenings
                )
                if verdict.action is Action.FULFIL:
                    news[invoice.id] += fulfilment.quota_news(earlier, rows, now)
            changes.append(Change(before, rows))
        await fulfilment.write(connection, changes)
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


def _change(rows: tuple[Subscription, ...], verdict: Verdict, now: datetime, *, holding: bool) -> Outcome:
    invoice = verdict.invoice
    match verdict.action:
        case Action.FULFIL:
            return periods.purchase(
                rows,
                subscription_id=SubscriptionId(uuid4()),
                user_id=invoice.user_id,
                invoice_id=invoice.id,
                source=verdict.source,
                plan=invoice.plan,
                now=now,
                holding=holding,
            )
        case Action.REVOKE:
            bought = _bought(rows, invoice.id)
            return periods.revoke(rows, bought, now, reason="invoice_invalid", holding=holding)
        case Action.REINSTATE:
            bought = _bought(rows, invoice.id)
            return periods.reinstate(rows, bought, now, reason="invoice_settled_again", holding=holding)
        case Action.NOTHING:
            return periods.advance(rows, now, holding=holding)


def _bought(rows: Sequence[Subscription], invoice_id: InvoiceId) -> SubscriptionId:
    return next(row.id for row in rows if row.invoice_id == invoice_id)


def _affected(
    verdicts: Sequence[tuple[Invoice, Verdict]],
) -> dict[UserId, list[tuple[Invoice, Verdict]]]:
    """Pick the users whose subscriptions are touched: by an action, or by a hold begun or ended (R5)."""
    affected: dict[UserId, list[tuple[Invoice, Verdict]]] = {}
    for before, verdict in verdicts:
        confirming = InvoiceStatus.PROCESSING
        held = (before.status is confirming) != (verdict.invoice.status is confirming)
        if verdict.action is not Action.NOTHING or held:
            affected.setdefault(before.user_id, []).append((before, verdict))
    return affected


def _outcome(match: set[InvoiceId], seen: Seen) -> str:
    if not match:
        return "not ours"
    return "observed" if any(invoice_id in seen for invoice_id in match) else "unknown at BTCPay"
