"""Which pages of other origins may ask, by setting; and OPTIONS for everybody.

The rule it keeps: a page of an origin that is not listed neither reads an answer nor acts for a user
whom a proxy knows by a cookie. The user header is not among what pages may send: proxies do.
"""

from http import HTTPStatus

from aiohttp import web

from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.web.problems import Handler, HttpRefused

_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, X-Request-ID"
_EXPOSED_HEADERS = "ETag, Location, Retry-After, X-Request-ID"
_PREFLIGHT_SECONDS = 600
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@record
class Policy:
    """Origins as browsers send them, or ``*``; for paths below ``prefix`` that are not ``exempt``."""

    origins: frozenset[str]
    prefix: str
    exempt: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        return path.startswith(f"{self.prefix}/") and not path.startswith(self.exempt)

    def admits(self, origin: str | None) -> bool:
        return origin is not None and ("*" in self.origins or origin in self.origins)


POLICY = web.AppKey("cors", Policy)


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer OPTIONS, and refuse what a page of a foreign origin sends without asking first."""
    policy = request.app[POLICY]
    misfit = request.match_info.http_exception
    if request.method == "OPTIONS" and isinstance(misfit, web.HTTPMethodNotAllowed):
        methods = ", ".join(sorted({*misfit.allowed_methods, "OPTIONS"}))
        return web.Response(status=HTTPStatus.NO_CONTENT, headers={"Allow": methods})
    # Browsers send this header; a form or a plain POST needs no preflight.
    crosses = request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method not in _SAFE
    if crosses and policy.covers(request.path) and not policy.admits(request.headers.get("Origin")):
        raise HttpRefused(HTTPStatus.FORBIDDEN, "foreign_origin", "pages of this origin may not do that")
    return await handler(request)


async def dress(request: web.Request, response: web.StreamResponse) -> None:
    """Tell browsers what the page may read."""
    policy = request.app[POLICY]
    if not policy.origins or not policy.covers(request.path):
        return
    if "*" not in policy.origins:
        response.headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is None or not policy.admits(origin):
        return
    response.headers["Access-Control-Allow-Origin"] = "*" if "*" in policy.origins else origin
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
        response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
        response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
    else:
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
