"""The pages a payer sees: the checkout of one invoice, and the list of recent ones.

The rule it keeps: everything a client of the API wrote is escaped, a link leads only to http and https, and
the pages load nothing from anywhere else.
"""

from functools import cache
from http import HTTPStatus
from itertools import islice
from json import dumps
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.access import ENGINE
from kosmo_billing_daemon.demo.btcpay.actions import PayerAction, possible_actions
from kosmo_billing_daemon.demo.btcpay.invoices import PaymentMethod, SimulatedInvoice

if TYPE_CHECKING:
    from jinja2 import Environment

_RECENT = 50
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PAYER_ACTIONS = (
    (PayerAction.PAY, PaymentMethod.LIGHTNING, "Pay with Lightning"),
    (PayerAction.PAY, PaymentMethod.CHAIN, "Pay on-chain"),
    (PayerAction.CONFIRM, None, "Confirm the payment"),
)
_PROBLEM_ACTIONS = (
    (PayerAction.PAY_PARTIAL, PaymentMethod.CHAIN, "Pay half"),
    (PayerAction.PAY_OVER, PaymentMethod.CHAIN, "Pay too much"),
    (PayerAction.PAY_LATE, PaymentMethod.CHAIN, "Pay too late"),
    (PayerAction.REPLACE_PAYMENT, None, "Replace the payment"),
    (PayerAction.EXPIRE, None, "Let it expire"),
    (PayerAction.MARK_SETTLED, None, "Mark settled manually"),
    (PayerAction.MARK_INVALID, None, "Mark invalid"),
)
_WORDS = {
    "New": "Waiting for payment",
    "Processing": "Confirming",
    "Settled": "Paid",
    "PaidPartial": "partly paid",
    "PaidOver": "overpaid",
    "PaidLate": "paid late",
    "Marked": "settled manually",
}
"""BTCPay's words as a payer understands them; the page's script is given them too."""


def routes() -> list[web.RouteDef]:
    return [web.get("/", _recent), web.get("/i/{invoice_id}", _checkout)]


def redirect_target(invoice: SimulatedInvoice) -> str | None:
    """Return where the shop wants its customer back, or None when it named no web address."""
    template = invoice.checkout.redirect_url
    if not template:
        return None
    url = template.replace("{InvoiceId}", invoice.id).replace("{OrderId}", invoice.order_id or "")
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


async def _recent(request: web.Request) -> web.Response:
    invoices = islice(reversed(request.app[ENGINE].ledger.by_id.values()), _RECENT)
    return _page("recent.html", invoices=tuple(invoices))


async def _checkout(request: web.Request) -> web.Response:
    invoice = request.app[ENGINE].ledger.by_id.get(request.match_info["invoice_id"])
    if invoice is None:
        return _page("unknown.html", HTTPStatus.NOT_FOUND)
    return _page(
        "checkout.html",
        invoice=invoice,
        possible=possible_actions(invoice),
        payer_actions=_PAYER_ACTIONS,
        problem_actions=_PROBLEM_ACTIONS,
        words=dumps(_WORDS),
        back=redirect_target(invoice),
    )


def _amount(invoice: SimulatedInvoice) -> str:
    text = "any amount" if invoice.is_unset_top_up else f"{invoice.price:f}"
    return f"{text} {invoice.currency.code}"


def _status(invoice: SimulatedInvoice) -> str:
    words = (invoice.status, invoice.additional_status)
    return ", ".join(_WORDS.get(word, word) for word in words if word != "None")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - most runs show no page

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"amount": _amount, "plain": "{:f}".format, "status": _status}
    return environment


def _page(template: str, status: int = HTTPStatus.OK, **values: object) -> web.Response:
    text = _environment().get_template(template).render(values)
    return web.Response(body=text.encode(errors="replace"), status=status, headers=_HEADERS)
