"""The renewal page as HTML: no name, no user id, and nothing that needs a script.

Texts are in ``static/renewal.toml``; whatever is put into them is escaped here, in one place.
"""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from html import escape
from importlib import resources
from io import BytesIO
from typing import Final

import segno

from kosmo_billing_daemon.btcpay.payloads import PaymentOption
from kosmo_billing_daemon.contract.payloads import Standing
from kosmo_billing_daemon.domain.currencies import smallest_unit
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.domain.subscriptions import Subscription
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.renewal import RenewalView

REFRESH_SECONDS: Final = 15
"""How often a browser without scripts looks whether the payment has arrived."""

_PAGE: Final = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<link rel="stylesheet" href="{base}/renewal.css">
{head}</head>
<body>
<main{attributes}>
<h1>{title}</h1>
{body}</main>
</body>
</html>
"""


@cache
def languages() -> Mapping[str, Mapping[str, str]]:
    """Read all texts, by language."""
    file = resources.files(__package__).joinpath("static", "renewal.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def chosen_language(accepted: str) -> str:
    """Return the language of ours that a browser likes best by its Accept-Language, else English."""
    best, chosen = 0.0, "en"
    for part in accepted[:500].split(","):
        name, _, weight = part.partition(";")
        language = name.strip().lower().partition("-")[0]
        try:
            liking = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if language in languages() and best < liking <= 1.0:
            best, chosen = liking, language
    return chosen


@record
class Page:
    """Writes pages in one language; ``base`` is the path below which their parts are."""

    language: str
    base: str

    def text(self, key: str, **values: str) -> str:
        """Return a text with its values, as HTML."""
        return languages()[self.language][key].format(
            **{name: escape(value) for name, value in values.items()}
        )

    def problem(self, title: str, text: str | None, back: str | None = None) -> str:
        """Write a page that says why there is nothing to pay."""
        body = "" if text is None else f"<section><p>{self.text(text)}</p></section>\n"
        if back is not None:
            body += f'<p><a href="{escape(back)}">{self.text("back")}</a></p>\n'
        return self._page(self.text(title), body)

    def renewal(self, view: RenewalView, path: str) -> str:
        """Write what a link shows; ``path`` is the link's own."""
        if view.is_paid:
            body = self._paid(view, path)
        elif view.invoice is not None:
            body = self._standing(view) + self._invoice(view.invoice, view)
        elif view.plan is None:
            body = self._standing(view) + self._choice(view, path)
        else:
            body = self._standing(view) + self._offer(view.plan, view, path) + self._packs(view, path)
        waits = view.invoice is not None and not view.is_paid
        events = f"{path}/events?version={view.document.version}"
        head = f'<script type="module" src="{self.base}/renewal.js"></script>\n' if waits else ""
        if waits:
            head += f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>\n'
        title = self.text("title" if view.plan is None or not view.plan.is_pack else "title_pack")
        return self._page(title, body, head, f' data-events="{escape(events)}"' if waits else "")

    def _page(self, title: str, body: str, head: str = "", attributes: str = "") -> str:
        return _PAGE.format(
            language=self.language, title=title, base=self.base, head=head, body=body, attributes=attributes
        )

    def _standing(self, view: RenewalView) -> str:
        document = view.document
        end = document.grace_until or document.valid_until
        plan = document.plan_type.capitalize()
        if document.status is Standing.GRACE and end is not None:
            said = self.text("has_grace", plan=plan, end=self._time(end))
        elif document.status is Standing.ACTIVE and end is not None:
            said = self.text("has_plan", plan=plan, end=self._time(end))
            if document.messages_limit is None:
                said += " " + self.text("unlimited")
            else:
                left = max(0, document.messages_limit - document.messages_used)
                said += " " + self.text("left", left=str(left), limit=str(document.messages_limit))
            if view.renews:
                said += " " + self.text("renews")
        elif document.status is Standing.NONE or view.plan is None or view.plan.is_pack:
            said = self.text("no_plan")
        else:
            said = self.text("had_plan", plan=view.plan.plan_type.capitalize())
        return f"<p>{said}</p>\n"

    def _choice(self, view: RenewalView, path: str) -> str:
        ways = ((f"{path}?plan={plan.plan_type}", self._name(plan)) for plan in view.plans)
        plans = "".join(f'<li><a class="button" href="{escape(to)}">{name}</a></li>\n' for to, name in ways)
        return f"<section><h2>{self.text('choose')}</h2>\n<ul>\n{plans}</ul></section>\n"

    def _offer(self, plan: Plan, view: RenewalView, path: str) -> str:
        head = f"<h2>{self._name(plan)}</h2>\n"
        quote = view.quote
        if quote is None or quote.subscription is None:
            why = self.text("unfit" if plan.is_pack else "capped")
            return f"<section>{head}<p>{why}</p></section>\n"
        said, button = self._outcome(plan, quote.subscription), "button"
        if quote.due.credit:
            said += self._credit(Price(quote.due.credit, plan.price.currency))
            if not quote.due.amount:
                button = "button_credit_pack" if plan.is_pack else "button_credit"
            left = self.text("due", amount=self._price(Price(quote.due.amount, plan.price.currency)))
            said += f"<p>{left}</p>\n"
        return (
            f"<section>{head}{said}"
            f'<form method="post" action="{escape(path)}?{_query(plan)}">'
            f"<button>{self.text(button)}</button></form></section>\n"
        )

    def _packs(self, view: RenewalView, path: str) -> str:
        """Offer the packs that fit the current plan, beside the plan itself."""
        if not view.packs or (view.plan is not None and view.plan.is_pack):
            return ""
        ways = ((f"{path}?{_query(pack)}", self._name(pack)) for pack in view.packs)
        packs = "".join(f'<li><a href="{escape(to)}">{name}</a></li>\n' for to, name in ways)
        return f"<section><h2>{self.text('packs')}</h2>\n<ul>\n{packs}</ul></section>\n"

    def _outcome(self, bought: Plan, outcome: Subscription) -> str:
        end = self._time(outcome.valid_until)
        left = max(0, (outcome.messages_limit or 0) - outcome.messages_used)
        if bought.is_pack:
            return f"<p>{self.text('outcome_pack', left=str(left), end=end)}</p>\n"
        plan = outcome.plan.plan_type.capitalize()
        said = f"<p>{self.text('outcome_until', plan=plan, end=end)}</p>\n"
        if outcome.messages_limit is None:
            return said + f"<p>{self.text('outcome_unlimited')}</p>\n"
        return said + f"<p>{self.text('outcome_messages', left=str(left))}</p>\n"

    def _credit(self, credit: Price) -> str:
        return f"<p>{self.text('credit', credit=self._price(credit))}</p>\n"

    def _invoice(self, invoice: Invoice, view: RenewalView) -> str:
        head = f"<h2>{self._name(invoice.plan)}</h2>\n"
        if invoice.status is InvoiceStatus.PROCESSING:
            return f'<section role="status">{head}<p>{self.text("processing")}</p></section>\n'
        said = f"<p><strong>{self.text('pay', amount=self._price(invoice.asked))}</strong></p>\n"
        if invoice.credit_used:
            said += self._credit(Price(invoice.credit_used, invoice.plan.price.currency))
        if view.quote is not None and view.quote.subscription is not None:
            said += self._outcome(view.quote.plan, view.quote.subscription)
        if invoice.expires_at is not None:
            said += f"<p>{self.text('until', end=self._time(invoice.expires_at))}</p>\n"
        if view.options:
            said += f"<p>{self.text('scan')}</p>\n" + "".join(map(self._option, view.options))
        if invoice.checkout_url is not None:
            link = f'<a href="{escape(invoice.checkout_url)}"'
            said += (
                f"<p>{link}>{self.text('checkout')}</a></p>\n"
                if view.options
                else f'<p>{link} class="button">{self.text("button")}</a></p>\n'
            )
        return f'<section>{head}{said}<p class="quiet">{self.text("waits")}</p></section>\n'

    def _option(self, option: PaymentOption) -> str:
        is_lightning = option.link.lower().startswith("lightning:")
        method = self.text("lightning" if is_lightning else "onchain")
        # Capital letters take less room in a code; Lightning invoices may be written so.
        code = _qr(option.link.upper() if is_lightning else option.link)
        label = escape(self.text("qr", method=method))
        return (
            f'<p><a class="qr" href="{escape(option.link)}" aria-label="{label}">{code}</a>'
            f'<a class="button" href="{escape(option.link)}">{method}</a></p>\n'
        )

    def _paid(self, view: RenewalView, path: str) -> str:
        is_pack = view.plan is not None and view.plan.is_pack
        query = f"{_query(view.plan)}&again=1" if is_pack and view.plan is not None else "again=1"
        text = self.text("again_pack" if is_pack else "again")
        again = f'<p><a href="{escape(path)}?{escape(query)}">{text}</a></p>\n'
        said = f"<h2>{self.text('paid')}</h2>\n{self._standing(view)}"
        return f'<section class="good" role="status">{said}</section>\n{again}'

    def _name(self, plan: Plan) -> str:
        if plan.is_pack:
            return self.text("offer_pack", messages=str(plan.quota), price=self._price(plan.price))
        return self.text("offer", plan=plan.plan_type.capitalize(), price=self._price(plan.price))

    def _time(self, at: datetime) -> str:
        texts = languages()[self.language]
        month = texts["months"].split()[at.month - 1]
        return texts["date"].format(day=at.day, month=month, year=at.year, time=f"{at:%H:%M}")

    def _price(self, price: Price) -> str:
        amount = price.amount
        unit = smallest_unit(price.currency)
        if amount == amount.quantize(unit):
            amount = amount.quantize(unit)
        written = f"{Decimal(amount):f}".replace(".", languages()[self.language]["decimal"])
        return f"{written} {price.currency}"


def _query(plan: Plan) -> str:
    return f"{'pack' if plan.is_pack else 'plan'}={plan.plan_type}"


def _qr(content: str) -> str:
    """Draw a code as SVG, whose text is in the label of its link."""
    drawn = BytesIO()
    segno.make(content, error="l", micro=False).save(
        drawn, kind="svg", xmldecl=False, svgns=False, omitsize=True, border=2, svgclass=None, lineclass=None
    )
    return drawn.getvalue().decode().replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
