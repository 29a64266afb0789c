"""What serves HTTP in every daemon, whether it leads or not."""

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from kosmo_billing_daemon.assembly.wakeups import Wakeups
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.rate_limit import RateLimit
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.services.inbox import Inbox
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.services.streams import EntitlementStreams
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.settings import Settings
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.app import build_app
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.keys import WebServices
from kosmo_billing_daemon.web.server.admission import OWN, Admission
from kosmo_billing_daemon.web.server.draining import drain
from kosmo_billing_daemon.web.server.serving import serve

log = logging.getLogger(__name__)

STREAMS = 75  # per cent of all connections at most: they stay, and others must still come in


class CannotListen(Unavailable):
    """The address is taken, or not ours to listen on."""

    code = "cannot_listen"


class Front:
    """The application, who is let in, and the streams that stay open."""

    def __init__(
        self,
        settings: Settings,
        *,
        pool: Pool,
        btcpay: BtcpayClient,
        settlement: Settlement,
        links: RenewalLinks,
        renewals: AutoRenewals,
        topics: Topics,
        clock: Clock,
        wakeups: Wakeups,
        leads: Callable[[], bool],
        readiness: Callable[[], Awaitable[Readiness]],
    ) -> None:
        def hinted() -> bool:
            wakeups.hinted()
            return leads()

        catalogue = renewals.catalogue
        self.admission = Admission(own=OWN + settings.database.connections)
        self.streams = EntitlementStreams(
            pool=pool,
            clock=clock,
            beat=settings.http.stream_beat,
            most=self.admission.most * STREAMS // 100,
        )
        wakeups.stream = self.streams.wake
        services = WebServices(
            pool=pool,
            clock=clock,
            catalogue=catalogue,
            invoicing=Invoicing(
                pool=pool,
                btcpay=btcpay,
                settlement=settlement,
                clock=clock,
                expiration=settings.btcpay.invoice_expiration,
                limit=RateLimit(settings.http.invoice_rate),
            ),
            inbox=Inbox(pool=pool, wake=hinted),
            entitlements=Entitlements(pool=pool, clock=clock),
            whitelist=Whitelist(
                pool=pool, clock=clock, changed=wakeups.changed, new_per_day=settings.http.new_nodes_per_day
            ),
            links=links,
            renewals=renewals,
            streams=self.streams,
        )
        self._http = settings.http
        self.app = build_app(
            services, http=settings.http, webhook=settings.webhook, readiness=readiness, topics=topics
        )

    @contextlib.asynccontextmanager
    async def serving(self, sockets: Sequence[socket.socket]) -> AsyncIterator[int]:
        """Listen, and give the port; at the end requests in flight finish. Raises ``CannotListen``."""
        host, port = self._http.host, self._http.port
        try:
            runner, port = await serve(
                self.app, host=host, port=port, sockets=sockets, admission=self.admission
            )
        except OSError as error:
            raise CannotListen(f"cannot listen on {host} port {port}: {error}") from error
        log.info("listening on %s port %d", host, port)
        try:
            yield port
        finally:
            await drain(runner, sockets)
