"""What is for sale, for everybody to read."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.plans import Catalogue, Plan
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import EXAMPLE_PRICE, PlanName, PriceDocument
from kosmo_billing_daemon.web.operations import Answer, Operation
from kosmo_billing_daemon.web.requests import optional_text, text

MAX_NAME_LENGTH = 64  # twice the longest name there can be: a slip is told by its name

PlanWanted = Annotated[
    str | None,
    Field(
        min_length=1, max_length=MAX_NAME_LENGTH, description="A plan of GET /plans, unless a pack is named"
    ),
]
PackWanted = Annotated[
    str | None,
    Field(
        min_length=1, max_length=MAX_NAME_LENGTH, description="A pack of GET /plans, unless a plan is named"
    ),
]

FRESH_SECONDS = 300
"""How long an answer may be kept: a price changes by a restart only."""


@record(kw_only=True)
class PackDocument:
    """One pack for sale: messages more for the current plan, and no time."""

    pack: Annotated[str, Field(description="Its name, for POST /invoices and POST /quotes")]
    price: PriceDocument
    messages: Annotated[int, Field(ge=1, examples=[50])]


@record(kw_only=True)
class PlanDocument:
    """One plan for sale."""

    plan_type: PlanName
    price: PriceDocument
    period_days: Annotated[int, Field(ge=1, examples=[30])]
    messages_limit: Annotated[int | None, Field(description="null is unlimited", examples=[50])]
    scope: Scope
    features: tuple[str, ...]
    packs: Annotated[tuple[PackDocument, ...], Field(description="Those that fit it")]


async def _list(request: web.Request) -> web.Response:
    catalogue = request.app[keys.SERVICES].catalogue
    listed = [shown(plan, catalogue.packs) for plan in catalogue.plans]
    return conditional(request, listed, headers={"Cache-Control": f"public, max-age={FRESH_SECONDS}"})


NOT_FOR_SALE = {
    422: {
        "unknown_plan": "There is no such plan; detail names those for sale",
        "unknown_pack": "There is no such pack; detail names those for sale",
    }
}
"""What ``wanted`` refuses."""


def wanted(document: Mapping[str, Any], catalogue: Catalogue) -> Plan:
    """Return the plan or pack that a body names; raises ``Invalid`` unless it names one that is for sale."""
    pack = optional_text(document, "pack")
    if pack is None:
        return catalogue.require(text(document, "plan_type", most=MAX_NAME_LENGTH))
    if optional_text(document, "plan_type") is not None:
        raise Invalid("name a plan or a pack, not both", field="pack")
    return catalogue.require_pack(text(document, "pack", most=MAX_NAME_LENGTH))


def shown(plan: Plan, packs: Sequence[Plan]) -> PlanDocument:
    """Describe a plan, with those of ``packs`` that fit it."""
    return PlanDocument(
        plan_type=plan.plan_type,
        price=PriceDocument.of(plan.price),
        period_days=plan.period // timedelta(days=1),
        messages_limit=plan.quota,
        scope=plan.scope,
        features=plan.features,
        packs=tuple(
            PackDocument(pack=pack.plan_type, price=PriceDocument.of(pack.price), messages=pack.quota)
            for pack in packs
            if plan.plan_type in pack.fits and pack.quota is not None
        ),
    )


_EXAMPLE = PlanDocument(
    plan_type="wanderer",
    price=EXAMPLE_PRICE,
    period_days=30,
    messages_limit=50,
    scope=Scope.ANY_NODE,
    features=(),
    packs=(
        PackDocument(
            pack="extra_50", price=PriceDocument(amount=Decimal("4.00"), currency="USD"), messages=50
        ),
    ),
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
