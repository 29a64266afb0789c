"""``/metrics`` and the counting of requests; nothing about any user is in it."""

from collections.abc import Awaitable, Callable
from functools import cache

from aiohttp import web
from prometheus_client import Counter

from kosmo_billing_daemon.metrics import CONTENT_TYPE, Metrics
from kosmo_billing_daemon.web.problems import PROBLEM_CODE


def install(app: web.Application, metrics: Metrics, read: Callable[[], Awaitable[bytes]]) -> None:
    """Serve what ``read`` returns, and count every answer by its route, never by its path."""

    async def expose(_request: web.Request) -> web.Response:
        return web.Response(body=await read(), headers={"Content-Type": CONTENT_TYPE})

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

    app.router.add_get("/metrics", expose)
    app.on_response_prepare.append(count)


def _known(method: str) -> str:
    """Keep invented methods from becoming labels without number."""
    return method if method in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} else "other"
