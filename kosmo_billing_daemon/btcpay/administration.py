"""What BTCPay says about itself, the store and its webhooks: the ground of checks and of registration.

The rule it keeps: none of this decides about money, so a field that only informs may be absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime
from decimal import Decimal
from typing import Any

from kosmo_billing_daemon.btcpay.errors import Garbled
from kosmo_billing_daemon.btcpay.reading import (
    MAX_URL_LENGTH,
    flag,
    items,
    mapping,
    optional_number,
    optional_text,
    optional_time,
    text,
    texts,
    time,
    whole,
)
from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class BtcpayServer:
    """The BTCPay server: ``synchronized`` is false while it cannot see new payments."""

    version: str
    synchronized: bool


@record(kw_only=True)
class Store:
    """The store we sell through; ``payment_tolerance`` is the percentage that may be missing."""

    id: str
    name: str
    default_currency: str | None
    payment_tolerance: Decimal | None
    speed_policy: str | None


@record(kw_only=True)
class RegisteredWebhook:
    """One webhook of the store. ``events`` counts only without ``everything``; BTCPay shows ``secret``
    only in its answer to the creation.
    """

    id: str
    url: str
    enabled: bool
    automatic_redelivery: bool
    everything: bool
    events: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)


@record(kw_only=True)
class DeliveryAttempt:
    """One delivery BTCPay attempted; ``succeeded`` means it was answered with a 2xx."""

    id: str
    raised_at: datetime
    sent_at: datetime | None
    http_code: int | None
    error: str | None
    succeeded: bool


def server(document: Any) -> BtcpayServer:
    info = mapping(document, "server")
    return BtcpayServer(version=text(info, "version"), synchronized=info.get("fullySynched") is True)


def permissions(document: Any) -> frozenset[str]:
    """Read what the key may do; the answer holds the key itself, so nothing else of it is kept."""
    return frozenset(texts(mapping(document, "key"), "permissions"))


def store(document: Any) -> Store:
    found = mapping(document, "store")
    return Store(
        id=text(found, "id"),
        name=optional_text(found, "name", most=512) or "",
        default_currency=optional_text(found, "defaultCurrency"),
        payment_tolerance=optional_number(found, "paymentTolerance"),
        speed_policy=optional_text(found, "speedPolicy"),
    )


def payment_methods(document: Any) -> dict[str, bool]:
    """Read which payment methods a store has, and whether each is enabled."""
    entries = [mapping(entry, "paymentMethod") for entry in items(document, "paymentMethods")]
    return {text(entry, "paymentMethodId"): entry.get("enabled") is True for entry in entries}


def webhook(document: Any) -> RegisteredWebhook:
    found = mapping(document, "webhook")
    events = mapping(found.get("authorizedEvents"), "authorizedEvents")
    secret = found.get("secret")
    return RegisteredWebhook(
        id=text(found, "id"),
        url=text(found, "url", most=MAX_URL_LENGTH),
        enabled=flag(found, "enabled"),
        automatic_redelivery=flag(found, "automaticRedelivery"),
        everything=flag(events, "everything"),
        events=texts(events, "specificEvents") if events.get("specificEvents") is not None else (),
        secret=secret if isinstance(secret, str) else None,
    )


def webhooks(document: Any) -> list[RegisteredWebhook]:
    return [webhook(entry) for entry in items(document, "webhooks")]


def webhook_settings(
    *,
    url: str,
    enabled: bool,
    automatic_redelivery: bool,
    events: Sequence[str] | None,
    secret: str | None,
) -> dict[str, Any]:
    """Write the body that creates or replaces a webhook; without a secret BTCPay makes or keeps its own,
    without ``events`` it sends all.

    Every setting is written out: an update replaces all of them, and what is missing goes to its default.
    """
    authorized = {"everything": events is None, "specificEvents": list(events or ())}
    body: dict[str, Any] = {
        "url": url,
        "enabled": enabled,
        "automaticRedelivery": automatic_redelivery,
        "authorizedEvents": authorized,
    }
    return body if secret is None else {**body, "secret": secret}


def delivery_attempts(document: Any) -> list[DeliveryAttempt]:
    """Read deliveries, newest first."""
    return [_delivery_attempt(mapping(entry, "delivery")) for entry in items(document, "deliveries")]


def _delivery_attempt(entry: Mapping[str, Any]) -> DeliveryAttempt:
    code = None if entry.get("httpCode") is None else whole(entry, "httpCode")
    if code is not None and not 0 <= code <= 999:
        raise Garbled("httpCode", "a status code is needed")
    return DeliveryAttempt(
        id=text(entry, "id"),
        raised_at=time(entry, "timestamp"),
        sent_at=optional_time(entry, "deliveryTime"),
        http_code=code,
        error=optional_text(entry, "errorMessage", most=1000),
        succeeded=entry.get("status") == "HttpSuccess",
    )
