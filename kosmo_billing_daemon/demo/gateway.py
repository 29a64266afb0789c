"""A gateway from the web to the mesh as others would write it: the gate decides, and what passes is counted.

The mesh behind it is left out; messages that passed are kept to be looked at. The rule it keeps: a message is
held before it is sent, so two requests never share the last message of a quota.
"""

import json
import re
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import fields
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Self
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.contract.encoding import Fields, Malformed, loads
from kosmo_billing_daemon.contract.node_ids import NODE_ID
from kosmo_billing_daemon.demo.embedded import HOST
from kosmo_billing_daemon.demo.local_http import is_local, listen, problem
from kosmo_billing_daemon.demo.race import Race
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web import problems
from kosmo_billing_daemon.web.problems import Handler, HttpRefused
from kosmo_billing_daemon.web.rendering import json_response

REMEMBERED = 200  # messages, newest first
MOST_TEXT = 200  # bytes: about what one packet of Meshtastic carries
MOST_BODY = 4096  # bytes
_REFUSALS = {
    Reason.NO_PLAN: "the plan does not send messages",
    Reason.EXPIRED: "the plan has expired",
    Reason.REVOKED: "the plan was revoked, since its payment turned out invalid",
    Reason.NODE_NOT_ALLOWED: "the node is not on the user's list",
    Reason.QUOTA_EXHAUSTED: "every message of the plan is used",
    Reason.UNKNOWN_USER: "the user never had a plan",
    Reason.NO_LEASE: "this gateway holds none of the user's messages",
}


@record
class Attempt:
    """One message and what became of it; ``remaining`` is what is left after it, ``None`` is unlimited."""

    at: datetime
    user_id: UUID
    node_id: str
    text: str
    allowed: bool
    reason: Reason
    remaining: int | None
    message_id: str | None


class Gateway:
    """A gate and an HTTP server on loopback, up within ``async with``.

    The user name of ``broker``, or else its client id, is the name under which usage is reported.
    """

    def __init__(self, broker: Broker, state: Path) -> None:
        self.gate = Gate(broker, state, reporter=broker.username or broker.client_id)
        self.url = ""  # where it listens, without a slash at the end
        self._race = Race(broker, state.parent)
        self._attempts: deque[Attempt] = deque(maxlen=REMEMBERED)
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as resources:
            await resources.enter_async_context(self.gate)
            runner = await listen(self._application(), HOST, 0, shutdown_timeout=1.0)
            resources.push_async_callback(runner.cleanup)
            self.url = f"http://{HOST}:{runner.addresses[0][1]}"
            self._resources = resources.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    def _application(self) -> web.Application:
        app = web.Application(
            middlewares=[problems.middleware, _loopback_pages_only], client_max_size=MOST_BODY
        )
        problems.install(app)
        app.on_response_prepare.append(_dress)
        app.add_routes(
            [
                web.post("/send", self._send),
                web.post("/race", self._run_race),
                web.get("/status", self._status),
                web.get("/messages", self._messages),
            ]
        )
        return app

    async def _send(self, request: web.Request) -> web.Response:
        """Let a message pass with 200, or refuse it with 403 and the reason of the gate."""
        attempt = self._attempt(*_read(await request.read()))
        self._attempts.appendleft(attempt)
        answer = {
            "allowed": attempt.allowed,
            "reason": attempt.reason,
            "remaining": attempt.remaining,
            "message_id": attempt.message_id,
        }
        if attempt.allowed:
            return json_response(answer)
        detail, request_id = _REFUSALS[attempt.reason], problems.request_id(request)
        return problem(HTTPStatus.FORBIDDEN, attempt.reason, detail, request_id=request_id, **answer)

    def _attempt(self, user_id: UUID, node_id: str, words: str) -> Attempt:
        now = utc_now()
        with self.gate.hold(user_id, node_id) as hold:
            if not hold:
                return Attempt(now, user_id, node_id, words, False, hold.reason, hold.remaining, None)
            left = None if hold.remaining is None else hold.remaining - 1
            return Attempt(now, user_id, node_id, words, True, hold.reason, left, hold.message_id)

    async def _run_race(self, request: web.Request) -> web.Response:
        """Let two other gateways race for what the user has left; 409 when that has no end."""
        body = loads(await request.read())
        user_id, node_id, _ = _read(json.dumps({**body, "text": "race"}).encode())
        strict, cut_off = (body.get(name) is True for name in ("strict", "cut_off"))
        left = self.gate.check(user_id, node_id)
        return json_response(await self._race.run(user_id, node_id, left, strict=strict, cut_off=cut_off))

    async def _status(self, _: web.Request) -> web.Response:
        told = {field.name: getattr(self.gate.status, field.name) for field in fields(self.gate.status)}
        # The API's own writer takes no floats, since money is none; these are seconds.
        return web.json_response(told, dumps=partial(json.dumps, default=str))

    async def _messages(self, _: web.Request) -> web.Response:
        return json_response({"items": tuple(self._attempts)})


def _read(body: bytes) -> tuple[UUID, str, str]:
    """Return user, node and text; JSON whatever type the request names, since ``curl -d`` says a form."""
    fields = Fields(loads(body))
    try:
        user_id, node_id = fields.uuid("user_id"), fields.text("node_id").lower()
        words = fields.text("text", most=MOST_TEXT)
    except Malformed as error:
        raise Invalid(str(error), field=str(error).partition(":")[0]) from None
    if re.fullmatch(NODE_ID, node_id) is None:
        raise Invalid("node_id: a Meshtastic id, ! and eight hexadecimal digits", field="node_id")
    if len(words.encode()) > MOST_TEXT:
        raise Invalid(f"text: at most {MOST_TEXT} bytes", field="text")
    return user_id, node_id, words


@web.middleware
async def _loopback_pages_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve the pages of the demo, whatever their port, and no page from elsewhere."""
    origin = request.headers.get("Origin")
    if origin is not None and not is_local(origin):
        raise HttpRefused(HTTPStatus.FORBIDDEN, "foreign_origin", "pages of this origin may not do that")
    misfit = request.match_info.http_exception
    if request.method == "OPTIONS" and isinstance(misfit, web.HTTPMethodNotAllowed):
        return web.Response(
            status=HTTPStatus.NO_CONTENT, headers={"Allow": ", ".join(misfit.allowed_methods)}
        )
    return await handler(request)


async def _dress(request: web.Request, response: web.StreamResponse) -> None:
    origin = request.headers.get("Origin")
    response.headers.add("Vary", "Origin")
    if origin is None or not is_local(origin):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
        response.headers["Access-Control-Allow-Headers"] = "Content-Type"
