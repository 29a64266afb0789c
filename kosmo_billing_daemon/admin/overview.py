"""Everything known about one user, on one screen: what was bought, used, refused, paid and done by hand."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import Subscription, UserId
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals, RenewalOutlook
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.store import audit, entries, events, ledger, listings, nodes, subscriptions, usage
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.entries import Entry
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.listings import ListedCase, ListedPublication
from kosmo_billing_daemon.store.nodes import Node
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.usage import CountedEvent, DayOfUse

DAYS = 14


@record(kw_only=True)
class History:
    """One user; every list newest first. ``publication`` is missing for who never had a document.

    ``credit`` is what is left in each currency, ``entries`` is how the ledger says that came about.
    """

    document: EntitlementDocument
    renewal: RenewalOutlook
    publication: ListedPublication | None
    purchases: tuple[Subscription, ...]
    nodes: tuple[Node, ...]
    days: tuple[DayOfUse, ...]
    messages: tuple[CountedEvent, ...]
    invoices: tuple[Invoice, ...]
    credit: Mapping[str, Decimal]
    entries: tuple[Entry, ...]
    cases: tuple[ListedCase, ...]
    events: tuple[Event, ...]
    actions: tuple[AuditEntry, ...]

    @property
    def is_known(self) -> bool:
        """Whether anything at all was ever heard of this user."""
        return bool(self.publication or self.invoices or self.nodes or self.actions or self.messages)


async def load(pool: Pool, clock: Clock, renewals: AutoRenewals, user_id: UserId, limit: int) -> History:
    """Return what is known, an empty history included; ``limit`` bounds each list."""
    document = await Entitlements(pool=pool, clock=clock).show(user_id)
    renewal = await renewals.show(user_id)
    today = clock().date()
    first = today - timedelta(days=DAYS - 1)
    async with pool.connection() as connection:
        balances = await ledger.load_balances(connection, [user_id])
        return History(
            document=document,
            renewal=renewal,
            publication=await listings.load_publication(connection, user_id),
            purchases=await subscriptions.load_history(connection, user_id, limit),
            nodes=tuple(await nodes.load(connection, user_id)),
            days=tuple(reversed(await usage.load_days(connection, user_id, first, today))),
            messages=tuple(await usage.load_latest(connection, user_id, min(limit, 5))),
            invoices=tuple(await listings.load_invoices(connection, user_id, None, limit)),
            credit={currency: amount for (_, currency), amount in balances.items() if amount},
            entries=tuple(await entries.load_of_user(connection, user_id, limit)),
            cases=tuple(await listings.load_cases_of_user(connection, user_id, limit)),
            events=tuple(await events.load_of_user(connection, user_id, limit)),
            actions=tuple(await audit.load_of_user(connection, user_id, limit)),
        )
