"""Finding by any name: a user, an order, an invoice of BTCPay, a node. One hit leads straight to it."""

from aiohttp import web

from kosmo_billing_daemon.admin import finding
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.rendering import redirect, render, url

LONGEST_NAME = 200


async def show(request: web.Request) -> web.Response:
    """Go to the one user that is meant, or show all that the name could mean."""
    name = request.query.get("q", "").strip()[:LONGEST_NAME]
    if not name:
        return render(request, "search.html", name="", found=None)
    found = await finding.find(request.app[DESK].pool, name)
    if len(found.users) == 1 and not found.cases:
        return redirect(request, f"/users/{found.users[0].user_id}")
    return render(request, "search.html", name=name, found=found)


ROUTES = (web.get(url("/search"), show),)
