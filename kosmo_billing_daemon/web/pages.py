"""The contracts as documents, and a page to read the one of the API.

The page needs no other host, and its policy says so: whatever it shows came from here.
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources

from aiohttp import web
from aiohttp.typedefs import Handler

from kosmo_billing_daemon.web.conditional import conditional

OPENAPI = web.AppKey("openapi", bytes)
ASYNCAPI = web.AppKey("asyncapi", bytes)

_CACHED = {"Cache-Control": "public, no-cache"}
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def routes(prefix: str) -> Sequence[web.RouteDef]:
    return [
        web.get(f"{prefix}/openapi.json", _openapi),
        web.get(f"{prefix}/asyncapi.json", _asyncapi),
        web.get(f"{prefix}/docs", _static("docs.html", "text/html")),
        web.get(f"{prefix}/docs/docs.css", _static("docs.css", "text/css")),
        web.get(f"{prefix}/docs/docs.js", _static("docs.js", "text/javascript")),
    ]


async def _openapi(request: web.Request) -> web.StreamResponse:
    return conditional(request, request.app[OPENAPI], headers=_CACHED)


async def _asyncapi(request: web.Request) -> web.StreamResponse:
    return conditional(request, request.app[ASYNCAPI], headers=_CACHED)


def _static(name: str, content_type: str) -> Handler:
    async def show(request: web.Request) -> web.StreamResponse:
        response = conditional(request, _file(name), headers={**_CACHED, **_POLICY})
        if response.body:
            response.content_type, response.charset = content_type, "utf-8"
        return response

    return show


@cache
def _file(name: str) -> bytes:
    return resources.files(__package__).joinpath("static", name).read_bytes()
