"""Whether the daemon lives and whether it keeps up; nothing about any user is in it.

Alive means that the process answers. Ready is what the daemon says of its parts; one part may be degraded
without the whole being unready, since taking payments never depends on the broker. Anybody may ask, so the
parts are read at most once a second (ten times while unready, or a start would be noticed a second late), and
ids that a detail quotes (a topic, an order) are left out.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Literal

from aiohttp import web

from kosmo_billing_daemon.contract.encoding import ANY_UUID
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web.operations import Answer, Operation
from kosmo_billing_daemon.web.recent import LASTS, Recent
from kosmo_billing_daemon.web.rendering import json_response


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


READINESS: web.AppKey[Recent[Readiness]] = web.AppKey("readiness")
_UNREADY_LASTS = 0.1  # seconds


def recent(read: Callable[[], Awaitable[Readiness]]) -> Recent[Readiness]:
    """Keep what is read for all who ask at the same time."""
    return Recent(read, lambda readiness: LASTS if readiness.ok else _UNREADY_LASTS)


@record(kw_only=True)
class Alive:
    """The process answers."""

    status: Literal["alive"]


@record(kw_only=True)
class CheckDocument:
    """The state of one part."""

    ok: bool
    detail: str


@record(kw_only=True)
class Ready:
    """Whether requests should come here; degraded: yes, but a part has a problem."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, CheckDocument]


async def _live(_request: web.Request) -> web.Response:
    return json_response(Alive(status="alive"))


async def _ready(request: web.Request) -> web.Response:
    readiness = await request.app[READINESS].get()
    checks = {
        name: CheckDocument(ok=check.ok, detail=ANY_UUID.sub("…", check.detail))
        for name, check in readiness.checks.items()
    }
    document = Ready(status=readiness.status, checks=checks)
    return json_response(document, status=200 if readiness.ok else 503)


_READY = Ready(status="ready", checks={"database": CheckDocument(ok=True, detail="answers")})
_UNREADY = Ready(status="unready", checks={"database": CheckDocument(ok=False, detail="does not answer")})

OPERATIONS = (
    Operation(
        method="get",
        path="/health/live",
        handler=_live,
        name="live",
        tag="Health",
        summary="Liveness: whether the process answers",
        needs_user=False,
        answers={200: Answer("The process answers", Alive, Alive(status="alive"))},
    ),
    Operation(
        method="get",
        path="/health/ready",
        handler=_ready,
        name="ready",
        tag="Health",
        summary="Readiness: whether requests should come here",
        needs_user=False,
        answers={
            200: Answer("Ready, perhaps degraded", Ready, _READY),
            503: Answer("Unready", Ready, _UNREADY),
        },
    ),
)
