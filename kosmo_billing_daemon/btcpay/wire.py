"""The HTTP below the client, and what becomes of each request.

The rule it keeps: a request counts as not sent only where no connection was made.
"""

import ssl
from collections.abc import Mapping
from typing import Final

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from yarl import URL

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.btcpay import answers
from kosmo_billing_daemon.btcpay.errors import BtcpayAway, Garbled
from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.runtime.records import record

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

_CONNECTIONS: Final = 32
_KEEP_ALIVE: Final = 30.0  # seconds; below the 75 s and 130 s after which nginx and Kestrel hang up
_JSON: Final = {"Content-Type": "application/json"}


@record
class HttpAnswer:
    """What BTCPay, or something before it, answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class BtcpayWire:
    """Connections to one server, over which every request carries the key."""

    def __init__(self, url: str, key: str, timeouts: Timeouts) -> None:
        self._url = url
        # The system's certificates, so that an operator's own authority counts too; they take up to 60 ms.
        trusted = ssl.create_default_context() if URL(url).scheme == "https" else True
        connector = TCPConnector(ssl=trusted, limit=_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE)
        # Reading is bounded by the deadline of the whole call; "connect" includes looking up the name.
        bounds = ClientTimeout(sock_connect=timeouts.connect, connect=timeouts.call)
        headers = {
            "Authorization": f"token {key}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": f"kosmo-billing-daemon/{__version__}",
        }
        self._session = ClientSession(
            connector=connector, cookie_jar=DummyCookieJar(), headers=headers, timeout=bounds
        )

    async def exchange(
        self, method: str, path: str, params: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> HttpAnswer:
        """Send one request, with a body of JSON; raises ``BtcpayAway``, or ``Garbled`` if it never ends."""
        try:
            async with self._session.request(
                method,
                URL(self._url + path, encoded=True),
                params=params,
                headers=None if body is None else _JSON,
                data=body,
                allow_redirects=False,
            ) as response:
                return HttpAnswer(response.status, response.headers, await _read(response))
        except (ClientError, OSError) as error:
            raise _away(error) from error

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()


async def _read(response: ClientResponse) -> bytes:
    """Return the body; ``Garbled`` where it is longer than any answer of BTCPay's.

    One packed twice is not unpacked: a few bytes of it may become any number before they can be counted.
    """
    if "," in response.headers.get("content-encoding", ""):
        raise Garbled("body", "packed more than once; does BTCPAY_URL lead to BTCPay itself?")
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise Garbled("body", f"more than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)


def _away(error: Exception) -> BtcpayAway:
    """Say what happened on the wire, and whether the request was sent."""
    if isinstance(error, ConnectionTimeoutError):
        return BtcpayAway("could not connect to BTCPay in time", reached=False)
    said = answers.words(str(error)) or type(error).__name__
    if isinstance(error, ClientConnectorError):
        return BtcpayAway(f"could not connect to BTCPay: {said}", reached=False)
    return BtcpayAway(f"the connection to BTCPay broke: {said}")
