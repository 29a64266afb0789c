"""The pages a payer sees: the checkout of one invoice, and the list of recent ones.

The rule it keeps: everything a client of the API wrote is escaped, a link leads only to http and https, and
the pages load nothing from anywhere else.
"""

from datetime import datetime
from html import escape
from itertools import islice
from json import dumps
from urllib.parse import urlsplit

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.access import ENGINE
from kosmo_billing_daemon.demo.btcpay.actions import PayerAction, possible_actions
from kosmo_billing_daemon.demo.btcpay.invoices import PaymentMethod, SimulatedInvoice, SimulatedStatus

_RECENT = 50
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_BUTTONS = (
    (PayerAction.PAY, PaymentMethod.LIGHTNING, "Pay with Lightning"),
    (PayerAction.PAY, PaymentMethod.CHAIN, "Pay on-chain"),
    (PayerAction.CONFIRM, None, "Confirm the payment"),
    (PayerAction.PAY_PARTIAL, PaymentMethod.CHAIN, "Pay half"),
    (PayerAction.PAY_OVER, PaymentMethod.CHAIN, "Pay too much"),
    (PayerAction.PAY_LATE, PaymentMethod.CHAIN, "Pay too late"),
    (PayerAction.REPLACE_PAYMENT, None, "Replace the payment"),
    (PayerAction.EXPIRE, None, "Let it expire"),
    (PayerAction.MARK_SETTLED, None, "Mark settled manually"),
    (PayerAction.MARK_INVALID, None, "Mark invalid"),
)
_PAYER_BUTTONS = 3  # the first ones are what a payer does; the rest simulate problems
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
    rows = "".join(
        f'<tr><td><a href="/i/{escape(invoice.id)}">{escape(_title(invoice))}</a></td>'
        f'<td class="number">{_amount(invoice)}</td>'
        f'<td><span class="badge {invoice.status.lower()}">{_status(invoice)}</span></td>'
        f"<td>{_time(invoice.created)}</td></tr>"
        for invoice in invoices
    )
    table = (
        '<div class="scroll"><table><thead><tr>'
        '<th scope="col">SimulatedInvoice</th><th scope="col" class="number">Amount</th>'
        '<th scope="col">Status</th><th scope="col">Created</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    body = table if rows else "<p>No invoice yet. They appear here when the shop creates one.</p>"
    return _page("Recent invoices", f'<main class="wide"><h1>Recent invoices</h1>{body}</main>')


async def _checkout(request: web.Request) -> web.Response:
    invoice = request.app[ENGINE].ledger.by_id.get(request.match_info["invoice_id"])
    if invoice is None:
        text = '<main><h1>No such invoice</h1><p><a href="/">Recent invoices</a></p></main>'
        return _page("No such invoice", text, status=404)
    possible = possible_actions(invoice)
    happy = "".join(_button(invoice, possible, *button) for button in _BUTTONS[:_PAYER_BUTTONS])
    others = "".join(_button(invoice, possible, *button) for button in _BUTTONS[_PAYER_BUTTONS:])
    description = invoice.metadata.get("itemDesc")
    parts = (
        f'<main id="checkout" data-invoice="{escape(invoice.id)}" data-words="{escape(dumps(_WORDS))}">',
        '<p class="eyebrow">SimulatedInvoice</p>',
        f"<h1>{_amount(invoice)}</h1>",
        f'<p class="about">{escape(str(description))}</p>' if description else "",
        f'<p role="status"><span id="status" class="badge {invoice.status.lower()}">',
        f"{_status(invoice)}</span></p>",
        f'<dl><dt>Paid</dt><dd><span id="paid">{invoice.paid:f}</span> {escape(invoice.currency.code)}</dd>',
        f"<dt>Expires</dt><dd>{_time(invoice.expires)}</dd>",
        f"<dt>Order</dt><dd>{escape(invoice.order_id or 'none')}</dd>",
        f"<dt>SimulatedInvoice</dt><dd>{escape(invoice.id)}</dd></dl>",
        f'<section aria-label="Pay" class="actions">{happy}</section>',
        "<details><summary>Simulate problems</summary>",
        f'<div class="actions minor">{others}</div></details>',
        '<p id="problem" role="alert"></p>',
        _way_back(invoice),
        '<p class="note">A simulation: no money moves. <a href="/">Recent invoices</a></p></main>',
        '<script src="/static/checkout.js" defer></script>',
    )
    return _page(f"Pay {invoice.price:f} {invoice.currency.code}", "".join(parts))


def _way_back(invoice: SimulatedInvoice) -> str:
    target = redirect_target(invoice)
    if target is None:
        return ""
    hidden = "" if invoice.status is SimulatedStatus.SETTLED else " hidden"
    automatic = ' data-automatic="true"' if invoice.checkout.redirect_automatically else ""
    link = f'<a class="button" href="{escape(target)}">Return to the shop</a>'
    return f'<p id="back"{automatic}{hidden}>{link}</p>'


def _button(
    invoice: SimulatedInvoice,
    possible: list[PayerAction],
    action: PayerAction,
    method: PaymentMethod | None,
    label: str,
) -> str:
    if method is not None and method not in invoice.checkout.payment_methods:
        return ""
    disabled = "" if action in possible else " disabled"
    chosen = f' data-method="{method}"' if method else ""
    return f'<button type="button" data-action="{action}"{chosen}{disabled}>{escape(label)}</button>'


def _title(invoice: SimulatedInvoice) -> str:
    return str(invoice.metadata.get("itemDesc") or invoice.order_id or invoice.id)


def _amount(invoice: SimulatedInvoice) -> str:
    text = "any amount" if invoice.is_unset_top_up else f"{invoice.price:f}"
    return f"{text} {escape(invoice.currency.code)}"


def _status(invoice: SimulatedInvoice) -> str:
    words = [_WORDS.get(word, word) for word in (invoice.status, invoice.additional_status) if word != "None"]
    return escape(", ".join(words))


def _time(moment: datetime) -> str:
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M} UTC</time>'


def _page(title: str, body: str, status: int = 200) -> web.Response:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="/static/icon.svg">'
        f'<link rel="stylesheet" href="/static/checkout.css"></head><body>{body}</body></html>'
    )
    return web.Response(body=text.encode(errors="replace"), status=status, headers=_HEADERS)
