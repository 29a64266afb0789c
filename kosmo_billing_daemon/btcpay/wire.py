"""What httpx and aiohttp make of an exchange: a bounded answer, or the one error that says what happened.

The rule it keeps: a request counts as not sent only where no connection was made.
"""

from typing import Final

import httpx
from aiohttp import ClientConnectorError, ClientError, ConnectionTimeoutError

from kosmo_billing_daemon.btcpay import answers
from kosmo_billing_daemon.btcpay.errors import BtcpayAway, Garbled

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

# httpx-aiohttp 0.2 lets through what it has no name for, so aiohttp's own errors are met here too.
BROKEN: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ClientError, OSError)
"""What an exchange without an answer raises."""


async def read(response: httpx.Response) -> bytes:
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


def away(error: Exception) -> BtcpayAway:
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
