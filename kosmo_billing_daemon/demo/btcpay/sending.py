"""One HTTP attempt of a webhook delivery.

The rule it keeps: redirects are followed as the .NET client of BTCPay Server follows them.
"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus

import aiohttp
from yarl import URL

from kosmo_billing_daemon.runtime.host_names import is_loopback
from kosmo_billing_daemon.runtime.records import record

_ATTEMPT_TIMEOUT = aiohttp.ClientTimeout(total=100)  # the default of .NET's HttpClient
_MAX_REDIRECTS = 50  # the default of .NET's HttpClient
_BECOMES_GET = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER)
_STAYS_POST = (HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT)
_RETRIED = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class DeliveryStatus(StrEnum):
    """The ``status`` of a delivery; Failed means no HTTP answer."""

    FAILED = "Failed"
    HTTP_ERROR = "HttpError"
    HTTP_SUCCESS = "HttpSuccess"


@record
class SendOutcome:
    """What came of one attempt."""

    status: DeliveryStatus
    http_code: int | None
    error_message: str | None

    @property
    def is_retried(self) -> bool:
        code = self.http_code
        return code is None or code in _RETRIED or 500 <= code <= 599


async def send(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]
) -> SendOutcome:
    """POST the body and tell what came of it; never raises for what the other side does."""
    try:
        code = await _follow(session, URL(url), body, headers)
    except TimeoutError:
        return SendOutcome(
            DeliveryStatus.FAILED, None, "The request was canceled due to the HttpClient.Timeout elapsing."
        )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return SendOutcome(DeliveryStatus.FAILED, None, str(error) or type(error).__name__)
    if 200 <= code <= 299:
        return SendOutcome(DeliveryStatus.HTTP_SUCCESS, code, None)
    return SendOutcome(DeliveryStatus.HTTP_ERROR, code, f"HTTP Error Code {code}")


async def _follow(session: aiohttp.ClientSession, url: URL, body: bytes, headers: Mapping[str, str]) -> int:
    method, data, sent_headers = "POST", body, dict(headers)
    code = 0
    for _ in range(_MAX_REDIRECTS + 1):
        async with session.request(
            method,
            url,
            data=data or None,
            headers=sent_headers,
            skip_auto_headers=("Accept", "Accept-Encoding"),
            allow_redirects=False,
            timeout=_ATTEMPT_TIMEOUT,
            ssl=not is_loopback(url.host or ""),
        ) as response:
            code = response.status
            location = response.headers.get("Location")
        if code not in _BECOMES_GET + _STAYS_POST or location is None:
            break
        target = url.join(URL(location))
        if url.scheme == "https" and target.scheme != "https":
            break
        url = target
        if code in _BECOMES_GET:
            method, data = "GET", b""
            # Type and signature are headers of the content, which the GET no longer has.
            sent_headers = {"User-Agent": headers["User-Agent"]}
    return code
