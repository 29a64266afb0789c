"""The only path on which an invoice becomes settled, and anything else BTCPay says of it.

Whoever observed something brings it here, to be written under the locks of its users. A round of lookups has
a transaction of its own; single observations (of a creation, or a front end that asks) share one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain import verdicts as rules
from kosmo_billing_daemon.domain.invoices import Case, CaseKind, Effect, Invoice
from kosmo_billing_daemon.domain.ledger import EntryKind, Posting
from kosmo_billing_daemon.domain.polling import next_check
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, Source
from kosmo_billing_daemon.domain.verdicts import Action, Verdict
from kosmo_billing_daemon.errors import Conflict, NotFound
from kosmo_billing_daemon.runtime.batcher import TOGETHER, Batcher
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment, observations
from kosmo_billing_daemon.services.observations import LookupResult, Observations
from kosmo_billing_daemon.services.verdicts import Evaluation, affordable, change_periods
from kosmo_billing_daemon.store import attention, invoices, purchases
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.invoices import Observed
from kosmo_billing_daemon.store.lookups import Key, Requeueing
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_owners

log = logging.getLogger(__name__)

TOLD_TOGETHER: Final = 20
"""Users named in one line of the log, which a pipe takes without waiting: it is far below 4,096 bytes."""

Also = Callable[[Connection, Invoice, datetime], Awaitable[None]]


@record
class LookupAnswer:
    """What was observed, and by which lookup; ``answered`` are the rows of the queue that asked for it."""

    observations: Observations
    answered: Sequence[Key] = ()
    number: int | None = None


@dataclass(slots=True, kw_only=True)
class Settlement:
    """Evaluates observations. ``changed`` is called after each commit, to wake who waits for it."""

    pool: Pool
    btcpay: BtcpayClient
    store_id: str
    clock: Clock
    changed: Callable[[], None]
    trust_body: bool = False
    credit: bool = True
    announce: Callable[[Sequence[Event]], None] = field(default_factory=lambda: log_committed)
    _answers: Batcher[LookupAnswer, dict[InvoiceId, Invoice]] = field(init=False)

    def __post_init__(self) -> None:
        self._answers = Batcher(self._settle, most=100, turns=TOGETHER)

    async def look_up(self, asked: Sequence[Invoice]) -> LookupResult:
        """Ask BTCPay for invoices; raises ``Unavailable`` when it cannot be asked."""
        async with self.pool.connection() as connection:
            number = await invoices.number_observation(connection)
        named = {invoice.id: invoice.btcpay_invoice_id for invoice in asked}
        return await observations.look_up(self.btcpay, named, number)

    async def settle(self, observed: Observations, *, number: int | None = None) -> dict[InvoiceId, Invoice]:
        """Evaluate and write observations; those that come at the same time share a transaction.

        Returns the invoices as they are afterwards, without those that a later lookup than ``number`` has
        observed. A repeat changes nothing.
        """
        return await self._answers.submit(LookupAnswer(observed, number=number))

    async def settle_round(
        self, observed: Observations, answered: Sequence[Key], number: int | None
    ) -> dict[InvoiceId, Invoice]:
        """Do the same for a whole round of lookups, at once, and take those answered out of the queue.

        The rows of an invoice that a later lookup has observed stay in the queue.
        """
        (after,) = await self._settle([LookupAnswer(observed, answered, number)])
        return after

    async def _settle(self, answers: Sequence[LookupAnswer]) -> list[dict[InvoiceId, Invoice]]:
        async def work(connection: Connection) -> tuple[list[dict[InvoiceId, Invoice]], list[Event]]:
            after: list[dict[InvoiceId, Invoice]] = []
            new_events: list[Event] = []
            for part in _apart(answers):
                settled, events = await self._evaluate(connection, part)
                after += [{key: settled[key] for key in one.observations if key in settled} for one in part]
                new_events += events
            return after, new_events

        ids = {invoice_id for answer in answers for invoice_id in answer.observations}
        after, new_events = await self.pool.retrying(work, locking_owners(ids))
        self.changed()
        asyncio.get_running_loop().call_soon(self.announce, new_events)  # nobody need wait for lines in a log
        return after

    async def settle_by_hand(self, invoice_id: InvoiceId, resolution: str, *, also: Also) -> Invoice:
        """Fulfil an invoice because the operator decided so (R6), and close its cases.

        ``also`` is awaited in the same transaction, with the invoice as it was before. Raises ``NotFound``
        for an unknown one, ``Conflict`` where the rules do not allow it. A repeat changes nothing.
        """

        async def work(connection: Connection) -> tuple[Invoice, list[Event]]:
            locked = await purchases.lock(connection, [invoice_id])
            if not locked:
                raise NotFound("there is no such invoice", code="invoice_not_found")
            now = self.clock()
            invoice = locked[0].invoice
            verdict = rules.settle_by_hand(invoice, now)
            await also(connection, invoice, now)
            evaluations = [Evaluation(locked[0], verdict, None)]
            written, new_events = await self._write(connection, evaluations, now, resolution)
            if written[invoice_id].effect is not Effect.FULFILLED:
                if invoice.plan.is_pack:
                    raise Conflict(
                        "there is no current plan that the pack fits; refund it instead",
                        code="no_fitting_plan",
                    )
                raise Conflict(
                    "this would carry the plan more than 400 days ahead; refund it instead",
                    code="prepaid_cap",
                )
            return written[invoice_id], new_events

        invoice, new_events = await self.pool.retrying(work, locking_owners([invoice_id]))
        self.changed()
        self.announce(new_events)
        return invoice

    async def _evaluate(
        self, connection: Connection, answers: Sequence[LookupAnswer]
    ) -> tuple[dict[InvoiceId, Invoice], list[Event]]:
        """Evaluate and write observations of different invoices, whose users are locked."""
        observed = {
            key: (answer.number, shown) for answer in answers for key, shown in answer.observations.items()
        }
        locked = await purchases.lock(connection, observed)
        # Taken under the locks, so that times of one user rise in the order of the changes (R3).
        now = self.clock()
        evaluations: list[Evaluation] = []
        for purchase in sorted(locked, key=lambda one: (one.invoice.created_at, one.invoice.id)):
            number, shown = observed[purchase.invoice.id]
            if number is not None and number <= purchase.observation:  # a later lookup has observed it
                await invoices.number_above(connection, purchase.observation)
                continue
            observation, strays = observations.choose(purchase.invoice, shown)
            verdict = Verdict(purchase.invoice)
            if observation is not None:
                verdict = rules.observe(purchase.invoice, observation, now, store_id=self.store_id)
            evaluations.append(Evaluation(purchase, observations.with_strays(verdict, strays), number))
        known = {one.purchase.invoice.id for one in evaluations}
        answered = [key for answer in answers for key in answer.answered if key[1] in known]
        return await self._write(connection, evaluations, now, attention.BY_ITSELF, answered)

    async def _write(
        self,
        connection: Connection,
        evaluations: Sequence[Evaluation],
        now: datetime,
        resolution: str,
        answered: Iterable[Key] = (),
    ) -> tuple[dict[InvoiceId, Invoice], list[Event]]:
        """Write what the verdicts ask for.

        Returns the invoices as they are written, and the new events, for the log once they are committed.
        """
        evaluations = await affordable(connection, evaluations)
        evaluations, changes, of_periods = await change_periods(connection, evaluations, now)
        if self.credit:
            evaluations = [
                replace(one, verdict=rules.as_credit(one.verdict)) if one.verdict.cases else one
                for one in evaluations
            ]
        cases = [(one.verdict.invoice, case) for one in evaluations for case in one.verdict.cases]
        opened = await attention.open_cases(connection, cases, now)
        again = await self._credit_paid_twice(connection, cases, opened, now) if self.credit else []
        opened -= {(one.invoice_id, CaseKind.PAID_TWICE) for one in again if one.invoice_id is not None}
        closed = [
            (one.verdict.invoice.id, kind, _resolution(one.verdict, kind, resolution))
            for one in evaluations
            if one.purchase.has_cases
            for kind in one.verdict.closes
        ]
        new_events: list[Event] = []
        saved: list[Observed] = []
        requeueing = Requeueing(set(answered))
        postings: list[Posting] = [replace(one, invoice_id=None) for one in again]
        for one in evaluations:
            invoice = one.verdict.invoice
            new_events += [fulfilment.invoice_event(name, invoice, now) for name in one.verdict.events]
            new_events += of_periods.get(invoice.id, ())
            new_events += [
                fulfilment.case_event(invoice, case, now)
                for case in one.verdict.cases
                if (invoice.id, case.kind) in opened
            ]
            wanted = next_check(invoice, now)
            check_at = requeueing.next_check(invoice.id, one.purchase.next_check_at, wanted, now)
            saved.append(Observed(invoice, check_at, one.number or one.purchase.observation))
        for one in evaluations:
            booked = books.of_invoice(
                one.purchase.invoice, one.verdict.invoice, reason=_vouching(one.verdict, resolution)
            )
            postings += booked
            if booked and self.credit:
                new_events += _credit_events(one.verdict, booked, now)
        new_events += [fulfilment.credit_event(one, CaseKind.PAID_TWICE, now) for one in again]
        beside = [
            invoices.save_statement(saved, now),
            *requeueing.statements(),
            attention.close_statement(closed, now),
        ]
        await fulfilment.write(connection, changes, new_events, now, postings=postings, beside=beside)
        return {one.verdict.invoice.id: one.verdict.invoice for one in evaluations}, new_events

    async def _credit_paid_twice(
        self,
        connection: Connection,
        cases: Sequence[tuple[Invoice, Case]],
        opened: Collection[tuple[UUID, CaseKind]],
        now: datetime,
    ) -> list[Posting]:
        """Return what confirmed money on further invoices of orders books as credit (R14), once.

        These invoices at BTCPay are none of ours, so the ledger has no invoice for them.
        """
        twice = {
            invoice.id: (invoice, case.detail)
            for invoice, case in cases
            if case.kind is CaseKind.PAID_TWICE and case.is_final and (invoice.id, case.kind) in opened
        }
        if not twice:
            return []
        sums = await attention.credit_paid_twice(connection, list(twice), now)
        return [
            Posting(
                user_id=invoice.user_id,
                kind=EntryKind.RECEIVED,
                amount=sums[key],
                currency=invoice.plan.price.currency,
                invoice_id=key,
                who=fulfilment.BTCPAY,
                reason=detail,
            )
            for key, (invoice, detail) in twice.items()
            if key in sums
        ]


def _apart(answers: Sequence[LookupAnswer]) -> Iterator[list[LookupAnswer]]:
    """Part answers, in order, so that no invoice is in one part twice: each builds on what the last left."""
    part: list[LookupAnswer] = []
    observed: set[InvoiceId] = set()
    for answer in answers:
        if not observed.isdisjoint(answer.observations):
            yield part
            part, observed = [], set()
        part.append(answer)
        observed.update(answer.observations)
    if part:
        yield part


def _credit_events(verdict: Verdict, booked: Sequence[Posting], now: datetime) -> list[Event]:
    """Tell what an invoice did to its user's credit; one that was paid in full and no more did nothing."""
    total = sum((one.amount for one in booked), Decimal(0))
    if not total:
        return []
    why = "purchase" if verdict.credited is None else str(verdict.credited)
    return [fulfilment.credit_event(replace(booked[0], amount=total), why, now)]


