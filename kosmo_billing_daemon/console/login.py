"""Coming in by a one-time link, and leaving.

Opening the link only shows a button, so that a preview of it by a chat program or a mail filter spends
nothing. The session's token is made when the button is pressed, whatever cookie the browser had before.
"""

from aiohttp import web

from kosmo_billing_daemon.console.desk import DESK, OPERATOR, operator_of
from kosmo_billing_daemon.console.rendering import COOKIE, redirect, render, set_cookie, static_file, url
from kosmo_billing_daemon.contract.paths import ADMIN

_KEPT = "private, max-age=31536000, immutable"


async def show(request: web.Request) -> web.Response:
    """Show the button that spends the link, or how to get a link."""
    return render(request, "login.html", token=request.query.get("token", ""))


async def enter(request: web.Request) -> web.Response:
    """Spend the link, and end the session that the browser had; raises ``NotFound`` and ``TooMany``."""
    form, access, before = await request.post(), request.app[DESK].access, request[OPERATOR]
    operator = await access.log_in(str(form.get("token", "")))
    if before is not None:
        await access.log_out(before)
    response = redirect(request, "/")
    set_cookie(request, response, COOKIE, operator.token)
    return response


async def leave(request: web.Request) -> web.Response:
    """End the session at once, whoever else has its cookie."""
    await request.app[DESK].access.log_out(operator_of(request))
    response = redirect(request, "/login")
    response.del_cookie(COOKIE, path=ADMIN)
    return response


async def start(request: web.Request) -> web.Response:
    return redirect(request, "/")


async def part(request: web.Request) -> web.Response:
    """Give a file that pages refer to; its address changes with its content."""
    found = static_file(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    body, content_type = found
    response = web.Response(body=body, content_type=content_type, charset="utf-8")
    response.headers["Cache-Control"] = _KEPT
    return response


ROUTES = (
    web.get("/", start),
    web.get(ADMIN, start),
    web.get(url("/login"), show),
    web.post(url("/login"), enter),
    web.post(url("/logout"), leave),
    web.get(url("/static/{name}"), part),
)
