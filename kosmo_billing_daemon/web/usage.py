"""What was counted for the user: per day, in sum, and the last messages."""

import re
from datetime import date, timedelta
from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.domain.metering import UsageDecision
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import entitlements, usage
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import EXAMPLE_END, EXAMPLE_SUBSCRIPTION, EXAMPLE_TIME, Time
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.operations import WRONG_PARAMETER, Answer, Operation, Parameter
from kosmo_billing_daemon.web.requests import WrongFields, parameter

MOST_DAYS = 400
LATEST = 20
WITHOUT_PLAN = timedelta(days=29)
"""Without a plan a user sees the last 30 days."""

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


@record(kw_only=True)
class DayDocument:
    """Messages counted on one day (UTC)."""

    day: date
    messages: Annotated[int, Field(ge=0)]


@record(kw_only=True)
class MessageDocument:
    """One message that a gateway reported."""

    message_id: str
    node_id: str | None
    count: Annotated[int, Field(ge=1)]
    sent_at: Time
    decision: Annotated[
        UsageDecision,
        Field(description="over_limit was counted too; no_subscription had nothing to count on"),
    ]
    subscription_id: UUID | None


@record(kw_only=True)
class UsageDocument:
    """Messages counted from one day to another, both included."""

    first: Annotated[date, Field(description="The first day")]
    last: Annotated[date, Field(description="The last day")]
    messages: Annotated[int, Field(ge=0, description="All of these days together")]
    days: Annotated[tuple[DayDocument, ...], Field(description="Days with messages, oldest first")]
    latest: Annotated[
        tuple[MessageDocument, ...], Field(description=f"The last {LATEST} of all, newest first")
    ]


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    with WrongFields() as wrong:
        first, last = wrong.read(_day, request, "from"), wrong.read(_day, request, "to")
    today = request.app[keys.SERVICES].clock().date()
    async with request.app[keys.SERVICES].pool.connection() as connection:
        last = last or max(today, first or today)
        if first is None:
            first = min(await _begin_of_period(connection, user_id, today), last)
            first = max(first, _earliest(last))
        if not _earliest(last) <= first <= last:
            raise Invalid(f"from must not be after to, nor more than {MOST_DAYS} days together", field="from")
        days = await usage.load_days(connection, user_id, first, last)
        latest = await usage.load_latest(connection, user_id, LATEST)
    document = UsageDocument(
        first=first,
        last=last,
        messages=sum(day.messages for day in days),
        days=tuple(DayDocument(day=day.day, messages=day.messages) for day in days),
        latest=tuple(
            MessageDocument(
                message_id=event.message_id,
                node_id=event.node_id,
                count=event.count,
                sent_at=event.sent_at,
                decision=event.decision,
                subscription_id=event.subscription_id,
            )
            for event in latest
        ),
    )
    return conditional(request, document)


async def _begin_of_period(connection: Connection, user_id: UserId, today: date) -> date:
    known = (await entitlements.load_of_users(connection, [user_id])).get(user_id)
    begun = None if known is None else known.entitlement.valid_from
    return today - WITHOUT_PLAN if begun is None else begun.date()


def _earliest(last: date) -> date:
    return date.fromordinal(max(1, last.toordinal() - MOST_DAYS + 1))


def _day(request: web.Request, name: str) -> date | None:
    given = parameter(request, name)
    if given is None:
        return None
    try:
        if not _DAY.fullmatch(given):  # fromisoformat knows weeks too
            raise ValueError(given)
        return date.fromisoformat(given)
    except ValueError:
        raise Invalid("a day as 2026-03-01 is needed", field=name) from None


_A_DAY = {"type": "string", "format": "date"}
_EXAMPLE = UsageDocument(
    first=EXAMPLE_TIME.date(),
    last=EXAMPLE_END.date(),
    messages=3,
    days=(DayDocument(day=EXAMPLE_TIME.date(), messages=3),),
    latest=(
        MessageDocument(
            message_id="gateway-1-000017",
            node_id="!a1b2c3d4",
            count=1,
            sent_at=EXAMPLE_TIME + timedelta(minutes=50),
            decision=UsageDecision.COUNTED,
            subscription_id=EXAMPLE_SUBSCRIPTION,
        ),
    ),
)

OPERATIONS = (
    Operation(
        method="get",
        path=f"{API}/usage",
        handler=_show,
        name="showUsage",
        tag="Rights",
        summary="Messages counted",
        description=f"Days are UTC and both ends count; together they are at most {MOST_DAYS}. Without from: "
        "since the present plan began, or the last 30 days.",
        has_etag=True,
        parameters=(
            Parameter(
                name="from", place="query", description="The first day", schema=_A_DAY, example="2026-03-01"
            ),
            Parameter(
                name="to",
                place="query",
                description="The last day; without it: today",
                schema=_A_DAY,
                example="2026-03-31",
            ),
        ),
        answers={200: Answer("Per day, in sum, and the last messages", UsageDocument, _EXAMPLE)},
        problems=(WRONG_PARAMETER,),
    ),
)