def _vouching(verdict: Verdict, resolution: str) -> str | None:
    """Say in the ledger who vouched for an invoice: an operator here, or whoever marked it at BTCPay."""
    if verdict.source is not Source.MANUAL or verdict.action is Action.NOTHING:
        return None
    return "marked settled at BTCPay" if resolution == attention.BY_ITSELF else resolution


def _resolution(verdict: Verdict, kind: CaseKind, given: str) -> str:
    """Say why a case is closed by what was observed."""
    if verdict.invoice.effect is Effect.FULFILLED and kind is not verdict.credited:
        return given
    return attention.OUTDATED if verdict.credited is None else attention.CREDITED


def log_committed(new_events: Sequence[Event]) -> None:
    """Log what was committed: rights that changed, a line for many users, and money that needs a decision."""
    changes: dict[str, list[Event]] = {}
    for event in new_events:
        if event.type == "invoice.needs_attention":
            log.warning("payment needs attention: %s", event.data["kind"], extra=_named([event]))
        elif event.type.startswith("subscription."):
            changes.setdefault(event.type, []).append(event)
    for name, events in changes.items():
        for part in (events[at : at + TOLD_TOGETHER] for at in range(0, len(events), TOLD_TOGETHER)):
            log.info("%s", name.replace(".", " "), extra=_named(part))


def _named(events: Sequence[Event]) -> dict[str, Any]:
    """Name the users, and the orders where there are some."""
    orders = [event.data.get("order_id") for event in events]
    if len(events) == 1:
        return fields(user=events[0].user_id, order=orders[0])
    users = " ".join(str(event.user_id) for event in events)
    return fields(users=users, orders=" ".join(filter(None, orders)) or None)
