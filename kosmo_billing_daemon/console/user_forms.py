"""How actions on one user become forms.

The rule it keeps: the preview is the action itself, carried out and undone (``admin/rehearsing.py``). Only
what asks BTCPay, or changes nothing about the user, is described instead.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from kosmo_billing_daemon.admin import rehearsing
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.console.desk import DESK, Desk, operator_of
from kosmo_billing_daemon.console.forms import Fields, OperatorForm, Preview, Values, nothing_else
from kosmo_billing_daemon.console.user import user_of
from kosmo_billing_daemon.domain.subscriptions import UserId

Act = Callable[[Desk, UserId, Values, OperatorAction], Awaitable[str]]
"""Carries an action out with what the desk has, and says what was done."""

Look = Callable[[Desk, UserId, Values], Awaitable[Preview]]

PAGE = "/users/{user_id}"


def rehearsed(
    name: str,
    title: str,
    act: Act,
    *,
    verb: str,
    will: str,
    fields: Fields = nothing_else,
    is_dangerous: bool = False,
) -> OperatorForm:
    """Return the form of an action that changes the database alone; ``will`` says what it does."""

    async def preview(request: web.Request, given: Values) -> Preview:
        desk, user_id = request.app[DESK], user_of(request)
        reason = str((await request.post()).get("reason", "")).strip()
        by = OperatorAction(operator_of(request).who, reason)
        before, after = await rehearsing.rehearse(
            desk.pool, user_id, lambda pool: act(desk.on(pool), user_id, given, by)
        )
        effects = rehearsing.changes(before, after)
        warning = "" if effects else "Nothing that the user could notice would change."
        if before.has_plan and not after.has_plan:
            warning = "The user will have no plan, so gateways will refuse every message."
        return Preview(sentence=will, effects=effects, warning=warning)

    return _form(name, title, act, verb=verb, preview=preview, fields=fields, is_dangerous=is_dangerous)


def described(
    name: str,
    title: str,
    act: Act,
    *,
    verb: str,
    look: Look,
    fields: Fields = nothing_else,
    is_dangerous: bool = False,
) -> OperatorForm:
    """Return the form of an action whose preview ``look`` describes."""

    async def preview(request: web.Request, given: Values) -> Preview:
        return await look(request.app[DESK], user_of(request), given)

    return _form(name, title, act, verb=verb, preview=preview, fields=fields, is_dangerous=is_dangerous)


def _form(
    name: str,
    title: str,
    act: Act,
    *,
    verb: str,
    preview: Callable[[web.Request, Values], Awaitable[Preview]],
    fields: Fields,
    is_dangerous: bool,
) -> OperatorForm:
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
