"""A BTCPay that answers at once, so that what is measured is us: `python -m tests.bench.fake_btcpay`.

A process of its own on a bare asyncio protocol, with BTCPay's shapes and none of its states: an invoice is
new until somebody posts its order id to ``/paid``. Prints the port it listens on.
"""

import asyncio
import json
import sys
import time
from typing import cast
from urllib.parse import unquote
from uuid import UUID

import uvloop

STORE = "BenchStore"
KEY = "b" * 40
LIFETIME = 3600  # seconds
_LIST = f"/api/v1/stores/{STORE}/invoices"
_HEAD = "HTTP/1.1 {} OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n"


def btcpay_id(order_id: str) -> str:
    """BTCPay's id of the invoice of an order of ours."""
    return f"B{UUID(order_id).hex[:21]}"


class Invoices:
    """What the server knows: each order's invoice, and whether it is paid."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._rendered: dict[str, bytes] = {}  # by order id
        self._orders: dict[str, str] = {}  # by the invoice's id

    def create(self, body: bytes) -> bytes:
        asked = json.loads(body)
        order_id = asked["metadata"]["orderId"]
        self._rendered[order_id] = self._render(order_id, asked["amount"], asked["currency"], "New", "0")
        return self._rendered[order_id]

    def pay(self, body: bytes) -> bytes:
        for order_id in body.decode().split():
            self._rendered[order_id] = self._render(order_id, "5.00", "USD", "Settled", "5.00")
        return b"{}"

    def find(self, query: str) -> bytes:
        wanted = (unquote(pair[8:]) for pair in query.split("&") if pair.startswith("orderId="))
        return b"[" + b",".join(self._rendered[name] for name in wanted if name in self._rendered) + b"]"

    def fetch(self, invoice_id: str) -> bytes | None:
        """Return one invoice, if there is one."""
        order_id = self._orders.get(invoice_id)
        return None if order_id is None else self._rendered[order_id]

    def _render(self, order_id: str, amount: str, currency: str, status: str, paid: str) -> bytes:
        now = int(time.time())
        self._orders[btcpay_id(order_id)] = order_id
        invoice = {
            "id": btcpay_id(order_id),
            "storeId": STORE,
            "amount": amount,
            "paidAmount": paid,
            "currency": currency,
            "type": "Standard",
            "checkoutLink": f"{self._base_url}/i/{btcpay_id(order_id)}",
            "createdTime": now,
            "expirationTime": now + LIFETIME,
            "monitoringExpiration": now + 2 * LIFETIME,
            "status": status,
            "additionalStatus": "None",
            "availableStatusesForManualMarking": ["Settled", "Invalid"],
            "archived": False,
            "metadata": {"orderId": order_id, "itemDesc": "KosmoConnect Wanderer, 30 days"},
            "checkout": {"speedPolicy": "MediumSpeed", "paymentMethods": ["BTC-CHAIN", "BTC-LN"]},
            "receipt": {"enabled": True, "showQR": None, "showPayments": None},
            "paymentMethods": [],
        }
        return json.dumps(invoice).encode()


class Conversation(asyncio.Protocol):
    """One connection with keep-alive; requests come one after another, as HTTP clients send them."""

    def __init__(self, invoices: Invoices) -> None:
        self._invoices = invoices
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._received) < end + 4 + length:
                return
            body = self._received[end + 4 : end + 4 + length]
            self._received = self._received[end + 4 + length :]
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            status, answer = self._answer(method, target, body)
            self._transport.write(_HEAD.format(status, len(answer)).encode() + answer)

    def _answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        match method, path:
            case "POST", p if p == _LIST:
                return 200, self._invoices.create(body)
            case "GET", p if p == _LIST:
                return 200, self._invoices.find(query)
            case "POST", "/paid":
                return 200, self._invoices.pay(body)
            case "GET", p if found := self._invoices.fetch(p.removeprefix(f"{_LIST}/")):
                return 200, found
            case _:
                return 404, b'{"code": "invoice-not-found", "message": "nothing here"}'


async def serve() -> None:
    loop = asyncio.get_running_loop()
    invoices = Invoices("http://127.0.0.1")
    server = await loop.create_server(lambda: Conversation(invoices), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    sys.stdout.close()
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
