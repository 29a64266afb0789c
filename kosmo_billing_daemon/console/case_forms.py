"""What can be decided about a case, with a reason, a preview and a confirmation; then comes the next case."""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial

from aiohttp import web

from kosmo_billing_daemon.admin import finding
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.admin.rehearsing import UserState
from kosmo_billing_daemon.admin.ways_out import TITLES, CaseDecision, invoice_name, ways_out
from kosmo_billing_daemon.console.attention import NUMBER, case_number, next_case
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.forms import FormField, OperatorForm, Preview, Values
from kosmo_billing_daemon.console.rendering import about, money, when
from kosmo_billing_daemon.console.user_forms import rehearsed
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, NotFound
from kosmo_billing_daemon.store import listings
from kosmo_billing_daemon.store.listings import ListedCase


def _actions(desk: Desk) -> CaseActions:
    return CaseActions(pool=desk.pool, clock=desk.clock)


async def _case(request: web.Request, decision: CaseDecision | None = None) -> ListedCase:
    """Return the case of this page; raises ``Conflict`` where it allows no such decision."""
    number = case_number(request)
    case = await request.app[DESK].pool.read(listings.load_case, number)
    if case is None:
        raise NotFound(f"there is no case {number}")
    if decision is not None:
        if case.closed_at is not None:
            raise Conflict(f"case {number} is closed: {case.resolution}", code="closed_before")
        if decision not in (way.decision for way in ways_out(case)):
            raise Conflict(f"case {number} ({TITLES[case.kind]}) allows no such decision")
    return case


async def _bought(request: web.Request, decision: CaseDecision) -> tuple[ListedCase, Invoice]:
    case = await _case(request, decision)
    assert case.invoice is not None  # noqa: S101 - of these decisions
    return case, case.invoice


async def _owner(request: web.Request) -> tuple[ListedCase, UserId]:
    case = await _case(request, CaseDecision.END_PLAN)
    assert case.user_id is not None  # noqa: S101 - a balance is somebody's
    return case, case.user_id


def _back(request: web.Request) -> str:
    return f"/attention/{case_number(request)}"


async def _about(request: web.Request) -> str:
    case = await _case(request)
    whose = "" if case.user_id is None else f" of user {case.user_id}"
    return f"Case {case.number}: {TITLES[case.kind]}, {money(case.amount, case.currency)}{whose}"


async def _next(request: web.Request) -> str:
    return await next_case(request, case_number(request))


def _gained(before: UserState, after: UserState, currency: str) -> Decimal:
    """Return what an action adds to a user's credit."""
    nothing = Decimal(0)
    return after.listed.credit.get(currency, nothing) - before.listed.credit.get(currency, nothing)


# --- giving what an invoice was for -------------------------------------------------------------------------


async def _preview_settling(request: web.Request, _given: Values) -> Preview:
    _case_now, invoice = await _bought(request, CaseDecision.SETTLE)
    currency, name = invoice.plan.price.currency, invoice_name(invoice)
    effects, *_ = await rehearsed(request, invoice.user_id, lambda desk, by: desk.operations.settle(name, by))
    missing = max(Decimal(0), invoice.asked.amount - invoice.received)
    vouched = f"{money(missing, currency)} are not booked as received: you vouch for them."
    came = f"{money(invoice.received, currency)} of {money(invoice.asked.amount, currency)}"
    kind = "pack is added" if invoice.plan.is_pack else "plan is given"
    return Preview(
        sentence=f"The {invoice.plan.plan_type} {kind} to user {invoice.user_id} now. The case is closed.",
        effects=[*effects, ("Booked as received", came)],
        warning=vouched if missing else "",
    )


async def _settle(request: web.Request, _: Values, by: OperatorAction) -> str:
    case, invoice = await _bought(request, CaseDecision.SETTLE)
    settled, _changed = await request.app[DESK].operations.settle(invoice_name(invoice), by)
    return f"Case {case.number}: {settled.plan.plan_type} was given to user {settled.user_id}."


# --- giving the plan of a second payment --------------------------------------------------------------------


async def _preview_grant(request: web.Request, _given: Values) -> Preview:
    case, invoice = await _bought(request, CaseDecision.GRANT)
    user_id, plan = invoice.user_id, invoice.plan.plan_type
    effects, *_ = await rehearsed(request, user_id, lambda desk, by: desk.operations.grant(user_id, plan, by))
    return Preview(
        sentence=f"User {user_id} is granted {plan} once more, for the second payment.",
        effects=[*effects, ("Paid twice", money(case.amount, case.currency))],
        warning="The case stays open: close it next.",
    )


async def _grant(request: web.Request, _: Values, by: OperatorAction) -> str:
    case, invoice = await _bought(request, CaseDecision.GRANT)
    row = await request.app[DESK].operations.grant(invoice.user_id, invoice.plan.plan_type, by)
    until = when(row.valid_until)
    return f"{row.plan.plan_type} was given again, until {until} UTC. Now close case {case.number}."


