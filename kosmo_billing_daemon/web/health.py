"""Whether the daemon lives and whether it keeps up; nothing about any user is in it.

Alive is whoever answers. Ready is what the daemon says of its parts; a part may ail without the whole
being unready, since taking payments never depends on the broker.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from typing import Literal

from aiohttp import web

from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.web.documents import Alive, CheckDocument, Ready
from kosmo_billing_daemon.web.rendering import json_response


@record
class Check:
    """One part: whether it is well, and in a few words how it is."""

    ok: bool
    detail: str


@record
class Readiness:
    """Whether requests should come here (``ok``), and how each part is."""

    ok: bool
    checks: Mapping[str, Check] = field(default_factory=dict)

    @property
    def status(self) -> Literal["ready", "degraded", "unready"]:
        if not self.ok:
            return "unready"
        return "ready" if all(check.ok for check in self.checks.values()) else "degraded"


READINESS: web.AppKey[Callable[[], Awaitable[Readiness]]] = web.AppKey("readiness")


def routes() -> Sequence[web.RouteDef]:
    return [web.get("/health/live", _live), web.get("/health/ready", _ready)]


async def _live(_request: web.Request) -> web.Response:
    return json_response(Alive(status="alive"))


async def _ready(request: web.Request) -> web.Response:
    readiness = await request.app[READINESS]()
    checks = {
        name: CheckDocument(ok=check.ok, detail=check.detail) for name, check in readiness.checks.items()
    }
    document = Ready(status=readiness.status, checks=checks)
    return json_response(document, status=200 if readiness.ok else 503)
