"""Renewal from credit, as users choose it (R15): the choice, what it would do, and the renewal itself.

The rule it keeps: a plan is renewed once, in the transaction that would otherwise end it, and only where
credit covers its whole price of that moment.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from uuid import uuid4

from kosmo_billing_daemon.domain.auto_renewal import Obstacle, obstacle, renewal_quote, renewal_time
from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.domain.quoting import Quote
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, Subscription, UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import from_credit
from kosmo_billing_daemon.store import auto_renewals, invoices, ledger, purchases, quotes
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users


@record(kw_only=True)
class RenewalOutlook:
    """Whether a user chose renewal, and what it would do to ``current``; ``obstacle`` is why it would not."""

    auto: bool
    current: Subscription | None
    quote: Quote | None
    obstacle: Obstacle | None


@record(kw_only=True)
class AutoRenewals:
    """Keeps users' choices. Unless the service ``spends`` credit, nothing is renewed from it."""

    pool: Pool
    clock: Clock
    catalogue: Catalogue
    spends: bool

    async def show(self, user_id: UserId) -> RenewalOutlook:
        """Return the user's choice, and what would become of it as things stand."""
        now = self.clock()
        async with self.pool.connection() as connection:
            auto = await auto_renewals.is_on(connection, user_id)
            row = (await purchases.load(connection, [user_id], now))[user_id].current
            quoted = None if row is None else (await self.quote(connection, [row], now)).get(user_id)
        why = obstacle(row, quoted) if self.spends else Obstacle.CREDIT_OFF
        return RenewalOutlook(auto=auto, current=row, quote=quoted, obstacle=why)

    async def choose(self, user_id: UserId, *, auto: bool) -> RenewalOutlook:
        """Switch renewal on or off; raises ``Conflict`` where credit is not spent at all."""
        if auto and not self.spends:
            raise Conflict("plans cannot be paid from credit here", code="credit_off")

        async def work(connection: Connection) -> None:
            await auto_renewals.choose(connection, user_id, self.clock(), auto=auto)

        await self.pool.retrying(
            work, locking_users([user_id])
        )  # after it, nothing is renewed by the old choice
        return await self.show(user_id)

    async def quote(
        self, connection: Connection, rows: Iterable[Subscription], now: datetime
    ) -> dict[UserId, Quote]:
        """Say what renewing each of these subscriptions would do, but for plans that are not for sale."""
        users = {row.user_id: row for row in rows}
        if not users or not self.spends:
            return {}
        free: dict[UserId, dict[str, Decimal]] = {}
        for (user_id, currency), amount in (await ledger.load_free_credit(connection, users)).items():
            free.setdefault(user_id, {})[currency] = amount
        found = {
            user_id: renewal_quote(row, self.catalogue, free.get(user_id, {}), now)
            for user_id, row in users.items()
        }
        return {user_id: quoted for user_id, quoted in found.items() if quoted is not None}

    async def renew(
        self, connection: Connection, renewing: Mapping[UserId, tuple[Subscription, Quote]], now: datetime
    ) -> None:
        """Renew subscriptions that credit covers, in a transaction that holds their users' locks."""
        paid = [
            Invoice(
                id=InvoiceId(uuid4()),
                user_id=user_id,
                plan=quoted.plan,
                status=InvoiceStatus.SETTLED,
                effect=Effect.FULFILLED,
                created_at=now,
                settled_at=now,
                credit_used=quoted.due.credit,
            )
            for user_id, (_, quoted) in renewing.items()
        ]
        if not paid:
            return
        await combine(
            connection,
            [invoices.append_paid_statement(paid), quotes.save_statement(invoice.plan for invoice in paid)],
        )
        times = {user_id: (row, renewal_time(row, now)) for user_id, (row, _) in renewing.items()}
        await from_credit.fulfil(connection, paid, now, renewing=times)
