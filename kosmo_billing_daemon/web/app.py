"""The HTTP door put together: every route and every middleware."""

from collections.abc import Awaitable, Callable
from functools import cache

from aiohttp import web

from kosmo_billing_daemon.contract.document import asyncapi
from kosmo_billing_daemon.contract.paths import API, WEBHOOK
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.services.renewal import Renewals
from kosmo_billing_daemon.settings import Http, WebhookSettings, WebhookTrust
from kosmo_billing_daemon.web import (
    auto_renewal,
    buying,
    cors,
    credit,
    health,
    identity,
    invoices,
    keys,
    metrics,
    nodes,
    openapi,
    pages,
    plans,
    problems,
    renewal,
    requests,
    subscription,
    usage,
    webhooks,
)
from kosmo_billing_daemon.web.server import draining, hosts

OPERATIONS = (
    *plans.OPERATIONS,
    *buying.OPERATIONS,
    *credit.OPERATIONS,
    *invoices.OPERATIONS,
    *subscription.OPERATIONS,
    *auto_renewal.OPERATIONS,
    *usage.OPERATIONS,
    *nodes.OPERATIONS,
    *webhooks.OPERATIONS,
    *pages.OPERATIONS,
    *health.OPERATIONS,
    *metrics.OPERATIONS,
)
"""Every route, in the order in which it is described."""


def build_app(
    services: keys.WebServices,
    *,
    http: Http,
    webhook: WebhookSettings,
    readiness: Callable[[], Awaitable[health.Readiness]],
    topics: Topics | None = None,
    body_seconds: float = requests.BODY_SECONDS,
) -> web.Application:
    """Build the application; raises ``Misconfigured`` for an identity mode that is not complete.

    A body that is not complete after ``body_seconds`` is refused.
    """
    app = web.Application(
        middlewares=[problems.middleware, cors.middleware], client_max_size=requests.MAX_BODY_BYTES
    )
    app[keys.SERVICES] = services
    app[renewal.RENEWALS] = Renewals(
        pool=services.pool,
        clock=services.clock,
        invoicing=services.invoicing,
        catalogue=services.catalogue,
        entitlements=services.entitlements,
        credit=services.credit,
    )
    app[keys.BODY_SECONDS] = body_seconds
    app[keys.REDIRECT_HOSTS] = http.redirect_hosts
    app[identity.IDENTIFY] = identity.for_mode(http)
    app[webhooks.INTAKE] = webhooks.Intake.of(webhook)
    app[hosts.NAMES] = hosts.Names(http.allowed_hosts)
    # A webhook is only a hint, unless its body is the fact.
    exempt = () if webhook.trust is WebhookTrust.BODY else (WEBHOOK,)
    app[cors.POLICY] = cors.Policy(frozenset(http.cors_origins), API, exempt)
    app[health.READINESS] = health.recent(readiness)
    app[metrics.TOKEN] = http.metrics_token
    described: Callable[[], bytes] = cache(lambda: openapi.encoded(OPERATIONS, http.auth_mode))
    app[pages.OPENAPI] = described
    app[pages.ASYNCAPI] = asyncapi(topics)
    problems.install(app)
    app.on_response_prepare.append(cors.dress)
    draining.install(app)
    app.add_routes([operation.route() for operation in OPERATIONS])
    app.add_routes([*pages.PARTS, *renewal.ROUTES])
    app.on_shutdown.append(_end_streams)
    return app


async def _end_streams(app: web.Application) -> None:
    """End what would never end by itself, so that stopping waits for requests only."""
    app[keys.SERVICES].streams.close()
