"""Where BTCPay is called, where customers reach it, and which texts may stand in a path.

The rule it keeps: a setting that could never work is named before the first call, and no id from outside
can lead a call to another path.
"""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from kosmo_billing_daemon.errors import Invalid, Misconfigured
from kosmo_billing_daemon.runtime.records import record

MAX_BASE_URL: Final = 500
_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_KEY = re.compile(r"[!-~]{1,512}")


@record
class Links:
    """Where the links in BTCPay's answers must point.

    BTCPay builds ``checkoutLink`` from the scheme and host of our own request: called by an internal name
    it hands out a link no customer can open. ``public`` then takes the place of ``called``.
    """

    called: SplitResult
    public: SplitResult | None
    usual: str | None = None  # how links begin that are reachable as they are

    @classmethod
    def of(cls, called: str, public: str | None) -> "Links":
        parts = urlsplit(called)
        if public is not None:
            return cls(parts, urlsplit(public))
        return cls(parts, None, f"{parts.scheme}://{parts.netloc}/")

    @property
    def origin(self) -> str:
        """Where customers pay, as browsers name it."""
        parts = self.public or self.called
        return f"{parts.scheme}://{parts.netloc}"

    def reachable(self, link: str) -> str:
        """Return the link as customers can open it."""
        if self.public is None:
            return link
        parts = urlsplit(link)
        prefix = self.called.path.rstrip("/")
        path = parts.path.removeprefix(prefix) if parts.path.startswith(prefix + "/") else parts.path
        path = self.public.path.rstrip("/") + path
        return urlunsplit((self.public.scheme, self.public.netloc, path, parts.query, parts.fragment))


def is_opaque(btcpay_id: str) -> bool:
    """Say whether the id can stand in a path as it is; BTCPay makes no others."""
    return _ID.fullmatch(btcpay_id) is not None


def opaque(btcpay_id: str) -> str:
    """Return the id, or raise ``Invalid`` if it is none of BTCPay's."""
    if not is_opaque(btcpay_id):
        raise Invalid("not an id of BTCPay", field="id")
    return btcpay_id


def require_usable(url: str, api_key: str, store_id: str, public_url: str | None) -> None:
    """Raise ``Misconfigured`` for what could never work; names the settings, never the key."""
    problems = [
        f"{name}: an http or https address of at most {MAX_BASE_URL} characters is needed,"
        " without user, query and fragment"
        for name, value in (("BTCPAY_URL", url), ("BTCPAY_PUBLIC_URL", public_url))
        if value is not None and not _is_base(value)
    ]
    if not is_opaque(store_id):
        problems.append("BTCPAY_STORE_ID: letters and digits are needed, as the store's settings show them")
    if not _KEY.fullmatch(api_key):
        problems.append("BTCPAY_API_KEY: printable ASCII without spaces is needed")
    if problems:
        raise Misconfigured(problems)


def _is_base(url: str) -> bool:
    if not _URL.fullmatch(url) or len(url) > MAX_BASE_URL or "?" in url or "#" in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.port != 0 and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False
