"""Everybody's refunds, page after page, and which of them are claimed: that only BTCPay knows."""

import asyncio
from collections.abc import Sequence
from typing import Final

from kosmo_billing_daemon.btcpay import refunds as at_btcpay
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.refunds import Claim
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import refunds
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.refunds import Refund

_BEYOND_ALL: Final = 2**63 - 1
_ASKED_AT_ONCE: Final = 4


@record(kw_only=True)
class RefundPage:
    """Refunds, newest first; ``next`` is the number below which the list goes on."""

    refunds: tuple[Refund, ...]
    next: int | None


async def load_page(pool: Pool, before: int | None, limit: int) -> RefundPage:
    """Return one page of everybody's refunds."""
    found = await pool.read(refunds.load_newest, before or _BEYOND_ALL, limit + 1)
    shown = tuple(found[:limit])
    return RefundPage(refunds=shown, next=shown[-1].id if len(found) > limit else None)


async def fetch_claims(btcpay: BtcpayClient, listed: Sequence[Refund]) -> dict[int, list[Claim]]:
    """Ask BTCPay who has claimed these, a few at a time; raises ``Unavailable``."""
    made = [one for one in listed if one.pull_payment_id and one.cancelled_at is None]
    turn = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def ask(refund: Refund) -> list[Claim]:
        async with turn:
            return await at_btcpay.fetch_claims(btcpay, refund.pull_payment_id or "")

    return dict(zip([one.id for one in made], await asyncio.gather(*map(ask, made)), strict=True))
