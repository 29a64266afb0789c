"""Reserves invoices: rows with our ids, written before BTCPay is asked (R10, R11).

Credit is spent first (R15): an invoice asks for the rest, and what credit covers whole is fulfilled here.
Requests that come while others are being written share the next transaction; each is decided as if it had
come alone, in the order of their coming.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain.folding import own_packs
from kosmo_billing_daemon.domain.invoices import (
    Effect,
    Invoice,
    InvoiceStatus,
    Payment,
    is_confirming,
)
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.polling import Patience
from kosmo_billing_daemon.domain.quoting import refusal
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, Refusal, Source, Subscription, UserId
from kosmo_billing_daemon.errors import Conflict, Refused
from kosmo_billing_daemon.runtime.batcher import TOGETHER, Batcher
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.rate_limit import RateLimit
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import from_credit
from kosmo_billing_daemon.services.idempotency import KEPT_FOR, Key, leads_to, require_same
from kosmo_billing_daemon.store import idempotency, invoices, ledger, lookups, purchases, quotes
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.idempotency import Bound, Named, Reply
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users
from kosmo_billing_daemon.store.purchases import Holdings

ORPHANED_AFTER = timedelta(seconds=60)
"""A reservation this old is nobody's work in progress: longer than one creation may take."""

REPEATED_WITHIN = timedelta(minutes=1)
"""For so long a request for the plan that credit has paid is a double click; one with a key buys again."""

KEYS_PER_MINUTE = 30
"""New Idempotency-Keys of a user: each is a row for a day, also where it leads to an invoice already open."""


def _key_limit() -> RateLimit:
    told = "too many Idempotency-Keys were used; one belongs to a purchase, and its repeats have the same"
    return RateLimit(KEYS_PER_MINUTE, code="too_many_keys", told=told)


@record
class PurchaseRequest:
    """Who wants to buy what, and under which key."""

    user_id: UserId
    plan: Plan
    redirect_url: str | None
    key: Key | None

    @property
    def named(self) -> Named | None:
        return None if self.key is None else (self.user_id, self.key.value)


@record
class OpenedInvoice:
    """An open invoice, whether the request made it, and the answer if one was given under its key."""

    invoice: Invoice
    is_new: bool
    reply: Reply | None = None


@dataclass(slots=True, kw_only=True)
class Reservations:
    """Finds or reserves one invoice for each request. No ``limit`` allows any number of new ones.

    ``unsent`` holds what was reserved here and nobody asked BTCPay for yet. ``changed`` is called after a
    commit that changed rights.
    """

    pool: Pool
    clock: Clock
    changed: Callable[[], None]
    limit: RateLimit | None = None
    credit: bool = True
    unsent: set[InvoiceId] = field(default_factory=set)
    _keys: RateLimit = field(default_factory=_key_limit)
    _requests: Batcher[PurchaseRequest, OpenedInvoice | Refused] = field(init=False)

    def __post_init__(self) -> None:
        self._requests = Batcher(self._write, most=100, turns=TOGETHER)

    async def reserve(self, request: PurchaseRequest) -> OpenedInvoice:
        """Return an open invoice, a reserved one if there was none.

        Raises ``Invalid`` for a key under which something else was asked, ``Conflict`` beyond the prepaid
        cap, ``TooMany`` beyond the limit, and ``Unavailable``.
        """
        decided = await self._requests.submit(request)
        if isinstance(decided, Refused):
            raise decided
        return decided

    async def _write(self, requests: Sequence[PurchaseRequest]) -> list[OpenedInvoice | Refused]:
        counted: set[int] = set()
        named: set[int] = set()
        tried: set[InvoiceId] = set()
        paid = False

        async def work(connection: Connection) -> list[OpenedInvoice | Refused]:
            nonlocal paid
            book = await _Book.load(connection, requests, self.clock(), credit=self.credit)
            decided = [
                self._decided(book, place, request, counted, named) for place, request in enumerate(requests)
            ]
            # Before COMMIT: from then on another request of the user may be the one that completes it.
            self.unsent -= tried
            tried.clear()
            tried.update(invoice.id for invoice in book.reserved)
            self.unsent |= tried
            check_at = book.now + Patience.FIRST
            await combine(
                connection,
                [
                    invoices.reserve_statement(book.reserved, check_at),
                    invoices.append_paid_statement(book.paid),
                    quotes.save_statement(invoice.plan for invoice in [*book.reserved, *book.paid]),
                    lookups.append_statement((check_at, invoice.id) for invoice in book.reserved),
                    idempotency.save_statement(book.named, book.now),
                ],
            )
            paid = bool(book.paid)
            if paid:
                await from_credit.fulfil(connection, book.paid, book.now)
            return decided

        decided = await self.pool.retrying(work, locking_users({request.user_id for request in requests}))
        if paid:
            self.changed()
        return decided

    def _decided(
        self, book: "_Book", place: int, request: PurchaseRequest, counted: set[int], named: set[int]
    ) -> OpenedInvoice | Refused:
        """Decide one; ``counted`` and ``named`` are the places that the limits have counted already."""
        try:
            if request.named is not None and request.named not in book.bound and place not in named:
                self._keys.take(request.user_id)
                named.add(place)
            opened = book.find(request)
            if opened is not None:
                return opened
            book.require_allowed(request)
            if self.limit is not None and place not in counted:
                self.limit.take(request.user_id)
                counted.add(place)
        except Refused as refused:
            return refused
        return book.reserve(request)


