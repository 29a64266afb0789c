"""The ledger: entries by filters, what they come to, the same as a file, and whether BTCPay agrees."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin import books, entries, explaining, finding
from kosmo_billing_daemon.admin.books import Difference
from kosmo_billing_daemon.admin.times import read_period
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.forms import FormField
from kosmo_billing_daemon.console.places import read_place, write_place
from kosmo_billing_daemon.console.rendering import render, send_file, sentence, url, with_query
from kosmo_billing_daemon.domain.ledger import EntryKind
from kosmo_billing_daemon.errors import Conflict, Invalid, Refused, Unavailable
from kosmo_billing_daemon.store.entries import EntryFilter

PER_PAGE: Final = 50
SHOWN_DAYS: Final = 30
MOST_COMPARED: Final = timedelta(days=93)
COMPARED_WITHIN: Final = 60.0  # seconds

_NAMES: Final = ("user", "kind", "currency", "from", "to")
_FIRST_DAY: Final = "2000-01-01"
KIND_WORDS: Final = {
    EntryKind.RECEIVED: "received",
    EntryKind.GRANTED: "granted",
    EntryKind.SOLD: "sold",
    EntryKind.REFUNDED: "refunded",
    EntryKind.WRITTEN_OFF: "written off",
}
_COMPARING: web.AppKey[asyncio.Lock] = web.AppKey("comparing", asyncio.Lock)


async def _show(request: web.Request) -> web.Response:
    desk, given = request.app[DESK], _given(request)
    error, page = "", entries.EntryPage((), None)
    equations: Sequence[entries.Equation] = ()
    try:
        wanted = await _filter(request, given)
        page = await entries.load_page(
            desk.pool, wanted, read_place(request.query.get("before", "")), PER_PAGE
        )
        equations = await entries.load_equations(desk.pool, wanted)
    except Refused as refused:
        error = sentence(refused.message)
    return render(
        request,
        "ledger.html",
        status=422 if error else 200,
        page=page,
        equations=equations,
        kinds=KIND_WORDS,
        told=explaining.booked,
        error=error,
        given=given,
        fields=_fields(),
        first=with_query("/ledger", given) if "before" in request.query else "",
        next=with_query("/ledger", {**given, "before": write_place(page.next)}) if page.next else "",
        csv=with_query("/ledger.csv", given),
        check=with_query("/ledger/check", {"from": given["from"], "to": given["to"]}),
    )


async def _download(request: web.Request) -> web.StreamResponse:
    """Send what the filter finds as CSV, oldest first."""
    desk, given = request.app[DESK], _given(request)
    name = f"ledger-{given['from']}-{given['to']}.csv"
    parts = entries.load_csv(desk.pool, await _filter(request, given))
    return await send_file(request, name, "text/csv", parts)


async def _check(request: web.Request) -> web.Response:
    """Compare a period with BTCPay's list of invoices, once at a time in this daemon."""
    desk, given = request.app[DESK], _given(request)
    trouble, found = "", list[Difference]()
    comparing = request.app[_COMPARING]
    try:
        begin, end = read_period(given["from"], given["to"])
        if end - begin > MOST_COMPARED:
            raise Invalid(
                f"at most {MOST_COMPARED.days} days are compared here; use kosmo-billing ledger check"
            )
        if comparing.locked():
            raise Conflict("another comparison is running; wait for its end")
        async with comparing, asyncio.timeout(COMPARED_WITHIN):
            found = await books.compare(desk.pool, desk.settlement.btcpay, begin, end)
    except TimeoutError:
        trouble = "This takes long: run kosmo-billing ledger check, or compare a shorter period."
    except (Refused, Unavailable) as error:
        trouble = sentence(error.message)
    return render(
        request,
        "ledger_check.html",
        given=given,
        differences=found,
        trouble=trouble,
        back=with_query("/ledger", {"from": given["from"], "to": given["to"]}),
    )


def _given(request: web.Request) -> dict[str, str]:
    """Read the filter; without a period it is the last days, or of one user all there ever was."""
    given = {name: request.query.get(name, "").strip() for name in _NAMES}
    today = request.app[DESK].clock().date()
    if not given["from"]:
        given["from"] = _FIRST_DAY if given["user"] else f"{today - timedelta(days=SHOWN_DAYS - 1)}"
    given["to"] = given["to"] or f"{today}"
    return given


async def _filter(request: web.Request, given: Mapping[str, str]) -> EntryFilter:
    begin, end = read_period(given["from"], given["to"])
    kind, user = given["kind"], given["user"]
    if not given["currency"].isprintable():
        raise Invalid("a currency such as USD is needed", field="currency")
    if kind and kind not in set(EntryKind):
        raise Invalid("choose a kind of the list", field="kind")
    return EntryFilter(
        since=begin,
        before=end,
        user_id=await finding.resolve(request.app[DESK].pool, user) if user else None,
        kind=EntryKind(kind) if kind else None,
        currency=given["currency"].upper() or None,
    )


def _fields() -> tuple[FormField, ...]:
    kinds = [("", "Any"), *((kind, words) for kind, words in KIND_WORDS.items())]
    return (
        FormField(name="user", label="User"),
        FormField(name="kind", label="Kind", kind="select", options=kinds),
        FormField(name="currency", label="Currency"),
        FormField(name="from", label="From", kind="date"),
        FormField(name="to", label="To", kind="date"),
    )


def install(app: web.Application) -> None:
    app[_COMPARING] = asyncio.Lock()


ROUTES = (
    web.get(url("/ledger"), _show),
    web.get(url("/ledger.csv"), _download),
    web.get(url("/ledger/check"), _check),
)
