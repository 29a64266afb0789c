"""What operators decide about cases: closed without giving rights, or the money given to a user.

The rule it keeps: what a case was about is in the ledger afterwards, or an operator has said why not.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain.invoices import CaseKind, Effect, Invoice
from kosmo_billing_daemon.domain.ledger import EntryKind, Posting
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.store import attention, audit, invoices, ledger, listings
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.listings import ListedCase
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

_BESIDE_A_FULFILMENT: Final = (CaseKind.OVERPAID, CaseKind.PAID_TWICE)
"""Closing any other case of an invoice decides that its money gives no rights."""


_IN_NO_LEDGER: Final = (CaseKind.UNKNOWN_ORDER, CaseKind.PAID_TWICE)
"""Cases about money on invoices at BTCPay that are none of ours."""


@record(kw_only=True)
class CaseActions:
    """Carries out what operators decide about cases."""

    pool: Pool
    clock: Clock

    async def close(self, number: int, by: OperatorAction) -> ListedCase:
        """Close a case without giving any rights, as after a refund; what comes in later is listed anew.

        A balance below zero is evened out with it.
        """
        async with self.pool.connection() as connection:
            asked = await listings.lock_case(connection, number)
        if asked is None:
            raise NotFound(f"there is no case {number}")

        async def work(connection: Connection) -> ListedCase:
            case = await _lock_open(connection, number)
            now = self.clock()
            if case.kind is CaseKind.NEGATIVE_BALANCE and case.user_id is not None:
                await self._forgive(connection, case.user_id, case.currency, by, now)
            await attention.decide(connection, number, f"closed by {by.who}: {by.reason}", now)
            if case.invoice is not None:
                if case.kind not in _BESIDE_A_FULFILMENT:
                    await invoices.decide(connection, case.invoice.id, Effect.DECLINED, [Effect.NONE])
                if case.kind is not CaseKind.MISMATCH:  # whose money is in no ledger
                    await self._write_off(connection, case.invoice, by, now)
            await audit.append(connection, by.entry("attention.close", case.user_id, _subject(case), now))
            return case

        users = [] if asked.user_id is None else [asked.user_id]
        return await self.pool.retrying(work, locking_users(users))

    async def give(self, number: int, user_id: UserId, by: OperatorAction) -> ListedCase:
        """Book the money of an unknown order, or of an order's second invoice, as received from a user.

        It is the user's credit from now on.
        """

        async def work(connection: Connection) -> ListedCase:
            case = await _lock_open(connection, number)
            if case.kind not in _IN_NO_LEDGER:
                raise Conflict(
                    f"case {number} ({case.kind}) is about money that is in the ledger already",
                    code="in_the_ledger",
                )
            if case.user_id not in (None, user_id):
                raise Conflict(f"case {number} is about money of user {case.user_id}", code="not_theirs")
            now = self.clock()
            posting = Posting(
                user_id=user_id,
                kind=EntryKind.RECEIVED,
                amount=case.undecided,
                currency=case.currency,
                who=by.who,
                reason=f"{by.reason} ({_money_of(case)})",
            )
            told = fulfilment.credit_event(posting, case.kind, now)
            await fulfilment.write(connection, [], [told], now, postings=[posting])
            resolution = f"given to user {user_id} by {by.who}: {by.reason}"
            await attention.decide(connection, number, resolution, now, user_id)
            await audit.append(connection, by.entry("attention.give", user_id, _subject(case), now))
            return case

        return await self.pool.retrying(work, locking_users([user_id]))

    async def _forgive(
        self, connection: Connection, user_id: UserId, currency: str, by: OperatorAction, now: datetime
    ) -> None:
        """Grant what the user's balance is below zero, which is asked for no more."""
        balances = await ledger.load_balances(connection, [user_id])
        posting = Posting(
            user_id=user_id,
            kind=EntryKind.GRANTED,
            amount=-balances[user_id, currency],
            currency=currency,
            who=by.who,
            reason=by.reason,
        )
        told = fulfilment.credit_event(posting, CaseKind.NEGATIVE_BALANCE, now)
        await fulfilment.write(connection, [], [told], now, postings=[posting])

    async def _write_off(
        self, connection: Connection, invoice: Invoice, by: OperatorAction, now: datetime
    ) -> None:
        """Book that the operator has settled outside what an invoice brought in and did not buy (R13).

        What became credit because it bought nothing stays the user's. What was refunded or spent is gone.
        """
        unused = await self._left(connection, invoice)
        if unused > 0:
            after = replace(invoice, adjusted=invoice.adjusted - unused)
            await invoices.adjust(connection, invoice.id, after.adjusted)
            postings = books.of_invoice(invoice, after, who=by.who, reason=by.reason)
            await combine(connection, ledger.append_statements(postings, now))

    async def _left(self, connection: Connection, invoice: Invoice) -> Decimal:
        """Return what an invoice brought in that bought nothing and is still there."""
        if invoice.effect is Effect.CREDITED:
            return Decimal(0)
        key = (invoice.user_id, invoice.plan.price.currency)
        refunded = await ledger.load_refunded(connection, invoice.user_id, invoice.id)
        free = await ledger.load_free_credit(connection, [invoice.user_id])
        return min(books.unused(invoice) - refunded, free.get(key, Decimal(0)))


async def _lock_open(connection: Connection, number: int) -> ListedCase:
    case = await listings.lock_case(connection, number)
    if case is None:
        raise NotFound(f"there is no case {number}")
    if case.closed_at is not None:
        raise Conflict(f"case {number} is closed: {case.resolution}", code="closed_before")
    return case


def _money_of(case: ListedCase) -> str:
    if case.kind is CaseKind.UNKNOWN_ORDER:
        return f"BTCPay invoice {case.btcpay_invoice_id}"
    return case.detail


def _subject(case: ListedCase) -> str:
    about = "" if case.invoice is None else f" of invoice {case.btcpay_invoice_id or case.invoice.id}"
    if case.kind is CaseKind.UNKNOWN_ORDER:
        about = f" of invoice {case.btcpay_invoice_id}"
    return f"case {case.number} ({case.kind}){about}"
