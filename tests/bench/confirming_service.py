"""The plain service, asking as BTCPay's documentation advises: `python -m tests.bench.confirming_service`.

It believes no webhook: it asks BTCPay for the invoice with httpx, one call for each, and grants what is
settled there. All else is the plain service. Prints the port it listens on.
"""

import asyncio
import json

import uvloop
from aiohttp import web

from tests.bench.fake_btcpay import STORE
from tests.bench.plain_service import HTTP, MQTT, POOL, create, grant, is_signed, neighbours, serve


async def settle(request: web.Request) -> web.Response:
    body = await request.read()
    if not is_signed(body, request.headers.get("BTCPay-Sig", "")):
        return web.Response(status=403)
    told = json.loads(body)
    answer = await request.app[HTTP].get(f"/api/v1/stores/{STORE}/invoices/{told['invoiceId']}")
    answer.raise_for_status()
    invoice = answer.json()
    if invoice["status"] == "Settled" and invoice["metadata"]["orderId"] == told["metadata"]["orderId"]:
        await grant(request.app[POOL], request.app[MQTT], told)
    return web.json_response({"recorded": True})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as main:
        main.run(serve(neighbours, settle, create))
