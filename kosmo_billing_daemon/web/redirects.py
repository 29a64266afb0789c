"""Where a customer is sent after paying. The rule it keeps: only to hosts that the
operator allows.

BTCPay fills in ``{InvoiceId}`` and ``{OrderId}``, so braces are fine behind the host.
"""

import re
from urllib.parse import urlsplit

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.host_names import is_address, is_host_name, is_loopback

MAX_URL_LENGTH = 2048

# Neither a backslash, which browsers read as a slash, nor anything a parser would drop or change.
_PLAIN = re.compile(r"[!#-;=?-\[\]_a-z{}|~]+")


def checked(url: str, allowed_hosts: frozenset[str]) -> str:
    """Return the URL; raises ``Invalid`` saying what would be right. No hosts given means any host."""
    if len(url) > MAX_URL_LENGTH:
        raise _invalid(f"at most {MAX_URL_LENGTH} characters")
    if not _PLAIN.fullmatch(url):
        raise _invalid("an https:// address without blanks, quotes or backslashes; percent-encode the rest")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _invalid("an https:// address; host or port cannot be read") from None
    if parts.scheme not in ("https", "http") or not host:
        raise _invalid("a complete address that begins with https://")
    if "@" in parts.netloc:
        raise _invalid("an address without a user name or password")
    if not is_address(host) and not is_host_name(host):
        raise _invalid("an https:// address; the host cannot be read")
    if parts.scheme == "http" and not is_loopback(host):
        raise _invalid("an https:// address; http is for hosts such as localhost only")
    if allowed_hosts and host not in allowed_hosts:
        raise _invalid(f"an address on {' or '.join(sorted(allowed_hosts))}")
    return url


def _invalid(right: str) -> Invalid:
    return Invalid(f"this is needed: {right}", field="redirect_url", code="invalid_redirect_url")
