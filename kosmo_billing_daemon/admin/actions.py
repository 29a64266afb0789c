"""What an operator decides by hand: grants, revocations, settlements.

The rule it keeps: nothing is done without somebody's name and reason, written down in the transaction that
does it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID, uuid4

from kosmo_billing_daemon.domain import history as periods
from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain.folding import own_packs
from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.domain.subscriptions import (
    InvoiceId,
    Outcome,
    Source,
    Subscription,
    SubscriptionId,
    UserId,
    current,
)
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.store import (
    audit,
    invoices,
    ledger,
    listings,
    outbox,
    people,
    quotes,
    subscriptions,
)
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users, notify

BATCH = 1000
LONGEST_REASON = 500


@record
class OperatorAction:
    """Who decides, and why; raises ``Invalid`` without a reason."""

    who: str
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise Invalid("a reason is needed, such as the ticket it goes back to", field="reason")
        if len(self.reason) > LONGEST_REASON or not self.reason.isprintable():
            raise Invalid(f"a reason is one line of at most {LONGEST_REASON} characters", field="reason")

    def entry(self, action: str, user_id: UUID | None, subject: str, at: datetime) -> AuditEntry:
        return AuditEntry(
            at=at, who=self.who, action=action, user_id=user_id, subject=subject, reason=self.reason
        )


@record(kw_only=True)
class AdminActions:
    """Carries out what operators decide."""

    pool: Pool
    settlement: Settlement
    catalogue: Catalogue
    clock: Clock

    async def grant(self, user_id: UserId, plan_type: str, by: OperatorAction) -> Subscription:
        """Give a user a plan as if it had been bought now (R2); raises ``Conflict`` beyond R11's cap."""
        plan = self.catalogue.require(plan_type)

        granted = SubscriptionId(uuid4())

        def grant(history: Sequence[Subscription], now: datetime, holding: bool) -> Outcome:
            outcome = periods.purchase(
                history,
                subscription_id=granted,
                user_id=user_id,
                invoice_id=None,
                source=Source.GRANT,
                plan=plan,
                now=now,
                holding=holding,
            )
            if outcome.refusal is not None:
                raise Conflict("this would carry the plan more than 400 days ahead", code="prepaid_cap")
            return outcome

        async def choose(_: Connection, __: Sequence[Subscription]) -> Decided:
            return granted, grant

        return await self._decide(user_id, "user.grant", by, choose)

    async def revoke(
        self, user_id: UserId, subscription_id: SubscriptionId | None, by: OperatorAction
    ) -> Subscription:
        """Take a purchase back as if it had never been, by default the current one; a repeat is refused.

        What had been paid before it counts again. No mark at BTCPay undoes it; what such a mark revoked
        before can be revoked here too, so that it stays revoked.
        """

        async def choose(connection: Connection, history: Sequence[Subscription]) -> Decided:
            row = _chosen(history, subscription_id)
            is_new = row.revoked_at is None
            if row.invoice_id is not None:
                given = (Effect.FULFILLED, Effect.REVOKED)
                is_new |= await self._decide_invoice(connection, row.invoice_id, Effect.WITHDRAWN, given, by)
            if not is_new:
                raise Conflict(f"subscription {row.id} was revoked before", code="revoked_before")
            return row.id, lambda history, now, holding: periods.revoke(
                history, row.id, now, reason="operator", holding=holding
            )

        return await self._decide(user_id, "user.revoke", by, choose)

    async def revoke_pack(self, user_id: UserId, name: str, by: OperatorAction) -> Subscription:
        """Take back the pack that an invoice paid for, and return the subscription that had it (R17).

        A repeat is refused.
        """

        async def work(connection: Connection) -> Subscription:
            now = self.clock()
            invoice = await invoices.load_of_user(connection, name, user_id)
            if invoice is None or not invoice.plan.is_pack:
                raise NotFound(f"this user has no pack with invoice {name}")
            before = await subscriptions.lock_history(connection, user_id)
            given = (Effect.FULFILLED, Effect.REVOKED)
            if not await self._decide_invoice(connection, invoice.id, Effect.WITHDRAWN, given, by):
                raise Conflict(f"the pack of invoice {name} is not in effect", code="revoked_before")

            def withdrawn(history: Sequence[Subscription], now: datetime, holding: bool) -> Outcome:
                return periods.withdraw_pack(history, invoice.id, now, reason="operator", holding=holding)

            rows = await self._apply(connection, user_id, before, withdrawn, now)
            await audit.append(connection, by.entry("user.revoke", user_id, f"pack {invoice.id}", now))
            had = {row.id for row in before if any(lot.purchase == invoice.id for lot in own_packs(row))}
            return next(row for row in reversed(rows) if row.id in had or not had)

        return await self.pool.retrying(work, locking_users([user_id]))

    async def cash(self, user_id: UserId, by: OperatorAction) -> Subscription:
        """End the current subscription; the worth of what is left of it becomes credit (R2)."""

        async def choose(_: Connection, history: Sequence[Subscription]) -> Decided:
            return _chosen(history, None).id, lambda history, now, holding: periods.cash(
                history, now, reason="operator", holding=holding
            )

        return await self._decide(user_id, "user.cash", by, choose)

    async def reinstate(
        self, user_id: UserId, subscription_id: SubscriptionId, by: OperatorAction
    ) -> Subscription:
        """Give a revoked purchase back with the same period, no extra time (R8)."""

        async def choose(connection: Connection, history: Sequence[Subscription]) -> Decided:
            row = _chosen(history, subscription_id)
            if row.revoked_at is None:
                raise Conflict(f"subscription {row.id} is not revoked", code="not_revoked")
            if row.invoice_id is not None:
                taken = (Effect.WITHDRAWN, Effect.REVOKED)
                await self._decide_invoice(connection, row.invoice_id, Effect.FULFILLED, taken, by)
            return row.id, lambda history, now, holding: periods.reinstate(
                history, row.id, now, reason="operator", holding=holding
            )

        return await self._decide(user_id, "user.reinstate", by, choose)

    async def settle(self, name: str, by: OperatorAction, *, unpaid: bool = False) -> tuple[Invoice, bool]:
        """Fulfil an invoice by hand (R6); returns it and whether that changed anything.

        Raises ``Conflict`` for an invoice on which no money was ever seen, unless ``unpaid``.
        """
        async with self.pool.connection() as connection:
            found = await invoices.find_invoice(connection, name)
            if found is None:
                raise NotFound(f"there is no invoice {name!r}")
            if found.btcpay_invoice_id is None:
                raise Conflict(
                    f"invoice {name} never reached BTCPay; grant the plan instead", code="not_attached"
                )
            money = found.paid_amount or found.status in (InvoiceStatus.SETTLED, InvoiceStatus.PROCESSING)
            cases = await listings.load_cases_of_invoice(connection, found.id)
            if found.effect is Effect.NONE and not money and not cases and not unpaid:
                raise Conflict(
                    "no money was ever seen on this invoice; with --unpaid it is settled all the same",
                    code="unpaid",
                )

        async def write_down(connection: Connection, before: Invoice, now: datetime) -> None:
            entry = by.entry("invoice.settle", before.user_id, _named(before), now)
            await audit.append(connection, entry)

        resolution = f"settled by {by.who}: {by.reason}"
        settled = await self.settlement.settle_by_hand(found.id, resolution, also=write_down)
        return settled, found.effect is not Effect.FULFILLED

    async def republish(self, user_id: UserId | None, progress: Callable[[int], None]) -> int:
        """Have one document, or all, published again, with new versions; returns how many.

        ``progress`` is told how many are marked so far.
        """
        marked, after = 0, UUID(int=0)
        while True:
            async with self.pool.connection() as connection:
                if user_id is None:
                    users = await people.load_all(connection, after, BATCH)
                else:
                    users = [user_id] if await listings.load_publication(connection, user_id) else []
                    if not users:
                        raise NotFound(f"user {user_id} has no document: nothing was ever bought or granted")
                if users:
                    await outbox.repeat(connection, users)
                    await notify(connection, "entitlements")
            marked += len(users)
            progress(marked)
            if user_id is not None or len(users) < BATCH:
                return marked
            after = users[-1]

    async def count_documents(self) -> int:
        """Return how many users have a document."""
        return await self.pool.read(listings.count_users)

    async def _decide(
        self, user_id: UserId, action: str, by: OperatorAction, choose: "Choose"
    ) -> Subscription:
        """Apply what ``choose`` decides about one subscription, and return it as it is afterwards."""

        async def work(connection: Connection) -> Subscription:
            now = self.clock()
            before = await subscriptions.lock_history(connection, user_id)
            chosen, rule = await choose(connection, before)
            rows = await self._apply(connection, user_id, before, rule, now)
            await audit.append(connection, by.entry(action, user_id, f"subscription {chosen}", now))
            return _chosen(rows, chosen)

        return await self.pool.retrying(work, locking_users([user_id]))

    async def _decide_invoice(
        self,
        connection: Connection,
        invoice_id: InvoiceId,
        effect: Effect,
        instead_of: Sequence[Effect],
        by: OperatorAction,
    ) -> bool:
        """Write what an operator decided on an invoice, and book it; say whether that changed anything.

        What a revocation at BTCPay had made credit pays again, as far as it is left; the rest is granted, so
        the user owes nothing for it.
        """
        before = (await invoices.load(connection, [invoice_id]))[invoice_id]
        if not await invoices.decide(connection, invoice_id, effect, instead_of):
            return False
        after = replace(before, effect=effect)
        if before.effect is Effect.REVOKED:
            key, price = (before.user_id, before.plan.price.currency), before.plan.price.amount
            free = (await ledger.load_free_credit(connection, [before.user_id])).get(key, Decimal(0))
            paid = min(price, before.received + before.credit_used, max(free, Decimal(0)))
            after = replace(after, adjusted=price - paid)
            await invoices.adjust(connection, invoice_id, after.adjusted)
        postings = books.of_invoice(before, after, who=by.who, reason=by.reason)
        await combine(connection, ledger.append_statements(postings, self.clock()))
        return True

    async def _apply(
        self,
        connection: Connection,
        user_id: UserId,
        before: tuple[Subscription, ...],
        rule: "Rule",
        now: datetime,
    ) -> tuple[Subscription, ...]:
        """Apply a rule to the user's whole history, which is locked; returns it as it is afterwards."""
        holding = bool(await invoices.load_processing(connection, [user_id], now))
        outcome = rule(before, now, holding)
        new_events = [fulfilment.subscription_event(h, outcome.history, now) for h in outcome.happenings]
        new_events += fulfilment.quota_events(before, outcome.history, now)
        quoting = quotes.save_statement(row.plan for row in outcome.history[len(before) :])
        change = Change(before, outcome.history)
        await fulfilment.write(connection, [change], new_events, now, beside=[quoting])
        return outcome.history


Rule = Callable[[Sequence[Subscription], datetime, bool], Outcome]
Decided = tuple[SubscriptionId, Rule]
"""The subscription that is meant, and what becomes of the history."""

Choose = Callable[[Connection, Sequence[Subscription]], Awaitable[Decided]]


def _chosen(history: Sequence[Subscription], subscription_id: SubscriptionId | None) -> Subscription:
    row = (
        current(history)
        if subscription_id is None
        else next((row for row in history if row.id == subscription_id), None)
    )
    if row is None and subscription_id is None:
        raise NotFound("this user has no current subscription")
    if row is None:
        raise NotFound(f"this user has no subscription {subscription_id}")
    return row


def _named(invoice: Invoice) -> str:
    return f"invoice {invoice.btcpay_invoice_id or invoice.id}"
