"""Whether the user's plan is renewed from credit when it ends."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.domain.auto_renewal import Obstacle
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.auto_renewal import RenewalOutlook
from kosmo_billing_daemon.web import documents, keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import Amount, PriceDocument, Time
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.operations import WRITING, Answer, Operation
from kosmo_billing_daemon.web.rendering import json_response
from kosmo_billing_daemon.web.requests import read_object


@record(kw_only=True)
class RenewalRequest:
    """The user's choice."""

    auto: bool


@record(kw_only=True)
class RenewalDocument:
    """The user's choice, and what it would do at the end of the present plan."""

    auto: bool
    obstacle: Annotated[
        Obstacle | None,
        Field(description="Why the plan would not be renewed as things stand; null: it is, if auto is true"),
    ]
    plan_type: Annotated[str | None, Field(description="The present plan; null without one")]
    renews_at: Annotated[Time | None, Field(description="When the present plan ends")]
    price: Annotated[PriceDocument | None, Field(description="What it costs now; null if it is not for sale")]
    amount_missing: Annotated[Amount | None, Field(description="What the credit lacks of the price")]


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    return conditional(request, _shown(await request.app[keys.SERVICES].renewals.show(user_id)))


async def _choose(request: web.Request) -> web.Response:
    user_id = await identify(request)
    auto = _auto(await read_object(request, RenewalRequest))
    return json_response(_shown(await request.app[keys.SERVICES].renewals.choose(user_id, auto=auto)))


def _auto(document: Mapping[str, Any]) -> bool:
    auto = document.get("auto")
    if not isinstance(auto, bool):
        raise Invalid("true or false is needed", field="auto")
    return auto


def _shown(outlook: RenewalOutlook) -> RenewalDocument:
    row, quoted = outlook.current, outlook.quote
    return RenewalDocument(
        auto=outlook.auto,
        obstacle=outlook.obstacle,
        plan_type=None if row is None else row.plan.plan_type,
        renews_at=None if row is None else row.valid_until,
        price=None if quoted is None else PriceDocument.of(quoted.plan.price),
        amount_missing=None if quoted is None else quoted.due.amount,
    )


_EXAMPLE = RenewalDocument(
    auto=True,
    obstacle=None,
    plan_type="wanderer",
    renews_at=documents.EXAMPLE_END,
    price=documents.EXAMPLE_PRICE,
    amount_missing=Decimal(0),
)

OPERATIONS = (
    Operation(
        method="get",
        path=f"{API}/subscription/renewal",
        handler=_show,
        name="showRenewal",
        tag="Rights",
        summary="Whether the plan is renewed from credit",
        has_etag=True,
        answers={200: Answer("The choice, and what comes of it", RenewalDocument, _EXAMPLE)},
    ),
    Operation(
        method="put",
        path=f"{API}/subscription/renewal",
        handler=_choose,
        name="chooseRenewal",
        tag="Rights",
        summary="Renew the plan from credit when it ends, or do not",
        description="At the end of the present plan the same plan is bought once more, at its price of that "
        "moment, if the user's credit pays all of it; else the plan ends. The choice stays until it is "
        "changed. The event subscription.renewing says so beforehand, in place of the reminder.",
        body=RenewalRequest,
        needs_body=True,
        body_example=RenewalRequest(auto=True),
        answers={200: Answer("The choice, and what comes of it", RenewalDocument, _EXAMPLE)},
        problems=(WRITING, {409: {"credit_off": "Plans cannot be paid from credit here"}}),
    ),
)
