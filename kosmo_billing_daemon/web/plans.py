"""What is for sale, for everybody to read."""

from collections.abc import Sequence
from datetime import timedelta

from aiohttp import web

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import PlanDocument, PriceDocument
from kosmo_billing_daemon.web.rendering import encode

FRESH_SECONDS = 300
"""How long an answer may be kept: a price changes by a restart only."""


def routes(prefix: str) -> Sequence[web.RouteDef]:
    return [web.get(f"{prefix}/plans", _list)]


async def _list(request: web.Request) -> web.Response:
    body = encode([shown(plan) for plan in request.app[keys.CATALOGUE].plans]).encode()
    return conditional(request, body, headers={"Cache-Control": f"public, max-age={FRESH_SECONDS}"})


def shown(plan: Plan) -> PlanDocument:
    """Describe a plan."""
    return PlanDocument(
        plan_type=plan.plan_type,
        price=PriceDocument(amount=plan.price.amount, currency=plan.price.currency),
        period_days=plan.period // timedelta(days=1),
        messages_limit=plan.quota,
        scope=Scope(plan.scope),
        features=plan.features,
    )
