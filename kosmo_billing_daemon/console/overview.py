"""The first page: money, subscriptions, what waits, and how each part is."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from aiohttp import web

from kosmo_billing_daemon.admin import dashboard
from kosmo_billing_daemon.admin.ways_out import TITLES
from kosmo_billing_daemon.console.charts import StackedBars, stacked
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.rendering import money, render, url
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.figures import TakingsOfDay

NO_PLAN = "other"
"""What money is called that came in without an invoice of ours."""


@record(kw_only=True)
class Takings:
    """What came in in one currency: all of it, today's, the chart, and the same as rows."""

    currency: str
    total: Decimal
    today: Decimal
    payments: int
    chart: StackedBars
    days: Sequence[tuple[date, Sequence[Decimal | None], Decimal]]


async def show(request: web.Request) -> web.Response:
    """Show the shop as it is now."""
    desk = request.app[DESK]
    readiness = await desk.readiness()
    found = await dashboard.load(desk.pool, desk.clock)
    return render(
        request,
        "overview.html",
        shop=found,
        titles=TITLES,
        takings=_takings(found),
        users=sum(each.users for each in found.current),
        ending=sum(each.ending for each in found.current),
        readiness=readiness,
        days=dashboard.DAYS,
        ending_days=dashboard.ENDING_DAYS,
        money_today=_joined([(each.today, each.currency) for each in _takings(found) if each.today]),
    )


def _takings(found: dashboard.Dashboard) -> list[Takings]:
    """Sum up by currency, the one with most payments first."""
    by_currency: dict[str, list[TakingsOfDay]] = {}
    for each in found.takings:
        by_currency.setdefault(each.currency, []).append(each)
    shown = [_in_one(found, currency, rows) for currency, rows in by_currency.items()]
    return sorted(shown, key=lambda each: (-each.payments, each.currency))


def _in_one(found: dashboard.Dashboard, currency: str, rows: Sequence[TakingsOfDay]) -> Takings:
    amounts = {(row.day, row.plan_type or NO_PLAN): row.amount for row in rows}
    chart = stacked(found.since, dashboard.DAYS, amounts, currency)
    days = sorted({row.day for row in rows}, reverse=True)
    return Takings(
        currency=currency,
        total=sum((row.amount for row in rows), Decimal(0)),
        today=sum((row.amount for row in rows if row.day == found.now.date()), Decimal(0)),
        payments=sum(row.payments for row in rows),
        chart=chart,
        days=[
            (
                day,
                [amounts.get((day, name)) for name in chart.names],
                sum((row.amount for row in rows if row.day == day), Decimal(0)),
            )
            for day in days
        ],
    )


def _joined(amounts: Sequence[tuple[Decimal, str]]) -> str:
    return " + ".join(money(amount, currency) for amount, currency in amounts)


ROUTES = (web.get(url("/"), show),)
