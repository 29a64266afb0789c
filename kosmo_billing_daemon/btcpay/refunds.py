"""Refunds at BTCPay: a refund of an invoice is a *pull payment*, which the customer claims by its link.

BTCPay lists no refunds of an invoice: a pull payment is found by its id, or by the name that we or BTCPay
gave it. A claim is paid once somebody approves it in BTCPay; what is not claimed can be archived.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from kosmo_billing_daemon.btcpay.addresses import Links, is_opaque, opaque
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayRefused, Garbled
from kosmo_billing_daemon.btcpay.reading import (
    MAX_URL_LENGTH,
    flag,
    items,
    mapping,
    number,
    one_of,
    optional_text,
    text,
)
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.runtime.records import record

NEEDED: Final = {
    "btcpay.store.cancreatenonapprovedpullpayments": "refund",
    "btcpay.store.canarchivepullpayments": "take back a refund that nobody claimed",
}
"""The permissions that these calls need, and what for."""

_UNKNOWN = ("pullpayment-not-found", "invoice-not-found")


class ClaimState(StrEnum):
    """Where a claim (a payout) stands."""

    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_PAYMENT = "AwaitingPayment"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"


@record(kw_only=True)
class PullPayment:
    """A refund as BTCPay shows it; the customer claims it at ``link``."""

    id: str
    name: str | None
    total: Price
    is_archived: bool
    link: str


@record(kw_only=True)
class Claim:
    """One claim of a refund, in the currency of the refund."""

    id: str
    amount: Decimal
    state: ClaimState


async def refund(client: BtcpayClient, btcpay_invoice_id: str, total: Price, name: str) -> PullPayment:
    """Refund this sum of an invoice. A repeat makes a second one: look for ``name`` first."""
    body = {
        "name": name,
        "refundVariant": "Custom",
        "customAmount": f"{total.amount:f}",
        "customCurrency": total.currency,
    }
    path = f"invoices/{opaque(btcpay_invoice_id)}/refund"
    made = _pull_payment(await client.ask("refund", path, method="POST", body=body), client.links)
    if made.total != total:
        raise Garbled("amount", f"{made.total.amount} {made.total.currency} instead of what was asked for")
    return made


def name_in_pages(btcpay_invoice_id: str) -> str:
    """Return the name that BTCPay gives a refund that was made in its own pages."""
    return f"Refund {btcpay_invoice_id}"


async def fetch(client: BtcpayClient, pull_payment_id: str) -> PullPayment | None:
    """Return a pull payment, or ``None`` if there is none of that id."""
    if not is_opaque(pull_payment_id):
        return None
    try:
        found = await client.ask("fetch_pull_payment", f"/api/v1/pull-payments/{pull_payment_id}")
    except BtcpayRefused as error:
        if error.btcpay_code not in _UNKNOWN:
            raise
        return None
    return _pull_payment(found, client.links)


async def find(client: BtcpayClient, name: str) -> PullPayment | None:
    """Return the pull payment of our store that has this name, archived or not."""
    return next((each for each in await load(client) if each.name == name), None)


async def load(client: BtcpayClient) -> list[PullPayment]:
    """Return the pull payments of our store, archived ones too; they need not be refunds."""
    found = await client.ask("list_pull_payments", "pull-payments?includeArchived=true")
    return [_pull_payment(each, client.links) for each in items(found, "pull payments")]


async def fetch_claims(client: BtcpayClient, pull_payment_id: str) -> list[Claim]:
    """Return the claims of a pull payment, without those that were cancelled."""
    path = f"/api/v1/pull-payments/{opaque(pull_payment_id)}/payouts"
    return [_claim(each) for each in items(await client.ask("fetch_claims", path), "payouts")]


async def archive(client: BtcpayClient, pull_payment_id: str) -> None:
    """Archive a pull payment, so that nobody can claim it any more; a repeat changes nothing."""
    await client.ask("archive_pull_payment", f"pull-payments/{opaque(pull_payment_id)}", method="DELETE")
    seen = await fetch(client, pull_payment_id)  # the answer was empty, as anybody's can be
    if seen is None or not seen.is_archived:
        raise Garbled("archived", "it is not archived; does BTCPAY_URL lead to BTCPay itself?")


def _pull_payment(document: Any, links: Links) -> PullPayment:
    found = mapping(document, "pull payment")
    return PullPayment(
        id=text(found, "id"),
        name=optional_text(found, "name"),
        total=Price(number(found, "amount"), text(found, "currency", most=32)),
        is_archived=flag(found, "archived"),
        link=links.reachable(text(found, "viewLink", most=MAX_URL_LENGTH)),
    )


def _claim(document: Any) -> Claim:
    found = mapping(document, "payout")
    state = one_of(found, "state", {state.value: state for state in ClaimState})
    return Claim(id=text(found, "id"), amount=number(found, "originalAmount"), state=state)
