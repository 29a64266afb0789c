"""One user on one page: how they stand, what may be done about it, and how it came about."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.admin import explaining, finding, links, overview, rehearsing
from kosmo_billing_daemon.admin.overview import DAYS
from kosmo_billing_daemon.admin.timeline import timeline
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.rendering import redirect, render, url
from kosmo_billing_daemon.domain.folding import own_packs
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import refunds
from kosmo_billing_daemon.store.usage import DayOfUse

LIMIT: Final = 100
"""Of each kind: the newest."""
_HEIGHT: Final = 40
"""Of the chart of messages, in its own units."""


@record
class DayBar:
    """One day of the chart: its height, and what it says."""

    day: date
    messages: int
    height: float


def user_of(request: web.Request) -> UserId:
    """Return the user whom the address names; raises 404 for what is no id."""
    try:
        return UserId(UUID(request.match_info["user_id"]))
    except ValueError:
        raise web.HTTPNotFound from None


async def show(request: web.Request) -> web.Response:
    """Show one user. Another name of theirs, such as an order's, leads here."""
    desk = request.app[DESK]
    name = request.match_info["user_id"]
    user_id = await finding.resolve(desk.pool, name)
    if name != str(user_id):
        return redirect(request, f"/users/{user_id}")
    history = await overview.load(desk.pool, desk.clock, desk.renewals, user_id, LIMIT)
    async with desk.pool.connection() as connection:
        state = await rehearsing.load_state(connection, user_id)
        refunded = await refunds.load_of_user(connection, user_id)
    return render(
        request,
        "user.html",
        user=state.listed,
        history=history,
        standing_said=[*explaining.standing(history), explaining.renewal(history.renewal)],
        has_revoked=any(row.revoked_at is not None for row in history.purchases),
        has_packs=any(own_packs(row) for row in history.purchases),
        has_paid=any(each.received > 0 for each in history.invoices),
        open_refunds=[one for one in refunded if one.cancelled_at is None and one.paid_at is None],
        moments=timeline(history, tuple(refunded[:LIMIT])),
        bars=_bars(history.days, desk.clock().date()),
        leased=state.leased,
        link=await _link(desk, user_id),
    )


async def _link(desk: Desk, user_id: UserId) -> str:
    """Return the user's renewal link; empty where none are given out."""
    try:
        return await links.show(desk.links, user_id)
    except Conflict:
        return ""


def _bars(days: Sequence[DayOfUse], today: date) -> list[DayBar]:
    used = {each.day: each.messages for each in days}
    most = max(used.values(), default=0) or 1
    found = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    return [DayBar(day, used.get(day, 0), round(_HEIGHT * used.get(day, 0) / most, 2)) for day in found]


ROUTES = (web.get(url("/users/{user_id}"), show),)
