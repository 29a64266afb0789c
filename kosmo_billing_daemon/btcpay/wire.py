"""The HTTP below the client: requests by httpx over aiohttp, and what becomes of each.

The rule it keeps: a request counts as not sent only where no connection was made.
"""

import ssl
from collections.abc import Mapping
from typing import Final

import httpx
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientSession,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from httpx_aiohttp import AiohttpTransport

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.btcpay import answers
from kosmo_billing_daemon.btcpay.errors import BtcpayAway, Garbled
from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.runtime.records import record

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

_CONNECTIONS: Final = 32
_KEEP_ALIVE: Final = 30.0  # seconds; below the 75 s and 130 s after which nginx and Kestrel hang up

# httpx-aiohttp 0.2 lets through what it has no name for, so aiohttp's own errors are met here too.
_BROKEN: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ClientError, OSError)
"""What an exchange without an answer raises."""


@record
class HttpAnswer:
    """What BTCPay, or something before it, answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class BtcpayWire:
    """Connections to one server, over which every request carries the key; ``usual`` is the path of most.

    The transport itself: we follow no redirects and keep no cookies, and what httpx's client does about them
    takes longer than sending the request.
    """

    def __init__(self, url: str, key: str, usual: str, timeouts: Timeouts) -> None:
        self._url = url
        headers = {
            "Authorization": f"token {key}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": f"kosmo-billing-daemon/{__version__}",
        }
        self._headers = httpx.Headers(headers)
        self._headers_of_json = httpx.Headers(headers | {"Content-Type": "application/json"})
        self._parsed = {usual: httpx.URL(url + usual)}  # as dear as all of a call
        # Reading is bounded by the deadline of the whole call; "pool" includes looking up the name.
        self._bounds = {"timeout": {"connect": timeouts.connect, "read": None, "pool": timeouts.call}}
        trusted = _trusted(url)
        connector = TCPConnector(ssl=trusted, limit=_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE)
        session = ClientSession(connector=connector, cookie_jar=DummyCookieJar())
        self._transport = AiohttpTransport(verify=trusted, trust_env=False, client=session)

    async def exchange(
        self, method: str, path: str, params: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> HttpAnswer:
        """Send one request, with a body of JSON; raises ``BtcpayAway``, or ``Garbled`` if it never ends."""
        try:
            request = httpx.Request(
                method,
                self._parsed.get(path) or self._url + path,
                params=params,
                headers=self._headers if body is None else self._headers_of_json,
                content=body,
                extensions=self._bounds,
            )
            response = await self._transport.handle_async_request(request)
            try:
                return HttpAnswer(response.status_code, response.headers, await _read(response))
            finally:
                await response.aclose()
        except _BROKEN as error:
            raise _away(error) from error

    async def close(self) -> None:
        """End all connections."""
        await self._transport.aclose()


def _trusted(url: str) -> ssl.SSLContext:
    """Return whom to trust: the system's certificates, so that an operator's own authority counts too."""
    if httpx.URL(url).scheme == "https":
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nobody; reading no certificates saves up to 60 ms


async def _read(response: httpx.Response) -> bytes:
    """Return the body; ``Garbled`` where it is longer than any answer of BTCPay's.

    One packed twice is not unpacked: a few bytes of it may become any number before they can be counted.
    """
    if "," in response.headers.get("content-encoding", ""):
        raise Garbled("body", "packed more than once; does BTCPAY_URL lead to BTCPay itself?")
    answer = bytearray()
    async for chunk in response.aiter_bytes():
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise Garbled("body", f"more than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)


def _away(error: Exception) -> BtcpayAway:
    """Say what happened on the wire, and whether the request was sent.

    httpx-aiohttp 0.2 calls every lost connection a ``ConnectTimeout``; only the cause tells them apart.
    """
    cause = error.__cause__ or error
    if isinstance(cause, ConnectionTimeoutError):
        return BtcpayAway("could not connect to BTCPay in time", reached=False)
    said = answers.words(str(cause)) or type(cause).__name__
    if isinstance(cause, ClientConnectorError):
        return BtcpayAway(f"could not connect to BTCPay: {said}", reached=False)
    return BtcpayAway(f"the connection to BTCPay broke: {said}")
