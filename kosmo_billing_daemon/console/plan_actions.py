"""What operators do to a user's plans: give, lengthen, take back, give back, end for credit."""

from collections.abc import Sequence
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.admin import explaining
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.forms import FormField, Values
from kosmo_billing_daemon.console.user import LIMIT, user_of
from kosmo_billing_daemon.console.user_forms import user_form
from kosmo_billing_daemon.domain.folding import own_packs
from kosmo_billing_daemon.domain.subscriptions import Subscription, SubscriptionId, UserId
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.store import invoices, subscriptions


async def _plans(request: web.Request) -> Sequence[FormField]:
    plans = request.app[DESK].operations.catalogue.plans
    options = [(plan.plan_type, plan.plan_type) for plan in plans]
    return (FormField(name="plan", label="Plan", kind="select", options=options),)


async def _grant(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    row = await desk.operations.grant(user_id, given["plan"], by)
    return f"{row.plan.plan_type} is granted until {explaining.when(row.valid_until)}."


async def _days(_: web.Request) -> Sequence[FormField]:
    hint = "So many days are given to a user once for the same reason."
    return (FormField(name="days", label="Days", kind="number", hint=hint),)


async def _extend(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    days = given["days"]
    if not (days.isascii() and days.isdecimal() and len(days) < 6):
        raise Invalid("a number of days such as 3 is needed", field="days")
    row = await desk.extending.extend(user_id, int(days), by)
    return f"{row.plan.plan_type} is extended until {explaining.when(row.valid_until)}."


async def _history(request: web.Request) -> tuple[Subscription, ...]:
    return await request.app[DESK].pool.read(subscriptions.load_history, user_of(request), LIMIT)


def _purchase(row: Subscription) -> tuple[str, str]:
    period = f"{row.valid_from:%Y-%m-%d} to {row.valid_until:%Y-%m-%d}"
    return str(row.id), f"{row.plan.plan_type}, {period}, {row.status}: {explaining.origin(row)}"


async def _revocable(request: web.Request) -> Sequence[FormField]:
    rows = sorted(await _history(request), key=lambda row: not row.status.is_current)
    options = [_purchase(row) for row in rows if row.revoked_at is None]
    hint = "It counts as if it had never been; what was paid before it counts again."
    return (FormField(name="subscription", label="Purchase", kind="select", options=options, hint=hint),)


async def _revoke(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    row = await desk.operations.revoke(user_id, _chosen(given), by)
    return f"{row.plan.plan_type} of {row.valid_from:%Y-%m-%d} is revoked."


async def _revoked(request: web.Request) -> Sequence[FormField]:
    options = [_purchase(row) for row in await _history(request) if row.revoked_at is not None]
    hint = "It comes back with the same period, without extra time."
    return (FormField(name="subscription", label="Purchase", kind="select", options=options, hint=hint),)


async def _reinstate(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    row = await desk.operations.reinstate(user_id, _chosen(given), by)
    return f"{row.plan.plan_type} of {row.valid_from:%Y-%m-%d} is reinstated: {row.status}."


def _chosen(given: Values) -> SubscriptionId:
    try:
        return SubscriptionId(UUID(given["subscription"]))
    except ValueError:
        raise Invalid("there is nothing to choose", field="subscription") from None


async def _cash(desk: Desk, user_id: UserId, _: Values, by: OperatorAction) -> str:
    row = await desk.operations.cash(user_id, by)
    return f"{row.plan.plan_type} has ended, and what was left of it is credit."


async def _packs(request: web.Request) -> Sequence[FormField]:
    ids = {lot.purchase for row in await _history(request) for lot in own_packs(row)}
    found = await request.app[DESK].pool.read(invoices.load, ids)
    options = [(str(one.id), f"{one.plan.plan_type} of {one.created_at:%Y-%m-%d}") for one in found.values()]
    return (FormField(name="pack", label="Pack", kind="select", options=options),)


async def _revoke_pack(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    row = await desk.operations.revoke_pack(user_id, given["pack"], by)
    return f"The pack is taken back; used are {explaining.quota(row.messages_used, row.messages_limit)}."


FORMS = (
    user_form(
        "grant",
        "Grant a plan",
        _grant,
        verb="Grant the plan",
        will="The user gets this plan now, as if it had been bought.",
        fields=_plans,
    ),
    user_form(
        "extend",
        "Extend the plan",
        _extend,
        verb="Extend the plan",
        will="The plan ends later. This adds no messages, and changes the worth of nothing that was paid.",
        fields=_days,
    ),
    user_form(
        "revoke",
        "Revoke a purchase",
        _revoke,
        verb="Revoke the purchase",
        will="The purchase is taken back.",
        fields=_revocable,
        is_dangerous=True,
    ),
    user_form(
        "reinstate",
        "Reinstate a purchase",
        _reinstate,
        verb="Reinstate the purchase",
        will="The purchase is given back.",
        fields=_revoked,
    ),
    user_form(
        "credit",
        "End the plan for credit",
        _cash,
        verb="End the plan",
        will="The plan ends now, and what is left of it becomes credit.",
        is_dangerous=True,
    ),
    user_form(
        "pack",
        "Take a pack back",
        _revoke_pack,
        verb="Take the pack back",
        will="The limit is again what it was without the pack.",
        fields=_packs,
        is_dangerous=True,
    ),
)
