"""What an HTTP answer of BTCPay means: the document, or the one error that says what to do.

The rule it keeps: a status alone proves nothing, since proxies answer with words of their own; only JSON of
BTCPay's shape counts as BTCPay speaking.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from kosmo_billing_daemon.btcpay.errors import BtcpayAway, BtcpayDenied, BtcpayRefused, Complaint, Garbled
from kosmo_billing_daemon.btcpay.reading import decode
from kosmo_billing_daemon.errors import KosmoError

_MOST_WAIT = 300.0  # seconds; a Retry-After beyond it is not believed
_MOST_COMPLAINTS = 10
_MOST_WORDS = 300
_AWAY_STATUSES = (408, 425, 429)


def document(status: int, content_type: str, body: bytes) -> Any:
    """Return the JSON of a successful answer; ``Garbled`` if it is none."""
    try:
        return decode(body)
    except ValueError:
        kind = words(content_type.partition(";")[0]) or "no content type"
        raise Garbled(
            "body", f"status {status} with {kind} that is not JSON; does BTCPAY_URL lead to BTCPay itself?"
        ) from None


def problem(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> KosmoError:
    """Return the error an unsuccessful answer stands for."""
    said = _said(body)
    if status in _AWAY_STATUSES or status >= 500:
        retry_after = _retry_after(headers.get("retry-after"), now)
        # A limiter in front did not pass the request on; every other one of these may have.
        return BtcpayAway(f"BTCPay answered {status}", retry_after=retry_after, reached=status != 429)
    if 300 <= status < 400:
        target = words(headers.get("location", ""))
        return BtcpayAway(f"BTCPay redirects to {target!r}; set BTCPAY_URL to where it is", reached=False)
    if status == 401:
        return BtcpayDenied(
            "BTCPay does not accept the key (401); set BTCPAY_API_KEY to a valid one", unauthenticated=True
        )
    if status == 403:
        return _forbidden(said)
    code = words(said.get("code")) if isinstance(said, dict) else ""
    if status == 404 and not code:
        return BtcpayAway("BTCPay answered 404 without its own words; is BTCPAY_URL right?", reached=False)
    return BtcpayRefused(status, _complaints(said), btcpay_code=code or None)


def words(value: object) -> str:
    """Return what the other side wrote in a form fit for messages: short, printable, else nothing."""
    said = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else " " for c in said[:_MOST_WORDS])


def _said(body: bytes) -> dict[str, Any] | list[Any] | None:
    try:
        said = decode(body)
    except ValueError:
        return None
    return said if isinstance(said, dict | list) else None


def _forbidden(said: dict[str, Any] | list[Any] | None) -> BtcpayDenied:
    permission = words(said.get("missingPermission")) if isinstance(said, dict) else ""
    if permission:
        return BtcpayDenied(
            f"BTCPay says the key lacks {permission} for this store (403)", permission=permission
        )
    return BtcpayDenied("BTCPay, or a proxy before it, forbids this (403) without naming a permission")


def _complaints(said: dict[str, Any] | list[Any] | None) -> list[Complaint]:
    entries = said if isinstance(said, list) else [said]
    found = [
        Complaint(words(entry.get("path")), words(entry.get("message")))
        for entry in entries[:_MOST_COMPLAINTS]
        if isinstance(entry, dict)
    ]
    return [complaint for complaint in found if complaint.message]


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Read seconds or an HTTP date; nothing where nothing sensible is said."""
    if value is None:
        return None
    if value.isascii() and value.isdecimal():
        return min(float(value[:9]), _MOST_WAIT)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for a year or an offset of many digits
        return None
    aware = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max((aware - now).total_seconds(), 0.0), _MOST_WAIT)
