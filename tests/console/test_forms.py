"""Every action: a form with a reason, a preview, and a confirmation of exactly that, once."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.forms import FormField, OperatorForm, Preview, Values
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.console.conftest import ConsoleShop, ConsoleStarter, Visitor


async def _fields(_: web.Request) -> Sequence[FormField]:
    options = [(name, name) for name in ("wanderer", "guardian")]
    return (
        FormField(name="plan", label="Plan", kind="select", options=options),
        FormField(name="note", label="Note", is_required=False),
    )


async def _preview(request: web.Request, given: Values) -> Preview:
    plan = BUILT_IN.require(given["plan"])
    return Preview(
        sentence=f"{request.match_info['user_id']} is given {plan.plan_type}.",
        effects=[("Messages", str(plan.quota))],
        warning=given["note"],
    )


async def _run(request: web.Request, given: Values, by: OperatorAction) -> str:
    user_id = UserId(UUID(request.match_info["user_id"]))
    row = await request.app[DESK].operations.grant(user_id, given["plan"], by)
    return f"{row.plan.plan_type} was given {given['note']}."


GRANT = OperatorForm(
    path="/try/{user_id}/grant",
    title="Grant a plan",
    verb="Grant the plan",
    fields=_fields,
    preview=_preview,
    run=_run,
    back=lambda _: "/",
)
TYPED = {"plan": "guardian", "note": "<b>hello</b>", "reason": "ticket 7 <i>"}


@pytest.fixture
async def shop(start_console: ConsoleStarter) -> ConsoleShop:
    return await start_console(GRANT)


@pytest.fixture
def path() -> str:
    return f"/admin/try/{uuid4()}/grant"


async def granted(shop: ConsoleShop) -> int:
    return int(await shop.value("SELECT count(*) FROM subscriptions"))


async def test_nothing_happens_before_the_confirmation(shop: ConsoleShop, alice: Visitor, path: str) -> None:
    preview = await alice.send(path, TYPED)
    assert "is given guardian." in preview.text
    assert ">500<" in preview.text
    assert "Grant the plan" in preview.text
    assert await granted(shop) == 0
    done = await alice.post(path, preview.hidden)
    assert (done.status, done.location) == (303, "/admin/")
    assert await granted(shop) == 1
    entry = await shop.value("SELECT (who, action, reason)::text FROM audit_log")
    assert entry == '(alice,user.grant,"ticket 7 <i>")'
    shown = await alice.get(done.location)
    assert "guardian was given &lt;b&gt;hello&lt;/b&gt;." in shown.text
    assert "guardian was given" not in (await alice.get(done.location)).text, "said once"


async def test_what_was_typed_stays_and_is_escaped_at_each_step(alice: Visitor, path: str) -> None:
    preview = await alice.send(path, TYPED)
    again = await alice.post(path, {**preview.hidden, "confirm": "", "change": "yes"})
    refused = await alice.send(path, {**TYPED, "reason": ""})
    for shown in (preview, again, refused):
        assert "&lt;b&gt;hello&lt;/b&gt;" in shown.text
        assert "<b>hello" not in shown.text
    assert 'value="ticket 7 &lt;i&gt;"' in again.text
    assert '<option value="guardian" selected>' in again.text


WRONG: dict[str, dict[str, str]] = {
    "A reason is needed": {"reason": ""},
    "A reason is one line of at most 500 characters": {"reason": "x" * 501},
    "Plan is missing": {"plan": ""},
    "Plan: choose one of the list": {"plan": "sanctuary"},
}


async def test_a_wrong_value_is_told_in_the_form(shop: ConsoleShop, alice: Visitor, path: str) -> None:
    for told, typed in WRONG.items():
        shown = await alice.send(path, {**TYPED, **typed})
        assert shown.status == 422
        assert told in shown.text
        assert 'aria-invalid="true"' in shown.text
    assert await granted(shop) == 0


async def test_a_refusal_of_the_action_itself_is_told_in_the_form(
    shop: ConsoleShop, alice: Visitor, path: str
) -> None:
    user_id, by = UserId(UUID(path.split("/")[3])), OperatorAction("bob", "ticket")
    for _ in range(13):
        await shop.operations.grant(user_id, "guardian", by)
    preview = await alice.send(path, TYPED)
    refused = await alice.post(path, preview.hidden)
    assert refused.status == 409
    assert "This was not done." in refused.text
    assert "more than 400 days ahead" in refused.text
    assert await granted(shop) == 13


async def test_a_confirmation_works_once(shop: ConsoleShop, alice: Visitor, path: str) -> None:
    preview = await alice.send(path, TYPED)
    answers = await asyncio.gather(*(alice.post(path, preview.hidden) for _ in range(4)))
    assert {answer.status for answer in answers} == {303}
    assert await granted(shop) == 1


async def test_what_is_confirmed_is_what_was_previewed_here(
    shop: ConsoleShop, alice: Visitor, path: str
) -> None:
    preview = await alice.send(path, TYPED)
    bob = await shop.operator("bob")
    csrf_of_bob = (await bob.get(path)).csrf
    other = f"/admin/try/{uuid4()}/grant"
    attempts = [
        await alice.post(path, {**preview.hidden, "plan": "wanderer"}),
        await alice.post(path, {**preview.hidden, "reason": "another"}),
        await alice.post(path, {**preview.hidden, "confirm": "yes"}),
        await alice.post(other, preview.hidden),
        await bob.post(path, {**preview.hidden, "csrf": csrf_of_bob}),
    ]
    for shown in attempts:
        assert shown.status == 200
        assert "What will happen" in shown.text
    assert await granted(shop) == 0


async def test_an_outage_during_the_action_is_told_in_the_form(
    shop: ConsoleShop, alice: Visitor, path: str
) -> None:
    preview = await alice.send(path, TYPED)
    async with shop.pool.transaction("LOCK TABLE audit_log"):
        refused = await alice.post(path, preview.hidden)
    assert refused.status == 503
    assert "look before you try again" in refused.text
    assert 'value="ticket 7 &lt;i&gt;"' in refused.text


async def test_a_made_up_flash_message_is_not_shown(alice: Visitor) -> None:
    shown = await alice.get("/admin/", Cookie=f"kosmo_console={alice.cookie}; kosmo_flash=Done.{'a' * 64}")
    assert shown.status == 200
    assert "Done" not in shown.text
