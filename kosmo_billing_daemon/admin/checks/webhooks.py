"""BTCPay's webhook to us: what it must be like, and making it so.

The rule it keeps: nothing is stored; a new secret is returned once. A webhook of another address is
somebody else's and is left alone; another spelling of ours is ours.
"""

import contextlib
import secrets
from dataclasses import replace
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote, urlsplit

from kosmo_billing_daemon.btcpay.administration import RegisteredWebhook
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.contract.paths import WEBHOOK
from kosmo_billing_daemon.runtime.records import record

WANTED_EVENTS = (
    "InvoiceReceivedPayment",
    "InvoicePaymentSettled",
    "InvoiceProcessing",
    "InvoiceSettled",
    "InvoiceExpired",
    "InvoiceExpiredPaidPartial",
    "InvoicePaidAfterExpiration",
    "InvoiceInvalid",
    "InvoiceRefund",
)
"""What changes an invoice, or gives its money back. BTCPay does not check names, so those that an older one
does not know do no harm.
"""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@record(kw_only=True)
class Registered:
    """The webhook as it is now. ``secret`` is a new one, to be kept by the caller; ``fixed`` says what was
    wrong; ``surplus`` are further webhooks of the same address, which make deliveries come twice.
    """

    webhook: RegisteredWebhook
    is_new: bool
    fixed: tuple[str, ...]
    surplus: tuple[str, ...]
    secret: str | None


def new_secret() -> str:
    """Return a secret nobody knows yet."""
    return secrets.token_urlsafe(32)


def defects(webhook: RegisteredWebhook, url: str | None) -> tuple[str, ...]:
    """Say what keeps a webhook of ours from doing its work at ``url``."""
    wrong = []
    if url is not None and _differs(webhook.url, url):
        wrong.append("it is spelled otherwise than WEBHOOK_URL, so deliveries may not arrive")
    if not webhook.enabled:
        wrong.append("it is switched off")
    if not webhook.automatic_redelivery:
        wrong.append("failed deliveries are not repeated")
    missing = [name for name in WANTED_EVENTS if name not in webhook.events]
    if not webhook.everything and missing:
        wrong.append(f"it does not send {', '.join(missing)}")
    return tuple(wrong)


def ours(webhooks: list[RegisteredWebhook], url: str | None) -> list[RegisteredWebhook]:
    """Pick the webhooks that lead to us: of this address, or with our path where it is not known."""
    if url is None:
        return [webhook for webhook in webhooks if urlsplit(webhook.url).path.rstrip("/").endswith(WEBHOOK)]
    found = [webhook for webhook in webhooks if _address(webhook.url) == _address(url)]
    return sorted(found, key=lambda webhook: (webhook.url != url, _differs(webhook.url, url)))


def _address(url: str) -> tuple[str, ...]:
    """Return what two spellings of one address have in common.

    A server has one name whatever its case, its default port may be left out, and who answers on the one of
    http answers on the one of https; a final slash and quoted letters make no other path.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return (url,)
    with contextlib.suppress(ValueError):
        host = str(ip_address(host))
    with contextlib.suppress(UnicodeError):
        host = host.encode("idna").decode()
    place = "" if port == _DEFAULT_PORTS.get(parts.scheme) else str(port)
    return host, place, unquote(parts.path).rstrip("/"), parts.query


def _differs(url: str, wanted: str) -> bool:
    """Say whether deliveries to one spelling of an address go another way than those to the other."""
    one, other = urlsplit(url), urlsplit(wanted)
    login = (other.username, other.password)
    return (one.scheme, unquote(one.path)) != (other.scheme, unquote(other.path)) or (
        login not in ((None, None), (one.username, one.password))
    )


async def register(client: BtcpayClient, url: str, *, secret: str | None, fresh: str | None) -> Registered:
    """Create the webhook or fix it; a repeat changes nothing.

    ``secret`` is the one we expect deliveries to be signed with, if it is set already. Else ``fresh`` is
    given to a webhook, and returned; without it one that exists keeps the secret it has.
    """
    found = ours(await client.list_webhooks(), url)
    wanted = secret or fresh
    if not found:
        made = await client.create_webhook(url, secret=wanted, events=WANTED_EVENTS)
        shown = None if secret else (wanted or made.secret)
        return Registered(webhook=made, is_new=True, fixed=(), surplus=(), secret=shown)
    webhook = found[0]
    wrong = defects(webhook, url)
    if wrong or wanted:
        events = webhook.events if webhook.everything else WANTED_EVENTS
        address = url if _differs(webhook.url, url) else webhook.url
        right = replace(webhook, url=address, enabled=True, automatic_redelivery=True, events=events)
        webhook = await client.update_webhook(right, secret=wanted)
    return Registered(
        webhook=webhook,
        is_new=False,
        fixed=wrong,
        surplus=tuple(other.id for other in found[1:]),
        secret=None if secret else fresh,
    )
