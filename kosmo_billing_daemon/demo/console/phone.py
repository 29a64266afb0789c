"""A phone on the mesh: what a bot writes to each user, and a way to make time pass.

The bot is an endpoint of a hook, as an operator's would be. It believes only what is signed.
"""

import hmac
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from kosmo_billing_daemon.demo.local_http import problem
from kosmo_billing_daemon.hooks.signature import signed_headers
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web.rendering import json_response

KEPT: Final = 20

EVENTS: Final = (
    "subscription.expiring",
    "subscription.renewing",
    "subscription.expired",
    "quota.exhausted",
)
TEXTS: Final = """
most_bytes = 200
content_type = "application/json"
body = '{"user": {user_id}, "text": {text}}'

[texts]
"subscription.expiring" = "Your {plan} plan ends in {time_left}. Renew: {renew_url}"
"subscription.renewing" = "Your credit renews your {plan} plan in {time_left} for {amount} {currency}."
"subscription.expired" = "Your {plan} plan has ended. You still receive messages."
"quota.exhausted" = "All {messages_limit} messages of your {plan} plan are used. {topup_url}"
"""


@record
class MeshText:
    """One text as it reached the phone."""

    at: datetime
    text: str


class Phone:
    """The phones of all users of the demo. ``pass_time`` brings a user's plan three days before its end,
    and says whether there is one that lasts longer.
    """

    def __init__(self, pass_time: Callable[[str], Awaitable[bool]]) -> None:
        self.secret: str | None = None  # of the hook, once there is one
        self._pass_time = pass_time
        self._texts: dict[str, deque[MeshText]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._seen: deque[str] = deque(maxlen=1000)

    def routes(self, known: frozenset[str]) -> list[web.RouteDef]:
        """Return the bot's address, and what the page asks for these users."""

        async def show(request: web.Request) -> web.Response:
            return json_response({"texts": list(self._texts[_user(request)])})

        async def pass_time(request: web.Request) -> web.Response:
            if not await self._pass_time(_user(request)):
                return problem(
                    HTTPStatus.CONFLICT, "no_plan", "no plan lasts longer than three days; buy one first"
                )
            return json_response({})

        def _user(request: web.Request) -> str:
            user_id = request.match_info["user_id"]
            if user_id not in known:
                raise web.HTTPNotFound
            return user_id

        return [
            web.post("/mesh-bot", self._receive),
            web.get("/phone/{user_id}", show),
            web.post("/phone/{user_id}/time", pass_time),
        ]

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        number, at = request.headers.get("webhook-id", ""), request.headers.get("webhook-timestamp", "")
        if self.secret is None or not at.isascii() or not at.isdigit():
            return problem(HTTPStatus.FORBIDDEN, "forbidden", "only the hook may do that")
        expected = signed_headers(self.secret, number, int(at), body)["webhook-signature"]
        if not hmac.compare_digest(expected, request.headers.get("webhook-signature", "")):
            return problem(HTTPStatus.FORBIDDEN, "forbidden", "the signature is wrong")
        if number not in self._seen:  # a repeat has the same id
            self._seen.append(number)
            said: dict[str, Any] = json.loads(body)
            self._texts[str(said["user"])].append(MeshText(utc_now(), str(said["text"])))
        return web.Response(status=HTTPStatus.NO_CONTENT)
