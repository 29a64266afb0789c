"""Ten payments that no rule decides, for operators to practise on (``kosmo-billing demo --cases``).

Each is made as it happens: an order by the API, and payers who do at BTCPay what they should not. With
``CREDIT=off``, since most of this would be credit otherwise and ask nobody.
"""

import asyncio
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.demo.console.proxy import open_session
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.identity import HEADER

CASES: Final = 10
WITHIN: Final = 30.0  # seconds; on two cores it takes about two
_LIGHTNING: Final = "BTC-LN"
_TOO_LATE: Final = timedelta(days=4)
_OPEN: Final = "SELECT count(*) FROM attention_cases WHERE closed_at IS NULL"
_HAS_PLAN: Final = """
SELECT count(*) FROM subscriptions
WHERE invoice_id = (SELECT id FROM btcpay_invoices WHERE btcpay_invoice_id = $1)
"""


@record(kw_only=True)
class PracticeCases:
    """Brings the cases about."""

    api: str
    simulator: Simulator
    pool: Pool
    plan: Plan

    async def make(self) -> None:
        """Make them all, and wait until they are open; raises ``Unavailable`` if they do not come."""
        for plan, paid in (("wanderer", "2.50"), ("guardian", "11.50"), ("sanctuary", "12.00")):
            await self._pay_in_part(plan, paid)
        for plan, paid in (("wanderer", "7.00"), ("guardian", "50.00")):
            await self._pay(await self._order(plan), paid)
        await self.simulator.act(await self._pay_in_part("guardian", "6.00"), "mark_invalid")
        await self._pay_late()
        await self._pay_twice()
        await self._pay(await self._at_btcpay(uuid4()))  # an order of nobody here
        await self._take_back()
        await self._until(_OPEN, CASES)

    async def _order(self, plan: str) -> str:
        """Order a plan as a new user; returns BTCPay's id of the invoice."""
        async with (
            open_session() as http,
            http.post(
                f"{self.api}{API}/invoices", json={"plan_type": plan}, headers={HEADER: str(uuid4())}
            ) as answer,
        ):
            answer.raise_for_status()
            return str((await answer.json())["invoice_id"])

    async def _pay(self, invoice: str, amount: str | None = None) -> None:
        await self.simulator.act(invoice, "pay", amount, _LIGHTNING)

    async def _pay_in_part(self, plan: str, amount: str) -> str:
        invoice = await self._order(plan)
        await self._pay(invoice, amount)
        await self.simulator.act(invoice, "expire")
        return invoice

    async def _pay_late(self) -> None:
        """Pay an invoice in full that BTCPay says expired days ago."""
        invoice = await self._order("guardian")
        await self.simulator.act(invoice, "expire")
        self.simulator.invoices[invoice].expires -= _TOO_LATE
        await self.simulator.act(invoice, "pay_late", None, _LIGHTNING)

    async def _pay_twice(self) -> None:
        """Pay two invoices of BTCPay for one order."""
        invoice = await self._order("wanderer")
        order = self.simulator.invoices[invoice].order_id
        again = await self._at_btcpay(UUID(order))
        await self._pay(again)
        await self._pay(invoice)

    async def _at_btcpay(self, order: UUID) -> str:
        """Create an invoice behind the daemon's back."""
        simulator = self.simulator
        async with BtcpayClient(
            url=simulator.url, api_key=simulator.api_key, store_id=simulator.store_id
        ) as btcpay:
            return (await btcpay.create_invoice(order, self.plan)).btcpay_invoice_id

    async def _take_back(self) -> None:
        """Refund in BTCPay's own pages what bought a plan."""
        invoice = await self._order("wanderer")
        await self._pay(invoice)
        await self._until(_HAS_PLAN, 1, invoice)
        self.simulator.refund(invoice)

    async def _until(self, query: str, number: int, *values: object) -> None:
        try:
            async with asyncio.timeout(WITHIN):
                while True:
                    async with self.pool.connection() as connection:
                        if await connection.fetchval(query, *values) >= number:
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unavailable("the cases of the demo did not open") from None
