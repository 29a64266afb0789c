"""How actions on one user become forms.

The rule it keeps: the preview is the action itself, carried out and undone (``admin/rehearsing.py``). Only
what asks BTCPay, or changes nothing about the user, is described instead.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from kosmo_billing_daemon.admin import rehearsing
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.rehearsing import UserState
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.forms import Fields, OperatorForm, Preview, Values, acting, nothing_else
from kosmo_billing_daemon.console.user import user_of
from kosmo_billing_daemon.domain.subscriptions import UserId

Act = Callable[[Desk, UserId, Values, OperatorAction], Awaitable[str]]
"""Carries an action out with what the desk has, and says what was done."""

Look = Callable[[Desk, UserId, Values], Awaitable[Preview]]

PAGE = "/users/{user_id}"


async def rehearsed(
    request: web.Request, user_id: UserId, act: Callable[[Desk, OperatorAction], Awaitable[object]]
) -> tuple[list[tuple[str, str]], UserState, UserState]:
    """Carry an action out, undo it, and say what it changed of the user."""
    desk, by = request.app[DESK], await acting(request)
    before, after = await rehearsing.rehearse(desk.pool, user_id, lambda pool: act(desk.on(pool), by))
    return rehearsing.changes(before, after), before, after


def user_form(
    name: str,
    title: str,
    act: Act,
    *,
    verb: str,
    will: str | Look,
    fields: Fields = nothing_else,
    is_dangerous: bool = False,
) -> OperatorForm:
    """Return the form of an action on the user whose page it belongs to.

    ``will`` says what an action does that changes the database alone; of any other it describes the preview.
    """

    async def preview(request: web.Request, given: Values) -> Preview:
        user_id = user_of(request)
        if not isinstance(will, str):
            return await will(request.app[DESK], user_id, given)
        effects, before, after = await rehearsed(
            request, user_id, lambda desk, by: act(desk, user_id, given, by)
        )
        warning = "" if effects else "Nothing that the user could notice would change."
        if before.has_plan and not after.has_plan:
            warning = "The user will have no plan, so gateways will refuse every message."
        return Preview(sentence=will, effects=effects, warning=warning)

    async def run(request: web.Request, given: Values, by: OperatorAction) -> str:
        return await act(request.app[DESK], user_of(request), given, by)

    return OperatorForm(
        path=f"{PAGE}/{name}",
        title=title,
        verb=verb,
        fields=fields,
        preview=preview,
        run=run,
        back=lambda request: f"/users/{user_of(request)}",
        is_dangerous=is_dangerous,
    )
