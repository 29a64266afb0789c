"""Gateways: what each let pass lately and holds by leases, and what to do about one that nobody believes."""

from collections.abc import Sequence
from datetime import UTC, timedelta
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.reporters import ReporterActions
from kosmo_billing_daemon.admin.times import read_time
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.forms import FormField, OperatorForm, Preview, Values
from kosmo_billing_daemon.console.rendering import count, counted, redirect, render, url, when, with_query
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from kosmo_billing_daemon.store import dashboard, leases, reporters
from kosmo_billing_daemon.store.leases import GrantedLease
from kosmo_billing_daemon.store.reporters import STANDING_COUNTED, ReporterCase

LATELY: Final = timedelta(hours=1)
MOST_GATEWAYS: Final = 500
MOST_LEASES: Final = 100
COUNTED_LEASES: Final = 5_000
NUMBER: Final = r"{number:\d{1,18}}"
_LONGEST_NAME: Final = 1000


def _actions(request: web.Request) -> ReporterActions:
    desk = request.app[DESK]
    return ReporterActions(pool=desk.pool, clock=desk.clock)


def _name(request: web.Request) -> str:
    """Return the gateway that this page is about: the name of its account at the broker."""
    name = request.query.get("name", "")
    if not name or len(name) > _LONGEST_NAME or "\0" in name:
        raise Invalid("Which gateway? Choose one of the list.")
    return name


def gateway(name: str, page: str = "gateway") -> str:
    """Return the address of a page about one gateway."""
    return with_query(f"/gates/{page}", {"name": name})


async def _list(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    now = desk.clock()
    found = await desk.pool.read(dashboard.load_gateways, now, now - LATELY, MOST_GATEWAYS)
    return render(request, "gates.html", rows=[(each, gateway(each.reporter)) for each in found])


async def _show(request: web.Request) -> web.Response:
    desk, name = request.app[DESK], _name(request)
    now = desk.clock()
    async with desk.pool.connection() as connection:
        case = await reporters.find_case(connection, name)
        held = await leases.load_open(connection, name, None, COUNTED_LEASES)
        active = await dashboard.load_gateways(connection, now, now - LATELY, MOST_GATEWAYS)
    since = {} if case is None else {"since": f"{case.opened_at.astimezone(UTC):%Y-%m-%dT%H:%M}"}
    return render(
        request,
        "gateway.html",
        name=name,
        case=case,
        leases=held[:MOST_LEASES],
        held=_outstanding(held),
        held_more=len(held) >= COUNTED_LEASES,
        most=MOST_LEASES,
        lately=next((each for each in active if each.reporter == name), None),
        free=gateway(name, "free"),
        void=with_query("/gates/void", {"name": name, **since}),
    )


async def _show_case(request: web.Request) -> web.Response:
    """Lead to the gateway that a case is about."""
    case = await _case(request)
    return redirect(request, gateway(case.reporter))


async def _case(request: web.Request) -> ReporterCase:
    number = int(request.match_info["number"])
    case = await request.app[DESK].pool.read(reporters.load_case, number)
    if case is None:
        raise NotFound(f"there is no case {number} about a gateway")
    return case


def _outstanding(held: Sequence[GrantedLease]) -> tuple[int, int]:
    """Say how many messages leases hold, and of how many users."""
    return sum(one.lease.outstanding for one in held), len({one.user_id for one in held})


async def _about(request: web.Request) -> str:
    return f"Gateway {_name(request)}"


def _back(request: web.Request) -> str:
    return gateway(_name(request))


async def _preview_freeing(request: web.Request, _: Values) -> Preview:
    held = await request.app[DESK].pool.read(leases.load_open, _name(request), None, COUNTED_LEASES)
    if not held:
        raise Conflict("this gateway holds nothing")
    messages, users = _outstanding(held)
    more = " or more" if len(held) >= COUNTED_LEASES else ""
    return Preview(
        sentence=f"{counted(messages, 'message', more)} of {counted(users, 'user')} can be leased again.",
        warning="If the gateway returns after all, what it let through meanwhile is counted, and may exceed "
        "the quota.",
    )


async def _free(request: web.Request, _: Values, by: OperatorAction) -> str:
    freed = await _actions(request).free(_name(request), None, by)
    return f"{counted(freed.messages, 'message')} of {counted(freed.users, 'user')} taken back."


async def _since_when(_: web.Request) -> Sequence[FormField]:
    hint = "As 2026-03-01T12:00; UTC. What arrived since then counts."
    return (FormField(name="since", label="Since", hint=hint, longest=40),)


async def _preview_voiding(request: web.Request, given: Values) -> Preview:
    since = read_time(given["since"], "since")
    standing = await request.app[DESK].pool.read(reporters.count_standing, _name(request), since)
    if not standing.events:
        raise Conflict("it counted nothing since then that stands")
    more = " or more" if standing.events >= STANDING_COUNTED else ""
    return Preview(
        sentence=f"What {_name(request)} counted since {when(since)} UTC is taken back; quotas return.",
        effects=[
            ("Messages", f"{count(standing.messages)}{more}"),
            ("Users", f"{count(standing.users)}{more}"),
            ("Payments", "stay as they are"),
        ],
        warning="Disable its account at the broker first, or it goes on.",
    )


async def _void(request: web.Request, given: Values, by: OperatorAction) -> str:
    voided = await _actions(request).void(_name(request), read_time(given["since"], "since"), by)
    return f"{counted(voided.messages, 'message')} of {counted(voided.users, 'user')} taken back."


async def _preview_closing(request: web.Request, _: Values) -> Preview:
    case = await _case(request)
    return Preview(
        sentence=f"The case about {case.reporter} is closed: it may report as much.",
        effects=[("Last report", case.detail)],
        warning="If it goes on, another case opens.",
    )


async def _close(request: web.Request, _: Values, by: OperatorAction) -> str:
    number = int(request.match_info["number"])
    reporter = await _actions(request).close_case(number, by)
    return f"The case about {reporter} is closed."


async def _about_case(request: web.Request) -> str:
    return f"Gateway {(await _case(request)).reporter}"


FORMS = (
    OperatorForm(
        path="/gates/free",
        title="Take back what it holds",
        verb="Take it back",
        intro="For a gateway that has vanished: others may lease what it held.",
        preview=_preview_freeing,
        run=_free,
        back=_back,
        about=_about,
        is_dangerous=True,
    ),
    OperatorForm(
        path="/gates/void",
        title="Take back what it counted",
        verb="Take it back",
        intro="For a gateway that is broken or stolen. A repeat changes nothing.",
        fields=_since_when,
        preview=_preview_voiding,
        run=_void,
        back=_back,
        about=_about,
        is_dangerous=True,
    ),
    OperatorForm(
        path=f"/gates/cases/{NUMBER}/close",
        title="Close the case",
        verb="Close it",
        preview=_preview_closing,
        run=_close,
        back=lambda request: f"/gates/cases/{request.match_info['number']}",
        about=_about_case,
        then="/attention",
    ),
)

ROUTES = (
    web.get(url("/gates"), _list),
    web.get(url("/gates/gateway"), _show),
    web.get(url(f"/gates/cases/{NUMBER}"), _show_case),
)
