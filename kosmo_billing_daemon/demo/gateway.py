"""A gateway from the web to the mesh as others would write it: the gate decides, and what passes is counted.

The mesh behind it is left out; messages that passed are kept to be looked at. The rule it keeps: a message is
held before it is sent, so two requests never share the last message of a quota.
"""

import json
import re
from collections import deque
from dataclasses import fields
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.contract.encoding import Fields, Malformed, loads
from kosmo_billing_daemon.contract.node_ids import NODE_ID
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.demo.race import Race
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.clock import Clock, utc_now
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web import problems
from kosmo_billing_daemon.web.problems import Handler, HttpRefused
from kosmo_billing_daemon.web.rendering import encode, json_bytes, json_response

REMEMBERED = 200  # messages, newest first
MOST_TEXT = 200  # bytes: about what one packet of Meshtastic carries
MOST_BODY = 4096  # bytes
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
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

    def __init__(
        self,
        broker: Broker,
        state: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        topics: Topics | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.gate = Gate(
            broker, state, reporter=broker.username or broker.client_id, topics=topics, clock=clock
        )
        self._race = Race(broker, state.parent, topics)
        self._clock = clock
        self._host, self._port = host, port
        self._attempts: deque[Attempt] = deque(maxlen=REMEMBERED)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.gate.__aenter__()
        try:
            await self._listen()
        except BaseException:
            await self.gate.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._runner is not None:
                await self._runner.cleanup()
        finally:
            await self.gate.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    async def _listen(self) -> None:
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
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

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
        status = HTTPStatus.FORBIDDEN
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": int(status),
            "detail": _REFUSALS[attempt.reason],
            "code": attempt.reason,
            "request_id": problems.request_id(request),
        }
        body = encode(problem | answer).encode()
        return json_bytes(body, status=status, content_type="application/problem+json")

    def _attempt(self, user_id: UUID, node_id: str, words: str) -> Attempt:
        now = self._clock()
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


def _is_loopback(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in _LOOPBACK
    except ValueError:
        return False


@web.middleware
async def _loopback_pages_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve the pages of the demo, whatever their port, and no page from elsewhere."""
    origin = request.headers.get("Origin")
    if origin is not None and not _is_loopback(origin):
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
    if origin is None or not _is_loopback(origin):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
        response.headers["Access-Control-Allow-Headers"] = "Content-Type"
