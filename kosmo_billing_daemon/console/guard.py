"""Who gets as far as a page: the right name, a session, a form of our own. Everything else ends here.

The rules it keeps: without a session no method does anything but show how to log in. A request that changes
something comes from a page of ours, as its origin and the token in its form prove. Every answer forbids to be
framed, stored, or mixed with anything that is not ours. No error shows more than the operator can use.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from kosmo_billing_daemon.admin.access import Operator
from kosmo_billing_daemon.console.desk import DESK, OPERATOR
from kosmo_billing_daemon.console.rendering import COOKIE, CSRF, render, sentence
from kosmo_billing_daemon.contract.paths import ADMIN
from kosmo_billing_daemon.errors import Forbidden, Refused, Unavailable
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.host_names import is_loopback
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.rate_limit import TooMany
from kosmo_billing_daemon.web.problems import SERVER, status_of

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOGIN = f"{ADMIN}/login"
STATIC = f"{ADMIN}/static/"
SAFE = frozenset({"GET", "HEAD"})
MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0

_FORM = "application/x-www-form-urlencoded"
_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9.-]+))(?::[0-9]{1,5})?")
_THROTTLE: web.AppKey[LogThrottle] = web.AppKey("console_throttle", LogThrottle)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it a browser hides the origin of its own forms too, which is checked below.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Server": SERVER,
}


def install(app: web.Application) -> None:
    """Let every answer carry the headers."""
    app[_THROTTLE] = LogThrottle()
    app.on_response_prepare.append(_dress)


async def _dress(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001  given
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who may come in, and answer every error as a page."""
    request[OPERATOR] = None
    try:
        _require_loopback_name(request)
        if not request.path.startswith(STATIC):
            request[OPERATOR] = await _find_operator(request)
            if request[OPERATOR] is None and request.path != LOGIN:
                return render(request, "login.html", status=HTTPStatus.UNAUTHORIZED, token="")
            if request.method not in SAFE:
                await _require_own_form(request)
        return await handler(request)
    except Refused as error:
        return _problem(request, status_of(error), sentence(error.message), error)
    except Unavailable as error:
        if request.app[_THROTTLE].allows(error.code):
            log.warning("a page failed: a dependency is unreachable: %s", error)
        return _problem(
            request, HTTPStatus.SERVICE_UNAVAILABLE, f"{sentence(error.message)} Try again in a moment."
        )
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        told = _TOLD.get(HTTPStatus(error.status), "The request cannot be read.")
        return _problem(request, HTTPStatus(error.status), told)
    except Exception:
        number = os.urandom(4).hex()
        log.exception("a page failed by a bug", extra=fields(request_id=number, path=request.path))
        told = f"Something went wrong here. The log says what, under the number {number}."
        return _problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, told)


_TOLD = {
    HTTPStatus.NOT_FOUND: "There is no page at this address.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This page does not take that method.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The form is larger than allowed.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Only forms are taken.",
    HTTPStatus.REQUEST_TIMEOUT: "The form did not arrive in time.",
}


def _problem(
    request: web.Request, status: HTTPStatus, text: str, error: Refused | None = None
) -> web.Response:
    response = render(request, "problem.html", status=status, title=status.phrase, text=text)
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        response.force_close()  # the rest of the body is still under way
    return response


def _require_loopback_name(request: web.Request) -> None:
    """Refuse names that a stranger's page could have pointed at this machine (DNS rebinding)."""
    given = request.headers.getall("Host", [""])
    found = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
    name = "" if found is None else found["address"] or found["name"].removesuffix(".")
    if not name or not (is_loopback(name) or name.endswith(".localhost")):
        raise Forbidden("The console is reached as 127.0.0.1 or localhost only.", code="unknown_host")


async def _find_operator(request: web.Request) -> Operator | None:
    token = request.cookies.get(COOKIE)
    return None if token is None else await request.app[DESK].access.find(token)


async def _require_own_form(request: web.Request) -> None:
    """Refuse what no page of ours sent: by where the browser says it comes from, and by the session's token.

    Before a login there is no session, and nothing to forge but a login by a link that is one's own.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_own = (site is not None or origin is not None) and site in (None, "same-origin")
    is_own &= origin is None or urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()
    if not is_own:
        raise Forbidden("This form was not sent by a page of the console.", code="foreign_form")
    if request.content_type != _FORM:
        raise web.HTTPUnsupportedMediaType
    try:
        async with asyncio.timeout(BODY_SECONDS):
            form = await request.post()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    if any("\0" in value for value in form.values() if isinstance(value, str)):  # no database takes it
        raise web.HTTPBadRequest
    operator = request[OPERATOR]
    if request.path == LOGIN or operator is None:
        return
    if not operator.signed(CSRF, str(form.get(CSRF, ""))):
        raise Forbidden(
            "This form belongs to another session. Go back, reload the page, and try again.",
            code="foreign_form",
        )