@record(kw_only=True)
class _Book:
    """What the locked users have, with what is decided for them meanwhile."""

    now: datetime
    having: dict[UserId, Holdings]
    bound: dict[Named, Bound]
    of_keys: dict[InvoiceId, Invoice]
    spendable: dict[tuple[UserId, str], Decimal]
    paid: list[Invoice] = field(default_factory=list)
    reserved: list[Invoice] = field(default_factory=list)
    named: dict[Named, Bound] = field(default_factory=dict)

    @classmethod
    async def load(
        cls, connection: Connection, requests: Sequence[PurchaseRequest], now: datetime, *, credit: bool
    ) -> "_Book":
        users = {request.user_id for request in requests}
        keys = {named for request in requests if (named := request.named) is not None}
        bound = await idempotency.load(connection, keys, now - KEPT_FOR)
        led_to = {entry.invoice_id for entry in bound.values()}
        having = await purchases.load(connection, users, now)
        for request in requests:
            led_to |= _paid_before(having[request.user_id].current, request.plan, now)
        return cls(
            now=now,
            having=having,
            bound=bound,
            of_keys=await invoices.load(connection, led_to) if led_to else {},
            spendable=await ledger.load_free_credit(connection, users) if credit else {},
        )

    def find(self, request: PurchaseRequest) -> OpenedInvoice | None:
        """Return what the request's key led to, or else the user's unpaid, unexpired invoice (R10)."""
        bound = None if request.named is None else self.bound.get(request.named)
        if request.key is not None and bound is not None:
            require_same(request.key, bound)
            known = self.of_keys.get(bound.invoice_id)
            if known is not None and leads_to(bound, known):
                return OpenedInvoice(known, bound.is_new, bound.reply)
        for invoice in reversed(self.having[request.user_id].open):
            if invoice.plan.plan_type == request.plan.plan_type and _is_unpaid(invoice, self.now):
                self._bind(request, invoice, is_new=False)
                return OpenedInvoice(invoice, is_new=False)
        if request.key is None:
            before = _paid_before(self.having[request.user_id].current, request.plan, self.now)
            for invoice in [*self.paid, *(self.of_keys[each] for each in before if each in self.of_keys)]:
                if _is_just_paid(invoice, request, self.now):
                    return OpenedInvoice(invoice, is_new=False)
        return None

    def require_allowed(self, request: PurchaseRequest) -> None:
        """Refuse what would have no good effect once it is paid."""
        having = self.having[request.user_id]
        current = having.current
        history = () if current is None else (current,)
        plans = [invoice.plan for invoice in self.paid if invoice.user_id == request.user_id]
        if not request.plan.is_pack:  # a pack must fit what is current now
            plans += [invoice.plan for invoice in having.open if is_confirming(invoice)]
        why = refusal(history, [*plans, request.plan], self.now)
        if why is Refusal.NO_FITTING_PLAN:
            raise Conflict(
                f"this pack adds to a current plan with a limit: {', '.join(request.plan.fits)}",
                code="no_fitting_plan",
            )
        if why is not None:
            raise Conflict(
                "this purchase would pay more than 400 days ahead; wait until less is left",
                code="prepaid_cap",
            )

    def reserve(self, request: PurchaseRequest) -> OpenedInvoice:
        """Note a reservation, to be written, or a purchase that credit pays."""
        price = request.plan.price
        key = (request.user_id, price.currency)
        asked = books.due(price, self.spendable.get(key, Decimal(0)))
        if asked.credit:
            self.spendable[key] -= asked.credit
        invoice = Invoice(
            id=InvoiceId(uuid4()),
            user_id=request.user_id,
            plan=request.plan,
            status=InvoiceStatus.RESERVED,
            created_at=self.now,
            redirect_url=request.redirect_url,
            credit_used=asked.credit,
        )
        if asked.amount:
            self.reserved.append(invoice)
            self.having[request.user_id].open.append(invoice)
        else:
            invoice = replace(
                invoice, status=InvoiceStatus.SETTLED, effect=Effect.FULFILLED, settled_at=self.now
            )
            self.paid.append(invoice)
        self._bind(request, invoice, is_new=True)
        return OpenedInvoice(invoice, is_new=True)

    def _bind(self, request: PurchaseRequest, invoice: Invoice, *, is_new: bool) -> None:
        """Bind a free key, in the transaction that reserves its invoice."""
        if request.key is None:
            return
        named = (request.user_id, request.key.value)
        bound = Bound(fingerprint=request.key.fingerprint, invoice_id=invoice.id, is_new=is_new, reply=None)
        self.bound[named] = self.named[named] = bound
        self.of_keys[invoice.id] = invoice


def _paid_before(current: Subscription | None, plan: Plan, now: datetime) -> set[InvoiceId]:
    """Return invoices that credit may have paid for the same a moment ago."""
    if current is None:
        return set()
    if plan.is_pack:
        return {InvoiceId(lot.purchase) for lot in own_packs(current)}
    if current.source is not Source.CREDIT or now - current.valid_from >= REPEATED_WITHIN:
        return set()
    return set() if current.invoice_id is None else {current.invoice_id}


def _is_just_paid(invoice: Invoice, request: PurchaseRequest, now: datetime) -> bool:
    """Say whether credit paid the same a moment ago: a double click must not pay twice (R10)."""
    return (
        invoice.user_id == request.user_id
        and invoice.plan.plan_type == request.plan.plan_type
        and invoice.effect is Effect.FULFILLED
        and not invoice.asked.amount
        and now - invoice.created_at < REPEATED_WITHIN
    )


def _is_unpaid(invoice: Invoice, now: datetime) -> bool:
    return (
        (
            invoice.status is InvoiceStatus.RESERVED
            or (invoice.status is InvoiceStatus.NEW and invoice.checkout_url is not None)
        )
        and invoice.payment is Payment.NONE
        and (invoice.expires_at is None or invoice.expires_at > now)
    )
