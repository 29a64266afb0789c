"""What a user may ask of the operator: everything that is known, and that it is erased.

The rule it keeps: money stays as it is, under a pseudonym that nobody is told; whatever else is about the
user goes in one transaction. So what the user still has must be given up first, or knowingly.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from uuid import uuid4

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.btcpay import refunds as at_btcpay
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.refunds import ClaimState
from kosmo_billing_daemon.contract.encoding import rfc3339
from kosmo_billing_daemon.domain.invoices import InvoiceStatus
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.store import audit, erasures, ledger, listings, purchases, refunds, subjects
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.postgres import Connection, Pool

MOST_CASES = 1000
FORMAT = "kosmo-billing user export 1"


@record(kw_only=True)
class ErasurePreview:
    """How many rows about the user there are in each table, and what the user would give up by erasure.

    ``open_refunds`` are on their way to the user, so nothing is erased before they have ended.
    """

    rows: Mapping[str, int]
    forfeits: tuple[str, ...]
    open_refunds: tuple[str, ...]


@record(kw_only=True)
class DataSubjects:
    """Exports and erases users."""

    pool: Pool
    btcpay: BtcpayClient
    clock: Clock

    async def export_text(self, user_id: UserId) -> AsyncGenerator[str]:
        """Give one JSON document, part by part: a user with a million messages needs no more memory.

        Every table has its rows as of one moment. Raises ``NotFound`` before the first part.
        """
        document = await Entitlements(pool=self.pool, clock=self.clock).show(user_id)
        async with self.pool.transaction() as connection:
            await _require_known(connection, user_id)
            head = {
                "format": FORMAT,
                "user_id": str(user_id),
                "exported_at": rfc3339(self.clock()),
                "about": {name: held.about for name, held in subjects.HELD.items()},
                "entitlement": json.loads(document.encode()),
            }
            yield json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}") + ',\n "tables": {'
            names = iter(subjects.HELD)
            current: str | None = None

            def begun(until: str | None) -> str:
                """Close the table at hand, and open the next ones up to this."""
                nonlocal current
                text = ""
                for name in names:
                    text += ("" if current is None else "],") + f'\n  "{name}": ['
                    current = name
                    if name == until:
                        break
                return text

            async for name, row in subjects.stream(connection, user_id):
                separator = "," if name == current else begun(name)
                yield f"{separator}\n   {row}"
            yield begun(None) + "]\n }\n}\n"

    async def preview(self, user_id: UserId) -> ErasurePreview:
        """Say what an erasure would do; raises ``NotFound`` where nothing is known."""
        async with self.pool.connection() as connection:
            rows = await _require_known(connection, user_id)
            forfeits = await self._forfeits(connection, user_id)
        return ErasurePreview(rows=rows, forfeits=forfeits, open_refunds=await self._open_refunds(user_id))

    async def erase(self, user_id: UserId, by: OperatorAction, *, forfeit: bool) -> Mapping[str, int]:
        """Erase a user; returns how many rows of each table that touched.

        Raises ``Conflict`` while a refund is open, and for what the user still has, unless ``forfeit``. The
        document is cleared by the daemon that publishes; until then the outbox names the user.
        """
        if user_id.hex in by.reason.lower().replace("-", ""):
            raise Invalid("the reason is kept, so it must not name the user", field="reason")
        if open_refunds := await self._open_refunds(user_id):
            raise Conflict("; ".join(open_refunds), code="refund_open")

        async def work(connection: Connection) -> Mapping[str, int]:
            rows = await _require_known(connection, user_id)
            if any(one.pull_payment_id is None for one in await _refunds(connection, user_id)):
                raise Conflict("a refund was ordered meanwhile", code="refund_open")
            forfeits = await self._forfeits(connection, user_id)
            if forfeits and not forfeit:
                raise Conflict(
                    f"{'; '.join(forfeits)}. With --forfeit the user is erased all the same",
                    code="has_rights",
                )
            now = self.clock()
            for statement in erasures.statements(user_id, uuid4(), now):
                await combine(connection, [statement])
            await audit.append(connection, by.entry("user.erase", None, "all about one user", now))
            return rows

        return await self.pool.retrying(work, erasures.erasing(user_id))

    async def is_cleared(self, user_id: UserId) -> bool:
        """Say whether the broker has acknowledged that the user's document is gone."""
        return not await self.pool.read(erasures.is_queued, user_id)

    async def _forfeits(self, connection: Connection, user_id: UserId) -> tuple[str, ...]:
        """Say what the user would give up, each in a sentence."""
        found: list[str] = []
        now = self.clock()
        holdings = (await purchases.load(connection, [user_id], now))[user_id]
        if holdings.current is not None:
            ends = f"{holdings.current.end:%Y-%m-%d}"
            found.append(f"the plan {holdings.current.plan.plan_type} runs until {ends} and would end now")
        for invoice in holdings.open:
            name = invoice.btcpay_invoice_id or f"order {invoice.id}"
            seen = "is being paid" if invoice.status is InvoiceStatus.PROCESSING else "can still be paid"
            found.append(f"invoice {name} {seen}: that money would give no rights")
        for (_, currency), amount in sorted((await ledger.load_balances(connection, [user_id])).items()):
            if amount > 0:
                found.append(f"{amount:f} {currency} are credit that the user could not spend any more")
            elif amount < 0:
                found.append(f"{-amount:f} {currency} are owed by the user")
        cases = await listings.load_cases_of_user(connection, user_id, MOST_CASES)
        if undecided := sum(case.closed_at is None for case in cases):
            found.append(f"payments need attention ({undecided}) and would stay open under the pseudonym")
        return tuple(found)

    async def _open_refunds(self, user_id: UserId) -> tuple[str, ...]:
        """Say which refunds have not reached the user yet; raises ``Unavailable`` without BTCPay."""
        known = await self.pool.read(_refunds, user_id)
        found: list[str] = []
        for one in known:
            total = f"{one.total.amount:f} {one.total.currency}"
            advice = f"see: kosmo-billing refund cancel {one.btcpay_invoice_id}"
            if one.pull_payment_id is None:
                found.append(f"the refund of {total} is not made yet; repeat the order, or {advice}")
                continue
            made = await at_btcpay.fetch(self.btcpay, one.pull_payment_id)
            if made is None:
                continue
            claims = await at_btcpay.fetch_claims(self.btcpay, one.pull_payment_id)
            if any(claim.state is not ClaimState.COMPLETED for claim in claims):
                found.append(f"the refund of {total} is claimed and not paid out: pay or cancel it in BTCPay")
            elif not claims and not made.is_archived:
                found.append(f"nobody has claimed the refund of {total} yet; {advice}")
        return tuple(found)


async def _refunds(connection: Connection, user_id: UserId) -> list[refunds.Refund]:
    known = await refunds.load_of_user(connection, user_id)
    return [each for each in known if each.cancelled_at is None and each.paid_at is None]


async def _require_known(connection: Connection, user_id: UserId) -> dict[str, int]:
    if await erasures.is_pseudonym(connection, user_id):
        raise Conflict("this is the pseudonym of an erased user: money alone is left", code="user_erased")
    rows = await subjects.count(connection, user_id)
    if not any(
        number for name, number in rows.items() if name != "outbox"
    ):  # whose document is to be cleared
        raise NotFound("nothing is known about this user")
    return rows
