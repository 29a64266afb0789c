"""What handlers work with, and how they get it: in a file of its own, so that no circle arises between the
application and its routes.
"""

from aiohttp import web

from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.credit import CreditAccounts
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.services.inbox import Inbox
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.streams import EntitlementStreams
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.store.postgres import Pool


@record(kw_only=True)
class WebServices:
    """Everything a route may need."""

    pool: Pool
    clock: Clock
    catalogue: Catalogue
    invoicing: Invoicing
    inbox: Inbox
    entitlements: Entitlements
    whitelist: Whitelist
    links: RenewalLinks
    renewals: AutoRenewals
    streams: EntitlementStreams

    @property
    def credit(self) -> CreditAccounts:
        return CreditAccounts(pool=self.pool, clock=self.clock, spends=self.invoicing.settlement.credit)


SERVICES = web.AppKey("services", WebServices)
REDIRECT_HOSTS: web.AppKey[frozenset[str]] = web.AppKey("redirect_hosts")
BODY_SECONDS = web.AppKey("body_seconds", float)
