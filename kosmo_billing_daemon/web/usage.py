"""What was counted for the user: per day, in sum, and the last messages."""

import re
from collections.abc import Sequence
from datetime import date, timedelta

from aiohttp import web

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.store import entitlements, usage
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import DayDocument, MessageDocument, UsageDocument
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.rendering import encode
from kosmo_billing_daemon.web.requests import WrongFields, parameter

MOST_DAYS = 400
LATEST = 20
WITHOUT_PLAN = timedelta(days=29)
"""Who has no plan sees the last 30 days."""

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def routes(prefix: str) -> Sequence[web.RouteDef]:
    return [web.get(f"{prefix}/usage", _show)]


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    with WrongFields() as wrong:
        first, last = wrong.read(_day, request, "from"), wrong.read(_day, request, "to")
    today = request.app[keys.CLOCK]().date()
    async with request.app[keys.POOL].connection() as connection:
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
    return conditional(request, encode(document).encode())


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
