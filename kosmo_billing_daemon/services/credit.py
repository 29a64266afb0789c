"""What users have in credit, and what a purchase would cost and do (R15, R16). It only reads."""

from dataclasses import replace
from decimal import Decimal

from kosmo_billing_daemon.domain.invoices import is_confirming
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.quoting import Quote, quote, refusal
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import entries, invoices, ledger, purchases, refunds
from kosmo_billing_daemon.store.entries import Entry
from kosmo_billing_daemon.store.postgres import Connection, Pool
from kosmo_billing_daemon.store.purchases import Holdings
from kosmo_billing_daemon.store.refunds import Refund

ENTRIES = 50
"""How many of a user's last entries are shown."""


@record
class Balance:
    """Credit in one currency; ``reserved`` of it is kept for open invoices."""

    currency: str
    amount: Decimal
    reserved: Decimal


@record
class CreditAccount:
    """A user's credit, open refunds, and the last entries of the ledger, newest first."""

    balances: tuple[Balance, ...]
    refunds: tuple[Refund, ...]
    entries: tuple[Entry, ...]


@record(kw_only=True)
class CreditAccounts:
    """Shows credit; unless it ``spends`` any, a quote counts on none."""

    pool: Pool
    clock: Clock
    spends: bool

    async def show(self, user_id: UserId) -> CreditAccount:
        """Return what a user has."""
        async with self.pool.connection() as connection:
            balances, _ = await self._load(connection, user_id)
            ordered = await refunds.load_of_user(connection, user_id)
            booked = await entries.load_of_user(connection, user_id, ENTRIES)
        open_ = tuple(each for each in ordered if each.cancelled_at is None and each.link is not None)
        return CreditAccount(balances, open_, tuple(booked))

    async def quote(self, user_id: UserId, plan: Plan) -> Quote:
        """Say what buying a plan or pack would do at this instant.

        It is refused as opening an invoice is: what is being paid already counts too (R11).
        """
        now = self.clock()
        async with self.pool.connection() as connection:
            balances, holdings = await self._load(connection, user_id)
        price = plan.price
        spendable = sum((b.amount - b.reserved for b in balances if b.currency == price.currency), Decimal(0))
        history = () if holdings.current is None else (holdings.current,)
        quoted = quote(history, plan, spendable if self.spends else Decimal(0), now)
        confirming = [one.plan for one in holdings.open if is_confirming(one)]
        if quoted.refusal is None and confirming and not plan.is_pack:
            why = refusal(history, [*confirming, plan], now)
            quoted = replace(quoted, refusal=why, subscription=quoted.subscription if why is None else None)
        return quoted

    async def _load(self, connection: Connection, user_id: UserId) -> tuple[tuple[Balance, ...], Holdings]:
        holdings = (await purchases.load(connection, [user_id], self.clock())).get(user_id, Holdings())
        amounts = await ledger.load_balances(connection, [user_id])
        reserved = await invoices.load_reserved_credit(connection, [user_id])
        balances = tuple(
            Balance(key[1], amount, reserved.get(key, Decimal(0)))
            for key, amount in sorted(amounts.items())
            if amount
        )
        return balances, holdings
