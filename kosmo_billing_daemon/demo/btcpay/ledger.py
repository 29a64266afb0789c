"""All invoices of a simulated server, and the ways to find them.

The rule it keeps: a lookup by order id costs what it finds, not what is stored, so that a list call naming
hundreds of order ids stays quick over any number of invoices.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice, SimulatedStatus
from kosmo_billing_daemon.demo.btcpay.rendering import destination
from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class Search:
    """The filters of the invoice list; empty ones do not filter."""

    order_ids: tuple[str, ...] = ()
    statuses: frozenset[SimulatedStatus] = frozenset()
    start: int | None = None
    end: int | None = None
    text: str = ""
    skip: int = 0
    take: int | None = None
    include_archived: bool = False


class InvoiceBook:
    """Invoices by id and by order id, in order of creation."""

    def __init__(self) -> None:
        self.by_id: dict[str, SimulatedInvoice] = {}
        self._by_order: defaultdict[str, dict[str, SimulatedInvoice]] = defaultdict(dict)
        self._position: dict[str, int] = {}

    def add(self, invoice: SimulatedInvoice) -> None:
        self._position[invoice.id] = len(self._position)
        self.by_id[invoice.id] = invoice
        if invoice.order_id is not None:
            self._by_order[invoice.order_id][invoice.id] = invoice

    def replace_metadata(self, invoice: SimulatedInvoice, metadata: dict[str, Any]) -> None:
        """Replace the whole metadata object; events already raised keep the old one."""
        if invoice.order_id is not None:
            del self._by_order[invoice.order_id][invoice.id]
        invoice.metadata = metadata
        if invoice.order_id is not None:
            self._by_order[invoice.order_id][invoice.id] = invoice

    def find(self, store_id: str, search: Search) -> list[SimulatedInvoice]:
        """Return the matching invoices of one store, newest first."""
        matching = (
            invoice
            for invoice in self._candidates(search.order_ids)
            if invoice.store_id == store_id and _matches(invoice, search)
        )
        every = len(self.by_id)
        end = every if search.take is None else min(search.skip + search.take, every)
        return list(islice(matching, min(search.skip, every), end))

    def _candidates(self, order_ids: Iterable[str]) -> Iterator[SimulatedInvoice]:
        wanted = dict.fromkeys(order_ids)
        if not wanted:
            return reversed(self.by_id.values())
        found = [i for order_id in wanted for i in self._by_order.get(order_id, {}).values()]
        found.sort(key=lambda invoice: self._position[invoice.id], reverse=True)
        return iter(found)


def _matches(invoice: SimulatedInvoice, search: Search) -> bool:
    if invoice.archived and not search.include_archived:
        return False
    if search.statuses and invoice.status not in search.statuses:
        return False
    if search.start is not None or search.end is not None:
        created = int(invoice.created.timestamp())
        if search.start is not None and created < search.start:
            return False
        if search.end is not None and created > search.end:
            return False
    return not search.text or any(term.startswith(search.text) for term in _terms(invoice))


def _terms(invoice: SimulatedInvoice) -> Iterator[str]:
    yield invoice.id
    yield f"{invoice.price:f}"
    for key in ("orderId", "buyerEmail"):
        if value := invoice.metadata.get(key):
            yield str(value)
    yield from invoice.search_terms
    for method in invoice.checkout.payment_methods:
        yield destination(invoice, method)
    for payment in invoice.payments:
        yield payment.id.partition("-")[0]
