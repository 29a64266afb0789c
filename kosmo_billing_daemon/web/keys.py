"""Where handlers find what they were given: the application's keys, in a file of their own so that no
circle arises between the application and its routes.
"""

from aiohttp import web

from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.credit import CreditAccounts
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.services.inbox import Inbox
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.streams import EntitlementStreams
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.store.postgres import Pool

POOL = web.AppKey("pool", Pool)
INVOICING = web.AppKey("invoicing", Invoicing)
CREDIT = web.AppKey("credit", CreditAccounts)
INBOX = web.AppKey("inbox", Inbox)
ENTITLEMENTS = web.AppKey("entitlements", Entitlements)
LINKS = web.AppKey("links", RenewalLinks)
AUTO_RENEWALS = web.AppKey("auto_renewals", AutoRenewals)
WHITELIST = web.AppKey("whitelist", Whitelist)
LIVE = web.AppKey("live", EntitlementStreams)
CATALOGUE = web.AppKey("catalogue", Catalogue)
CLOCK: web.AppKey[Clock] = web.AppKey("clock")
REDIRECT_HOSTS: web.AppKey[frozenset[str]] = web.AppKey("redirect_hosts")
BODY_SECONDS = web.AppKey("body_seconds", float)
