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
_DENIALS = {401: ("unauthenticated",), 403: ("missing-permission", "insufficient-api-permissions")}


def document(status: int, content_type: str, body: bytes) -> Any:
    """Return the JSON of a successful answer; ``Garbled`` if it is none."""
    try:
        return decode(body)
    except ValueError:
        raise Garbled(
            "body",
            f"something in front of BTCPay answered: status {status} with {_kind(content_type)} that is not"
            " JSON; does BTCPAY_URL lead to BTCPay itself?",
        ) from None


def problem(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> KosmoError:
    """Return the error an unsuccessful answer stands for."""
    complaints, said = _said(body)
    if status in _AWAY_STATUSES or status >= 500:
        retry_after = _retry_after(headers.get("retry-after"), now)
        told = (
            f"BTCPay answered {status}: {complaints[0].message}" if complaints else _foreign(status, headers)
        )
        return BtcpayAway(told, retry_after=retry_after)
    if not complaints or status < 400:
        return BtcpayAway(f"{_foreign(status, headers)}; does BTCPAY_URL lead to BTCPay itself?")
    code = words(said.get("code"))
    if status in _DENIALS and code not in _DENIALS[status]:
        return BtcpayAway(f"{_foreign(status, headers)}, and not in BTCPay's words: {complaints[0].message}")
    if status == 401:
        return BtcpayDenied(
            "BTCPay does not accept the key (401); set BTCPAY_API_KEY to a valid one", unauthenticated=True
        )
    if status == 403:
        if permission := words(said.get("missingPermission")):
            return BtcpayDenied(f"BTCPay says the key lacks {permission} for this store (403)")
        return BtcpayDenied(f"BTCPay forbids this (403): {complaints[0].message}")
    return BtcpayRefused(status, complaints, btcpay_code=code or None)


def _foreign(status: int, headers: Mapping[str, str]) -> str:
    """Say who answered in BTCPay's place, as far as one can tell."""
    if 300 <= status < 400:
        return f"something in front of BTCPay redirects to {words(headers.get('location', ''))!r} ({status})"
    told = f"something in front of BTCPay answered {status} with {_kind(headers.get('content-type', ''))}"
    scheme = words(headers.get("www-authenticate", "")).partition(" ")[0]
    return f"{told} and wants a login of its own ({scheme})" if scheme and status == 401 else told


def _kind(content_type: str) -> str:
    return words(content_type.partition(";")[0]) or "no content type"


def words(value: object) -> str:
    """Return what the other side wrote in a form fit for messages: short, printable, else nothing."""
    said = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else " " for c in said[:_MOST_WORDS]).strip()


def _said(body: bytes) -> tuple[list[Complaint], dict[str, Any]]:
    """Return what BTCPay complains of and the object it did so in; nothing where it is not BTCPay's shape.

    That is an object with a code and a message, or an array of objects with a path and a message.
    """
    try:
        said = decode(body)
    except ValueError:
        return [], {}
    if isinstance(said, dict):
        is_ours = all(isinstance(said.get(name), str) and said[name] for name in ("code", "message"))
        return ([Complaint("", words(said["message"]))], said) if is_ours else ([], {})
    if not isinstance(said, list):
        return [], {}
    return [
        Complaint(words(entry.get("path")), words(entry["message"]))
        for entry in said[:_MOST_COMPLAINTS]
        if isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and isinstance(entry.get("message"), str)
    ], {}


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
