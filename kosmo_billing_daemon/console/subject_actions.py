"""What a person may ask for about their own data: everything as one file, and that it is erased."""

from aiohttp import web

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.subjects import DataSubjects
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.forms import FormField, OperatorForm, Preview, Values
from kosmo_billing_daemon.console.rendering import send_file, url
from kosmo_billing_daemon.console.user import user_of
from kosmo_billing_daemon.console.user_forms import PAGE
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.store.subjects import HELD


def _subjects(desk: Desk) -> DataSubjects:
    return DataSubjects(pool=desk.pool, btcpay=desk.settlement.btcpay, clock=desk.clock)


async def export(request: web.Request) -> web.StreamResponse:
    """Send everything that is known about one user as JSON, part by part."""
    user_id = user_of(request)
    parts = _subjects(request.app[DESK]).export_text(user_id)
    return await send_file(request, f"user-{user_id}.json", "application/json", parts)


async def _what_to_give_up(request: web.Request) -> list[FormField]:
    user_of(request)  # or there is no such page
    hint = "A plan, credit, an open invoice. Without it nothing is erased as long as there is any."
    return [FormField(name="forfeit", label="Give up what the user still has", kind="checkbox", hint=hint)]


async def _preview(request: web.Request, given: Values) -> Preview:
    found = await _subjects(request.app[DESK]).preview(user_of(request))
    if found.open_refunds:
        raise Conflict("; ".join(found.open_refunds), code="refund_open")
    if found.forfeits and not given["forfeit"]:
        raise Conflict(f"{'; '.join(found.forfeits)}: tick the box to give this up", code="has_rights")
    rows = [(name, number, HELD[name].is_kept) for name, number in found.rows.items() if number]
    return Preview(
        sentence="Everything about this user is erased. Money stays in the books, under a random id.",
        effects=[
            (name.replace("_", " "), f"{number:,} {'kept under a pseudonym' if is_kept else 'deleted'}")
            for name, number, is_kept in rows
        ],
        warning="; ".join(["Nothing undoes this", *found.forfeits]) + ".",
    )


async def _erase(request: web.Request, given: Values, by: OperatorAction) -> str:
    await _subjects(request.app[DESK]).erase(user_of(request), by, forfeit=bool(given["forfeit"]))
    return "The user is erased, and the document is being cleared. BTCPay keeps its own records."


FORMS = (
    OperatorForm(
        path=f"{PAGE}/erase",
        title="Erase the user",
        verb="Erase for ever",
        fields=_what_to_give_up,
        preview=_preview,
        run=_erase,
        back=lambda _: "/users",
        intro="For a person who asks for it. The reason is kept, so it must not name the user.",
        is_dangerous=True,
    ),
)
ROUTES = (web.get(url(f"{PAGE}/export.json"), export),)