# --- giving money that is in no ledger to a user ------------------------------------------------------------


async def _whose(request: web.Request) -> Sequence[FormField]:
    owner = (await _case(request)).user_id
    hint = "A user's UUID, or the id of one of their orders or of BTCPay's invoice."
    known = "" if owner is None else str(owner)
    return (FormField(name="user", label="Who paid it", hint=hint, value=known, longest=200),)


async def _preview_giving(request: web.Request, given: Values) -> Preview:
    case = await _case(request, CaseDecision.GIVE)
    pool = request.app[DESK].pool
    user_id = await finding.resolve(pool, given["user"])
    is_known = await pool.read(listings.is_known, user_id)
    effects, *_ = await rehearsed(
        request, user_id, lambda desk, by: _actions(desk).give(case.number, user_id, by)
    )
    return Preview(
        sentence=f"{money(case.undecided, case.currency)} become credit of user {user_id}."
        " The case is closed.",
        effects=effects,
        warning="" if is_known else "Nothing was ever recorded of this user. Is the id right?",
    )


async def _give(request: web.Request, given: Values, by: OperatorAction) -> str:
    case = await _case(request, CaseDecision.GIVE)
    desk = request.app[DESK]
    user_id = await finding.resolve(desk.pool, given["user"])
    await _actions(desk).give(case.number, user_id, by)
    return f"Case {case.number}: {money(case.undecided, case.currency)} are credit of user {user_id}."


# --- ending a plan, so that what is left of it pays a debt --------------------------------------------------


async def _preview_ending(request: web.Request, _: Values) -> Preview:
    case, user_id = await _owner(request)
    effects, before, after = await rehearsed(
        request, user_id, lambda desk, by: desk.operations.cash(user_id, by)
    )
    worth, owed = _gained(before, after, case.currency), case.undecided
    left = "That pays all of it."
    if worth < owed:
        left = f"The rest, {about(owed - worth, case.currency)}, stays owed: close the case next."
    return Preview(
        sentence=f"The plan of user {user_id} ends now. What is left of it is worth "
        f"{about(worth, case.currency)}, and is set against the {money(owed, case.currency)} owed. {left}",
        effects=effects,
        warning="The user can send no more messages until the next purchase.",
    )


async def _end(request: web.Request, _: Values, by: OperatorAction) -> str:
    case, user_id = await _owner(request)
    row = await request.app[DESK].operations.cash(user_id, by)
    return f"Case {case.number}: the {row.plan.plan_type} plan of user {user_id} has ended."


# --- closing ------------------------------------------------------------------------------------------------


async def _preview_closing(request: web.Request, _: Values) -> Preview:
    case = await _case(request, CaseDecision.CLOSE)
    sentence = f"Case {case.number} is closed, and nobody is given anything."
    if case.user_id is None:
        return Preview(sentence=sentence)
    effects, before, after = await rehearsed(
        request, case.user_id, lambda desk, by: _actions(desk).close(case.number, by)
    )
    gained, warning = _gained(before, after, case.currency), ""
    if gained > 0:
        sentence = f"Case {case.number} is closed: nobody has to pay the {money(gained, case.currency)}."
    elif gained < 0:
        lost = money(-gained, case.currency)
        warning = f"{lost} leave the user's credit: have they been paid back, or are they kept on purpose?"
    return Preview(sentence=sentence, effects=effects, warning=warning)


async def _close(request: web.Request, _: Values, by: OperatorAction) -> str:
    closed = await _actions(request.app[DESK]).close(case_number(request), by)
    return f"Case {closed.number} ({TITLES[closed.kind]}) is closed."


_case_form = partial(OperatorForm, back=_back, about=_about, then=_next)

FORMS = (
    _case_form(
        path=f"/attention/{NUMBER}/settle",
        title="Give what was bought",
        verb="Give it",
        intro="As if the invoice had settled now. The case is closed.",
        preview=_preview_settling,
        run=_settle,
    ),
    _case_form(
        path=f"/attention/{NUMBER}/grant",
        title="Give the plan again",
        verb="Give it again",
        intro="For the second payment. Close the case afterwards.",
        preview=_preview_grant,
        run=_grant,
    ),
    _case_form(
        path=f"/attention/{NUMBER}/give",
        title="Give the money to a user",
        verb="Give it",
        intro="It becomes credit, which pays for the user's next purchase. The case is closed.",
        fields=_whose,
        preview=_preview_giving,
        run=_give,
    ),
    _case_form(
        path=f"/attention/{NUMBER}/end-plan",
        title="End the plan",
        verb="End the plan",
        intro="What is left of the plan is set against what the user owes.",
        preview=_preview_ending,
        run=_end,
        is_dangerous=True,
    ),
    _case_form(
        path=f"/attention/{NUMBER}/close",
        title="Close the case",
        verb="Close it",
        intro="Without giving any rights, as after a refund. More money that comes in later opens it again.",
        preview=_preview_closing,
        run=_close,
    ),
)
