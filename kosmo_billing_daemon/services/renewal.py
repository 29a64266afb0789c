"""What a renewal link shows and does: the plan or pack, what buying it would do now, and how to pay.

The rule it keeps: looking creates nothing, so previews of a link are harmless; paying goes the way of every
other purchase.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.btcpay.payloads import PaymentOption
from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.plans import Catalogue, Plan
from kosmo_billing_daemon.domain.quoting import Quote
from kosmo_billing_daemon.domain.subscriptions import Subscription, UserId
from kosmo_billing_daemon.errors import NotFound, Refused, Unavailable
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.rate_limit import RateLimit
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.credit import CreditAccounts
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.store import auto_renewals, invoices, subscriptions
from kosmo_billing_daemon.store.postgres import Pool

log = logging.getLogger(__name__)

PAYMENTS_PER_MINUTE: Final = 20
"""Attempts to pay by one link: many for a person, few for a machine."""

JUST_PAID: Final = timedelta(minutes=15)
"""How long a page says that the payment arrived, before it offers the next."""

_REMEMBERED: Final = 1000  # invoices whose payment methods are known, which do not change
_LOOKED_AT: Final = 20  # of a user's newest invoices, among which is what the page is about
_NEWEST: Final = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))


@record(kw_only=True)
class RenewalView:
    """What a link shows. ``plan`` may be a pack; without any its user has to choose one of ``plans``.

    ``quote`` says what buying ``plan`` now would cost and make (R16), ``packs`` fit the current plan.
    ``invoice`` is open, or has just been paid (``is_paid``); ``options`` are the ways to pay it.
    ``renews`` says that credit renews the current plan at its end, as its user chose.
    """

    document: EntitlementDocument
    plans: Sequence[Plan]
    packs: Sequence[Plan]
    plan: Plan | None
    quote: Quote | None
    invoice: Invoice | None
    options: Sequence[PaymentOption] = ()
    is_paid: bool = False
    renews: bool = False


@record(kw_only=True)
class Renewals:
    """Looks and pays for the user of a link."""

    pool: Pool
    clock: Clock
    invoicing: Invoicing
    catalogue: Catalogue
    entitlements: Entitlements
    credit: CreditAccounts
    limit: RateLimit = field(
        default_factory=lambda: RateLimit(
            PAYMENTS_PER_MINUTE, told="this link was used very often in a short time; wait a little"
        )
    )
    _options: OrderedDict[str, tuple[PaymentOption, ...]] = field(default_factory=OrderedDict)

    @property
    def checkout(self) -> str:
        """The origin of BTCPay's own pages."""
        return self.invoicing.btcpay.links.origin

    async def view(
        self, user_id: UserId, plan_type: str | None, pack: str | None = None, *, again: bool = False
    ) -> RenewalView:
        """Return what to show; raises ``NotFound`` for a plan or pack that is not for sale.

        ``again`` offers it although it has just been paid.
        """
        now = self.clock()
        document = await self.entitlements.show(user_id)
        async with self.pool.connection() as connection:
            newest = await subscriptions.load_history(connection, user_id, 1)
            page = await invoices.load_page(connection, user_id, None, _NEWEST, _LOOKED_AT)
            auto = await auto_renewals.is_on(connection, user_id)
        plan = self._plan(plan_type, pack, newest)
        name = plan_type if pack is None else pack
        invoice = next(
            (
                one
                for one in page
                if one.plan.is_pack == (pack is not None) and name in (None, one.plan.plan_type)
            ),
            None,
        )
        is_paid = not again and invoice is not None and _is_just_paid(invoice, document, now)
        if invoice is not None and not is_paid and not _is_open(invoice, now):
            invoice = None
        quote = None if plan is None else await self.credit.quote(user_id, plan)
        is_current = plan is not None and plan.plan_type == document.plan_type
        return RenewalView(
            document=document,
            plans=self.catalogue.plans,
            packs=[
                each
                for each in self.catalogue.packs
                if document.plan_type in each.fits and document.messages_limit is not None
            ],
            plan=plan,
            quote=quote,
            invoice=invoice,
            options=() if invoice is None else await self.payment_options(invoice),
            is_paid=is_paid,
            renews=auto and is_current and quote is not None and quote.is_covered,
        )

    async def pay(
        self, user_id: UserId, plan_type: str | None, pack: str | None, redirect_url: str | None
    ) -> Invoice:
        """Open an invoice, or return the one that is open (R10); raises what ``Invoicing.open`` raises."""
        self.limit.take(user_id)
        async with self.pool.connection() as connection:
            newest = await subscriptions.load_history(connection, user_id, 1)
        plan = self._plan(plan_type, pack, newest)
        if plan is None:
            raise NotFound("no plan was chosen", code="unknown_plan")
        return (await self.invoicing.open(user_id, plan, redirect_url)).invoice

    def _plan(self, plan_type: str | None, pack: str | None, newest: Sequence[Subscription]) -> Plan | None:
        """Return what was asked for, or the plan that was bought last as far as it is still for sale."""
        if pack is not None:
            found = self.catalogue.find_pack(pack)
            if found is None or plan_type is not None:
                raise NotFound("this pack is not for sale", code="unknown_pack")
            return found
        if plan_type is not None:
            plan = self.catalogue.find(plan_type)
            if plan is None:
                raise NotFound("this plan is not for sale", code="unknown_plan")
            return plan
        return self.catalogue.find(newest[0].plan.plan_type) if newest else None

    async def payment_options(self, invoice: Invoice) -> tuple[PaymentOption, ...]:
        """Return the ways to pay an open invoice that BTCPay tells, once."""
        btcpay_id = invoice.btcpay_invoice_id
        if invoice.status is not InvoiceStatus.NEW or btcpay_id is None:
            return ()
        known = self._options.get(btcpay_id)
        if known is not None:
            return known
        try:
            found = await self.invoicing.btcpay.fetch_payment_options(btcpay_id)
        except (Unavailable, Refused) as error:  # the checkout at BTCPay remains
            log.info("payment methods cannot be shown: %s", error)
            return ()
        self._options[btcpay_id] = found
        while len(self._options) > _REMEMBERED:
            self._options.popitem(last=False)
        return found


def _is_open(invoice: Invoice, now: datetime) -> bool:
    if invoice.status is InvoiceStatus.PROCESSING:
        return True
    return invoice.status is InvoiceStatus.NEW and (invoice.expires_at is None or invoice.expires_at > now)


def _is_just_paid(invoice: Invoice, document: EntitlementDocument, now: datetime) -> bool:
    """Say whether thanks are due; not while the plan nears its end again, when its user comes to renew it."""
    return (
        invoice.effect is Effect.FULFILLED
        and invoice.settled_at is not None
        and now - invoice.settled_at < JUST_PAID
        and document.valid_until is not None
        and document.valid_until - now > invoice.plan.period / 2
    )
