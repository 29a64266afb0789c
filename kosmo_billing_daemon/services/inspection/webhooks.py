"""BTCPay's webhook to us: what it must be like, and making it so.

The rule it keeps: nothing is stored; a new secret is returned once. A webhook of another address is
somebody else's and is left alone.
"""

import secrets
from dataclasses import replace

from kosmo_billing_daemon.btcpay.administration import Webhook
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.records import record

WANTED_EVENTS = (
    "InvoiceReceivedPayment",
    "InvoicePaymentSettled",
    "InvoiceProcessing",
    "InvoiceSettled",
    "InvoiceExpired",
    "InvoiceExpiredPaidPartial",
    "InvoicePaidAfterExpiration",
    "InvoiceInvalid",
)
"""What changes an invoice. BTCPay does not check names, so those an older one does not know do no harm."""

PATH = "/api/v1/billing/webhooks/btcpay"


@record(kw_only=True)
class Registered:
    """The webhook as it is now. ``secret`` is a new one, to be kept by the caller; ``mended`` says what was
    wrong; ``surplus`` are further webhooks of the same address, which make deliveries come twice.
    """

    webhook: Webhook
    is_new: bool
    mended: tuple[str, ...]
    surplus: tuple[str, ...]
    secret: str | None


def new_secret() -> str:
    """Return a secret nobody knows yet."""
    return secrets.token_urlsafe(32)


def defects(webhook: Webhook) -> tuple[str, ...]:
    """Say what keeps a webhook from doing its work."""
    wrong = []
    if not webhook.enabled:
        wrong.append("it is switched off")
    if not webhook.automatic_redelivery:
        wrong.append("failed deliveries are not repeated")
    missing = [name for name in WANTED_EVENTS if name not in webhook.events]
    if not webhook.everything and missing:
        wrong.append(f"it does not send {', '.join(missing)}")
    return tuple(wrong)


def ours(webhooks: list[Webhook], url: str | None) -> list[Webhook]:
    """Pick the webhooks that lead to us: of this address, or with our path where it is not known."""
    if url is None:
        return [webhook for webhook in webhooks if webhook.url.rstrip("/").endswith(PATH)]
    return [webhook for webhook in webhooks if webhook.url == url]


async def register(client: BtcpayClient, url: str, *, secret: str | None, fresh: str | None) -> Registered:
    """Create the webhook or mend it; a repeat changes nothing.

    ``secret`` is the one we expect deliveries to be signed with, if it is set already. Else ``fresh`` is
    given to a webhook, and returned; without it one that exists keeps the secret it has.
    """
    found = ours(await client.list_webhooks(), url)
    wanted = secret or fresh
    if not found:
        made = await client.create_webhook(url, secret=wanted, events=WANTED_EVENTS)
        shown = None if secret else (wanted or made.secret)
        return Registered(webhook=made, is_new=True, mended=(), surplus=(), secret=shown)
    webhook = found[0]
    wrong = defects(webhook)
    if wrong or wanted:
        events = webhook.events if webhook.everything else WANTED_EVENTS
        right = replace(webhook, enabled=True, automatic_redelivery=True, events=events)
        webhook = await client.update_webhook(right, secret=wanted)
    return Registered(
        webhook=webhook,
        is_new=False,
        mended=wrong,
        surplus=tuple(other.id for other in found[1:]),
        secret=None if secret else fresh,
    )
