"""The calls that steer the simulation; they need no key and no fault reaches them.

The rule it keeps: whatever a test or a demonstration can do in Python it can do over HTTP, with
the same refusals.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.access import ENGINE, base_url
from kosmo_billing_daemon.demo.btcpay.actions import act, possible_actions
from kosmo_billing_daemon.demo.btcpay.answers import invalid, json_response
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice
from kosmo_billing_daemon.demo.btcpay.reading import read_json_object
from kosmo_billing_daemon.demo.btcpay.rendering import invoice_json


def routes() -> list[web.RouteDef]:
    return [
        web.get("/simulate/invoices/{invoice_id}", _show),
        web.post("/simulate/invoices/{invoice_id}", _act),
        web.get("/simulate/faults", _faults),
        web.post("/simulate/faults", _set_faults),
        web.post("/simulate/restart", _restart),
        web.post("/simulate/clock", _advance),
    ]


async def _show(request: web.Request) -> web.Response:
    invoice = request.app[ENGINE].invoice(request.match_info["invoice_id"])
    return json_response(_simulated_json(request, invoice))


async def _act(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    invoice = engine.invoice(request.match_info["invoice_id"])
    body, _ = await read_json_object(request, any_type=True)
    act(engine, invoice, str(body.get("action")), body.get("amount"), body.get("method"))
    return json_response(_simulated_json(request, invoice))


async def _faults(request: web.Request) -> web.Response:
    return json_response(asdict(request.app[ENGINE].faults))


async def _set_faults(request: web.Request) -> web.Response:
    body, _ = await read_json_object(request, any_type=True)
    return json_response(asdict(request.app[ENGINE].set_faults(body)))


async def _restart(request: web.Request) -> web.Response:
    await request.app[ENGINE].restart()
    return json_response({"restarted": True})


async def _advance(request: web.Request) -> web.Response:
    body, _ = await read_json_object(request, any_type=True)
    engine = request.app[ENGINE]
    engine.advance(_read_duration(body))
    return json_response({"now": int(engine.clock().timestamp())})


def _read_duration(body: Mapping[str, Any]) -> timedelta:
    seconds = body.get("advance_seconds")
    # A century is more than any test needs and less than what a datetime can hold.
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= 3_155_760_000:
        raise invalid("advance_seconds", "must be a number of seconds, 0 or more")
    return timedelta(seconds=seconds)


def _simulated_json(request: web.Request, invoice: SimulatedInvoice) -> dict[str, Any]:
    return {
        **invoice_json(invoice, base_url(request), payment_methods=True),
        "possibleActions": [action.value for action in possible_actions(invoice)],
    }
