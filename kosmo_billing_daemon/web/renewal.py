"""``/r/{token}``: pay for a plan or a pack without a login, with a link that fits into one mesh text.

The rule it keeps: GET and HEAD create nothing, so previews are harmless; a page is for its reader alone,
names nobody, loads nothing from elsewhere, and tells no other site where it was.
"""

import logging
from http import HTTPStatus

from aiohttp import web

from kosmo_billing_daemon.contract.paths import RENEWAL
from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.errors import Conflict, NotFound, Refused, Unavailable
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.rate_limit import TooMany
from kosmo_billing_daemon.services.renewal import Renewals
from kosmo_billing_daemon.web import cors, keys
from kosmo_billing_daemon.web.pages import static
from kosmo_billing_daemon.web.problems import PROBLEM_CODE, Handler, HttpRefused, request_id
from kosmo_billing_daemon.web.renewal_page import Page, chosen_language
from kosmo_billing_daemon.web.requests import parameter
from kosmo_billing_daemon.web.subscription import stream

log = logging.getLogger(__name__)

RENEWALS = web.AppKey("renewals", Renewals)

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " form-action 'self'{checkout}; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Vary": "Accept-Language",
}


def _page(handler: Handler) -> Handler:
    """Answer what is refused or away with a page, as people read it."""

    async def answered(request: web.Request) -> web.StreamResponse:
        page = Page(chosen_language(request.headers.get("Accept-Language", "")), RENEWAL)
        try:
            return await handler(request)
        except (TooMany, NotFound, Conflict, Unavailable) as error:
            request[PROBLEM_CODE] = error.code
            status, title, text, returns = _told(error)
            if isinstance(error, Unavailable):
                log.warning("a renewal page waits: %s", error, extra=fields(request_id=request_id(request)))
            headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany) else {}
            body = page.problem(title, text, request.path if returns else None)
            return _html(body, status=status, **headers)

    return answered


def _told(error: Refused | Unavailable) -> tuple[HTTPStatus, str, str | None, bool]:
    """Return the status, the texts of title and page, and whether there is a way back."""
    match error:
        case TooMany():
            return HTTPStatus.TOO_MANY_REQUESTS, "often", "often_text", True
        case NotFound(code="unknown_plan"):
            return HTTPStatus.NOT_FOUND, "unknown_plan", None, True
        case NotFound(code="unknown_pack"):
            return HTTPStatus.NOT_FOUND, "unknown_pack", None, True
        case NotFound():
            return HTTPStatus.NOT_FOUND, "gone", "gone_text", False
        case Conflict(code="no_fitting_plan"):
            return HTTPStatus.CONFLICT, "title_pack", "unfit", True
        case Conflict():
            return HTTPStatus.CONFLICT, "title", "capped", True
        case _:
            return HTTPStatus.SERVICE_UNAVAILABLE, "away", "away_text", True


def _html(
    body: str, *, status: HTTPStatus = HTTPStatus.OK, checkout: str = "", **headers: str
) -> web.Response:
    policy = {"Content-Security-Policy": _POLICY.format(checkout=checkout)}
    return web.Response(
        text=body,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={**_HEADERS, **policy, **headers},
    )


@_page
async def _show(request: web.Request) -> web.StreamResponse:
    user_id = await request.app[keys.SERVICES].links.find(request.match_info["token"])
    plan, pack = _wanted(request)
    view = await request.app[RENEWALS].view(user_id, plan, pack, again="again" in request.query)
    page = Page(chosen_language(request.headers.get("Accept-Language", "")), RENEWAL)
    return _html(page.renewal(view, request.path), checkout=f" {request.app[RENEWALS].checkout}")


@_page
async def _pay(request: web.Request) -> web.StreamResponse:
    """Open the invoice, or find the open one; then show how to pay it, here or at BTCPay's checkout."""
    if not cors.may_come_from_us(request):
        raise HttpRefused(HTTPStatus.FORBIDDEN, "foreign_origin", "pages of other sites may not do that")
    token = request.match_info["token"]
    user_id = await request.app[keys.SERVICES].links.find(token)
    renewals = request.app[RENEWALS]
    plan, pack = _wanted(request)
    query = "" if pack is None else f"?pack={pack}"  # one that is for sale: else nothing is paid
    url = request.app[keys.SERVICES].links.url(token)
    invoice = await renewals.pay(user_id, plan, pack, None if url is None else f"{url}{query}")
    log.info(
        "invoice opened by a renewal link", extra=fields(user=user_id, invoice=invoice.btcpay_invoice_id)
    )
    shown_here = await renewals.payment_options(invoice) or invoice.checkout_url is None
    where = f"{request.path}{query}" if shown_here else str(invoice.checkout_url)
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={**_HEADERS, "Location": where})


def _wanted(request: web.Request) -> tuple[str | None, str | None]:
    """Return the plan and the pack that the address names."""
    return parameter(request, "plan"), parameter(request, "pack")


async def _events(request: web.Request) -> web.StreamResponse:
    """Say that something changed, and not what: the page is loaded again."""
    user_id = await request.app[keys.SERVICES].links.find(request.match_info["token"])

    def changed(document: EntitlementDocument) -> str:
        return f"event: changed\nid: {document.version}\ndata: {document.version}\n\n"

    seen = request.headers.get("Last-Event-ID") or parameter(request, "version")
    return await stream(request, user_id, changed, seen)


ROUTES = (
    web.get(f"{RENEWAL}/renewal.css", static("renewal.css", "text/css")),
    web.get(f"{RENEWAL}/renewal.js", static("renewal.js", "text/javascript")),
    web.get(f"{RENEWAL}/{{token:[^/]+}}", _show),
    web.post(f"{RENEWAL}/{{token:[^/]+}}", _pay),
    web.get(f"{RENEWAL}/{{token:[^/]+}}/events", _events, allow_head=False),
)
"""Pages for people: not operations of the API, so its document does not list them."""
