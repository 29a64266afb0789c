"""Which pages of other origins may ask, by setting; and OPTIONS for everybody.

The rule it keeps: a page of an origin that is not listed neither reads an answer nor acts for a user
whom a proxy knows by a cookie. So what a browser sends must come from our own origin or a listed one (a
sibling subdomain, *same-site*, is another origin), and its body must be JSON by name, which no form can be.
The user header is not among what pages may send: proxies do.
"""

from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from kosmo_billing_daemon.runtime.records import record
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
    if request.method not in _SAFE and policy.covers(request.path) and _is_browser(request):
        if not policy.admits(request.headers.get("Origin")) and not _is_same_origin(request):
            raise HttpRefused(
                HTTPStatus.FORBIDDEN,
                "foreign_origin",
                "pages of this origin may not do that; the operator lists origins in CORS_ORIGINS",
            )
        if request.can_read_body and request.content_type != "application/json":
            raise HttpRefused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "a browser must send its body as application/json",
            )
    return await handler(request)


def _is_browser(request: web.Request) -> bool:
    """Say whether a browser sent this: pages can neither set these headers nor leave them out."""
    return "Sec-Fetch-Site" in request.headers or "Origin" in request.headers


def may_come_from_us(request: web.Request) -> bool:
    """Say whether a form may be one of ours; browsers send ``Origin: null`` from pages without referrers."""
    if "Sec-Fetch-Site" not in request.headers and request.headers.get("Origin", "null") == "null":
        return True
    return _is_same_origin(request)


def _is_same_origin(request: web.Request) -> bool:
    """Say whether the page is of the site it asks.

    Browsers say so themselves (Fetch Metadata), save to plain-http sites and old ones: there the host of
    Origin must be the one that was asked, as the browser or its proxy names it.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    page = urlsplit(request.headers.get("Origin", "")).netloc.lower()
    asked = (request.headers.get("Host", ""), request.headers.get("X-Forwarded-Host", ""))
    return page != "" and page in (host.strip().lower() for host in asked)


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
