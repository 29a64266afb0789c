"""Servers that answer what no BTCPay would: proxies in front, or something else at its address."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.timeouts import Timeouts

STORE = "8SmdG6Lr7Ghp4WG2d3BkAnUWGmJgQXbE3hpsP6ofxVMo"
KEY = "0123456789abcdef0123456789abcdef01234567"
QUICK = Timeouts(connect=1.0, call=2.0, create=2.0)


def client_of(
    url: str, *, public_url: str | None = None, api_key: str = KEY, timeouts: Timeouts = QUICK
) -> BtcpayClient:
    return BtcpayClient(url=url, api_key=api_key, store_id=STORE, public_url=public_url, timeouts=timeouts)


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve every path by ``handler`` and yield the base URL."""
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
