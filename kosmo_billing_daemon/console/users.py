"""The list of users, by filters and page after page, and the same as a file for spreadsheets."""

from collections.abc import Mapping, Sequence
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin import listing
from kosmo_billing_daemon.admin.listing import HasPlan, UserFilter
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.forms import FormField
from kosmo_billing_daemon.console.rendering import render, send_file, sentence, url, with_query
from kosmo_billing_daemon.errors import Invalid, NotFound

PER_PAGE: Final = 50
_YES: Final = "yes"
_FLAGS: Final = ("exhausted", "attention")
_NAMES: Final = ("state", "plan", "ending", *_FLAGS)


async def show(request: web.Request) -> web.Response:
    """Show one page of the list; a filter that is wrong is told above the filters."""
    desk, given = request.app[DESK], _given(request)
    error, page = "", listing.UserPage((), None)
    try:
        page = await listing.load_page(
            desk.pool, _filter(given), request.query.get("after"), PER_PAGE, desk.clock()
        )
    except (Invalid, NotFound) as refused:
        error = sentence(refused.message)
    sold = await listing.load_plans(desk.pool)
    return render(
        request,
        "users.html",
        status=422 if error else 200,
        page=page,
        error=error,
        given=given,
        fields=_fields(sold),
        is_filtered=any(given.values()),
        is_first="after" not in request.query,
        first=with_query("/users", given),
        next=with_query("/users", {**given, "after": page.next_cursor}) if page.next_cursor else "",
        csv=with_query("/users.csv", given),
    )


async def download(request: web.Request) -> web.StreamResponse:
    """Send the whole list as CSV."""
    desk = request.app[DESK]
    now = desk.clock()
    parts = listing.load_csv(desk.pool, _filter(_given(request)), now)
    return await send_file(request, f"users-{now:%Y-%m-%d}.csv", "text/csv", parts)


def _given(request: web.Request) -> dict[str, str]:
    return {name: request.query.get(name, "").strip() for name in _NAMES}


def _filter(given: Mapping[str, str]) -> UserFilter:
    ending, state = given["ending"], given["state"]
    if ending and not (ending.isascii() and ending.isdecimal() and len(ending) < 10):
        raise Invalid(f"a number of days from 0 to {listing.MOST_DAYS} is needed", field="ending")
    if state and state not in set(HasPlan):
        raise Invalid("users have a plan or have lapsed", field="state")
    return UserFilter(
        plan=given["plan"] or None,
        ending=int(ending) if ending else None,
        exhausted=given["exhausted"] == _YES,
        attention=given["attention"] == _YES,
        state=HasPlan(state) if state else None,
    )


def _fields(sold: Sequence[str]) -> tuple[FormField, ...]:
    states = [("", "Everybody"), (HasPlan.ACTIVE, "With a plan now"), (HasPlan.LAPSED, "Lapsed")]
    return (
        FormField(name="state", label="Users", kind="select", options=states),
        FormField(
            name="plan", label="Plan", kind="select", options=[("", "Any"), *((name, name) for name in sold)]
        ),
        FormField(name="ending", label="Ending within days", kind="number"),
        FormField(name="exhausted", label="Messages used up", kind="checkbox"),
        FormField(name="attention", label="Needs attention", kind="checkbox"),
    )


ROUTES = (web.get(url("/users"), show), web.get(url("/users.csv"), download))
