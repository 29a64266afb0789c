"""What is for sale, for everybody to read."""

from datetime import timedelta
from typing import Annotated

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import EXAMPLE_PRICE, PlanName, PriceDocument
from kosmo_billing_daemon.web.operations import Answer, Operation
from kosmo_billing_daemon.web.rendering import encode

FRESH_SECONDS = 300
"""How long an answer may be kept: a price changes by a restart only."""


@record(kw_only=True)
class PlanDocument:
    """One plan for sale."""

    plan_type: PlanName
    price: PriceDocument
    period_days: Annotated[int, Field(ge=1, examples=[30])]
    messages_limit: Annotated[int | None, Field(description="null is unlimited", examples=[50])]
    scope: Scope
    features: tuple[str, ...]


async def _list(request: web.Request) -> web.Response:
    body = encode([shown(plan) for plan in request.app[keys.CATALOGUE].plans]).encode()
    return conditional(request, body, headers={"Cache-Control": f"public, max-age={FRESH_SECONDS}"})


def shown(plan: Plan) -> PlanDocument:
    """Describe a plan."""
    return PlanDocument(
        plan_type=plan.plan_type,
        price=PriceDocument.of(plan.price),
        period_days=plan.period // timedelta(days=1),
        messages_limit=plan.quota,
        scope=plan.scope,
        features=plan.features,
    )


_EXAMPLE = PlanDocument(
    plan_type="wanderer",
    price=EXAMPLE_PRICE,
    period_days=30,
    messages_limit=50,
    scope=Scope.ANY_NODE,
    features=(),
)

OPERATIONS = (
    Operation(
        method="get",
        path=f"{API}/plans",
        handler=_list,
        name="listPlans",
        tag="Buying",
        summary="What is for sale",
        needs_user=False,
        has_etag=True,
        answers={
            200: Answer("The catalogue, in the order to show it", tuple[PlanDocument, ...], (_EXAMPLE,))
        },
    ),
)
