"""``/metrics`` and the counting of requests; nothing about any user is in it.

Anybody who reaches the port may read it, unless the operator sets a token; it is read at most once a second.
"""

import hmac
from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus

from aiohttp import web
from prometheus_client import Counter
from pydantic import SecretStr

from kosmo_billing_daemon.runtime.metrics import CONTENT_TYPE, Metrics
from kosmo_billing_daemon.web.operations import Answer, Operation
from kosmo_billing_daemon.web.problems import PROBLEM_CODE, HttpRefused
from kosmo_billing_daemon.web.recent import Recent

TOKEN: web.AppKey[SecretStr | None] = web.AppKey("metrics_token")
_EXPOSED: web.AppKey[Recent[bytes]] = web.AppKey("metrics")


def install(app: web.Application, metrics: Metrics, read: Callable[[], Awaitable[bytes]]) -> None:
    """Serve what ``read`` returns, and count every answer by its route, never by its path."""
    app[_EXPOSED] = Recent(read)

    @cache
    def counter(method: str, route: str, status: int) -> Counter:
        return metrics.requests.labels(method, route, str(status))

    async def count(request: web.BaseRequest, response: web.StreamResponse) -> None:
        resource = request.match_info.route.resource if isinstance(request, web.Request) else None
        route = "none" if resource is None else resource.canonical
        counter(_known(request.method), route, response.status).inc()
        code = request.get(PROBLEM_CODE)
        if isinstance(code, str):
            metrics.refusals.labels(code).inc()

    app.on_response_prepare.append(count)


async def _expose(request: web.Request) -> web.Response:
    _require_token(request)
    return web.Response(body=await request.app[_EXPOSED].get(), headers={"Content-Type": CONTENT_TYPE})


def _require_token(request: web.Request) -> None:
    token = request.app[TOKEN]
    if token is None:
        return
    given = request.headers.get("Authorization", "").encode(errors="replace")
    if not hmac.compare_digest(given, b"Bearer " + token.get_secret_value().encode()):
        raise HttpRefused(
            HTTPStatus.UNAUTHORIZED,
            "unauthenticated",
            "metrics need the bearer token of METRICS_TOKEN",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _known(method: str) -> str:
    """Keep invented methods from becoming unboundedly many labels."""
    return method if method in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} else "other"


OPERATIONS = (
    Operation(
        method="get",
        path="/metrics",
        handler=_expose,
        name="metrics",
        tag="Health",
        summary="Metrics for Prometheus",
        needs_user=False,
        answers={200: Answer("Metrics as text", str, media_type="text/plain")},
        problems=({401: {"unauthenticated": "With METRICS_TOKEN: another bearer token, or none"}},),
    ),
)
