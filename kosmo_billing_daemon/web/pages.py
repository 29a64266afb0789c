"""The contracts as documents, and a page to read the one of the API.

The page needs no other host, and its policy says so: whatever it shows came from here.
"""

from collections.abc import Callable
from functools import cache
from importlib import resources

from aiohttp import web
from aiohttp.typedefs import Handler

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.operations import JSON, Answer, Operation

OPENAPI: web.AppKey[Callable[[], bytes]] = web.AppKey("openapi")
ASYNCAPI = web.AppKey("asyncapi", bytes)

_CACHED = {"Cache-Control": "public, no-cache"}
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


async def _openapi(request: web.Request) -> web.StreamResponse:
    return conditional(request, request.app[OPENAPI](), headers=_CACHED)


async def _asyncapi(request: web.Request) -> web.StreamResponse:
    return conditional(request, request.app[ASYNCAPI], headers=_CACHED)


def static(name: str, content_type: str) -> Handler:
    """Make a handler that serves a file of ``static``."""

    async def show(request: web.Request) -> web.StreamResponse:
        response = conditional(request, _file(name), headers={**_CACHED, **_POLICY})
        if response.body:
            response.content_type, response.charset = content_type, "utf-8"
        return response

    return show


@cache
def _file(name: str) -> bytes:
    return resources.files(__package__).joinpath("static", name).read_bytes()


OPERATIONS = tuple(
    Operation(
        method="get",
        path=f"{API}/{name}",
        handler=handler,
        name=name.removesuffix(".json"),
        tag="Documents",
        summary=summary,
        needs_user=False,
        has_etag=True,
        answers={200: Answer(summary, kind, media_type=media_type)},
    )
    for name, handler, summary, kind, media_type in (
        ("openapi.json", _openapi, "This document", dict, JSON),
        ("asyncapi.json", _asyncapi, "The MQTT contract, AsyncAPI 3.0", dict, JSON),
        ("docs", static("docs.html", "text/html"), "A page to read this document", str, "text/html"),
    )
)
PARTS = (
    web.get(f"{API}/docs/docs.css", static("docs.css", "text/css")),
    web.get(f"{API}/docs/docs.js", static("docs.js", "text/javascript")),
)
"""What the page loads: no operations."""
