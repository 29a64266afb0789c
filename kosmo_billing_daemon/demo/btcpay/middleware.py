"""What surrounds every request: the faults that are switched on, overdue timers, and refusals as answers.

The rule it keeps: faults reach what a client of BTCPay Server would call and never the calls that steer the
simulation, so that a fault can always be taken back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.access import ENGINE
from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldRefused, json_response, unauthenticated
from kosmo_billing_daemon.demo.btcpay.engine import Engine

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_UNTOUCHED = ("/simulate/", "/static/")
_GARBAGE = "<!doctype html><title>Welcome</title><h1>It works!</h1>"
_BLOCKED = "<!doctype html><title>Blocked</title><h1>This request was blocked</h1>"


@web.middleware
async def answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer with the fault that is switched on, else with what the handler says."""
    engine = request.app[ENGINE]
    engine.run_due()
    try:
        if (fault := await _fault(request, engine)) is not None:
            return fault
        return await handler(request)
    except GreenfieldRefused as refused:
        if refused.body is None:
            return web.Response(status=refused.status)
        return json_response(refused.body, refused.status)


async def _fault(request: web.Request, engine: Engine) -> web.Response | None:
    faults = engine.faults
    if request.path.startswith(_UNTOUCHED):
        return None
    if faults.down:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if not request.path.startswith("/api/"):
        return None
    if faults.proxy_status and (_creates(request) or not faults.proxy_blocks_creations):
        return web.Response(status=faults.proxy_status, text=_BLOCKED, content_type="text/html")
    if faults.slow_ms:
        await asyncio.sleep(faults.slow_ms / 1000)
    if faults.error_rate and engine.chance.random() < faults.error_rate:
        return web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)
    if faults.unauthorized:
        raise unauthenticated()
    if faults.garbage:
        return web.Response(text=_GARBAGE, content_type="text/html")
    return None


def _creates(request: web.Request) -> bool:
    return request.method == "POST" and request.path.endswith("/invoices")
