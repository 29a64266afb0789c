"""Hooks: what each accepted last, what waits, since when one is off; adding, trying, repeating, removing."""

from collections.abc import Sequence
from datetime import UTC
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.hooks import HookActions
from kosmo_billing_daemon.admin.times import read_time
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.forms import FormField, OperatorForm, Preview, Values
from kosmo_billing_daemon.console.rendering import count, render, url, when
from kosmo_billing_daemon.contract.document import event_types
from kosmo_billing_daemon.domain.hook_texts import parse_texts
from kosmo_billing_daemon.domain.hooks import without_query
from kosmo_billing_daemon.errors import Refused, Unavailable
from kosmo_billing_daemon.store.hooks import WAITING_SHOWN, Hook

NUMBER: Final = r"{number:\d{1,9}}"
LONGEST_TEXTS: Final = 32_768

TEXTS_EXAMPLE: Final = """\
most_bytes = 200
content_type = "application/json"
body = '{"user": {user_id}, "text": {text}}'

[texts]
"subscription.expiring" = "Your {plan} plan ends in {time_left}. Renew: {renew_url}"
"subscription.expired" = "Your {plan} plan has ended. You still receive messages."
"quota.exhausted" = "All {messages_limit} messages of your {plan} plan are used."
"""
"""What a text for a mesh may look like, to begin with."""


def _actions(request: web.Request) -> HookActions:
    desk = request.app[DESK]
    return HookActions(pool=desk.pool, clock=desk.clock)


def _number(request: web.Request) -> int:
    return int(request.match_info["number"])


def state_of(hook: Hook) -> tuple[str, str]:
    """Say in a word and a tone how a hook is."""
    if hook.off_since is not None:
        return "off", "bad"
    return ("failing", "warn") if hook.failing_since is not None else ("on", "good")


async def _list(request: web.Request) -> web.Response:
    found = await _actions(request).load_all()
    rows = [(listed, state_of(listed.hook)) for listed in found]
    return render(request, "hooks.html", rows=rows, most=WAITING_SHOWN)


async def _show(request: web.Request) -> web.Response:
    return await _page(request)


async def _test(request: web.Request) -> web.Response:
    """Send an event of no meaning, and show the answer; it changes nothing, so it needs no reason."""
    try:
        answer = await _actions(request).test(_number(request))
    except (Refused, Unavailable) as error:
        return await _page(request, said=(error.message, "bad"))
    said = f"accepted: {answer.words}" if answer.is_accepted else f"not accepted: {answer.words}"
    return await _page(request, said=(f"The test was {said}", "good" if answer.is_accepted else "bad"))


async def _page(request: web.Request, said: tuple[str, str] | None = None) -> web.Response:
    found = await _actions(request).load(_number(request))
    hook = found.listed.hook
    return render(
        request,
        "hook.html",
        listed=found.listed,
        hook=hook,
        answers=found.answers,
        state=state_of(hook),
        said=said,
        most=WAITING_SHOWN,
    )


async def _what_to_add(request: web.Request) -> Sequence[FormField]:
    is_of_texts = request.query.get("template") == "texts"
    types = ", ".join(event_types())
    return (
        FormField(name="url", label="URL", hint="Where to send, such as https://example.org/hook."),
        FormField(
            name="events",
            label="Events",
            hint=f"With commas; a name may end with *, as in subscription.*. There are {types}.",
            value=", ".join(parse_texts(TEXTS_EXAMPLE).texts) if is_of_texts else "",
        ),
        FormField(
            name="texts",
            label="Texts",
            kind="textarea",
            hint="TOML with the short texts to send. Empty: each event is sent whole, as JSON.",
            value=TEXTS_EXAMPLE if is_of_texts else "",
            is_required=False,
            longest=LONGEST_TEXTS,
        ),
        FormField(
            name="private",
            label="Allow private addresses and http",
            kind="checkbox",
            hint="For an endpoint in your own network.",
            is_required=False,
        ),
    )


async def _preview_adding(request: web.Request, given: Values) -> Preview:
    wanted = await _actions(request).preview_add(
        given["url"], _patterns(given), texts=given["texts"] or None, allow_private=bool(given["private"])
    )
    return Preview(
        sentence=f"From now on these events are sent to {without_query(given['url'])}.",
        effects=[("Events", ", ".join(wanted)), ("As", "short texts" if given["texts"] else "JSON, whole")],
        warning="The secret is shown once, on the next page: have the receiver at hand.",
    )


async def _add(request: web.Request, given: Values, by: OperatorAction) -> web.Response:
    hook = await _actions(request).add(
        given["url"],
        _patterns(given),
        texts=given["texts"] or None,
        allow_private=bool(given["private"]),
        by=by,
    )
    return render(request, "hook_added.html", hook=hook)


def _patterns(given: Values) -> list[str]:
    return [pattern.strip() for pattern in given["events"].split(",") if pattern.strip()]


async def _about(request: web.Request) -> str:
    hook = (await _actions(request).load(_number(request))).listed.hook
    return f"Hook {hook.id}: {without_query(hook.url)}"


async def _since_when(request: web.Request) -> Sequence[FormField]:
    hook = (await _actions(request).load(_number(request))).listed.hook
    hint = "As 2026-03-01T12:00; UTC."
    known = "" if hook.off_since is None else f"{hook.off_since.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    if known:
        hint += " It was switched off then."
    return (FormField(name="since", label="Send again from", hint=hint, value=known, longest=40),)


async def _preview_replay(request: web.Request, given: Values) -> Preview:
    since, events = await _actions(request).preview_replay(
        _number(request), read_time(given["since"], "since")
    )
    number = f"{count(events)}{' or more' if events >= WAITING_SHOWN else ''}"
    return Preview(
        sentence=f"The hook is switched on, and sends what happened since {when(since)} UTC.",
        effects=[("Events", f"{number}, those included that wait already")],
        warning="What it accepted before comes again, with the same ids.",
    )


async def _replay(request: web.Request, given: Values, by: OperatorAction) -> str:
    number = _number(request)
    added = await _actions(request).replay(number, read_time(given["since"], "since"), by)
    return f"Hook {number} is on; {count(added)} event{'' if added == 1 else 's'} queued."


async def _preview_removing(request: web.Request, _: Values) -> Preview:
    listed = (await _actions(request).load(_number(request))).listed
    return Preview(
        sentence=f"Nothing is sent to {without_query(listed.hook.url)} any more.",
        effects=[("Events that wait", f"{count(listed.waiting)}, which are not sent")],
        warning="A hook that is added again has another secret.",
    )


async def _remove(request: web.Request, _: Values, by: OperatorAction) -> str:
    number = _number(request)
    await _actions(request).remove(number, by)
    return f"Hook {number} is removed."


def _back(request: web.Request) -> str:
    return f"/hooks/{_number(request)}"


FORMS = (
    OperatorForm(
        path="/hooks/add",
        title="Add a hook",
        verb="Add the hook",
        intro="Events are sent to it signed, in order, at least once.",
        fields=_what_to_add,
        preview=_preview_adding,
        run=_add,
        back=lambda _: "/hooks",
    ),
    OperatorForm(
        path=f"/hooks/{NUMBER}/replay",
        title="Send again",
        verb="Send again",
        intro="Switches the hook on, and sends what happened since then.",
        fields=_since_when,
        preview=_preview_replay,
        run=_replay,
        back=_back,
        about=_about,
    ),
    OperatorForm(
        path=f"/hooks/{NUMBER}/remove",
        title="Remove the hook",
        verb="Remove the hook",
        preview=_preview_removing,
        run=_remove,
        back=_back,
        about=_about,
        then="/hooks",
        is_dangerous=True,
    ),
)

ROUTES = (
    web.get(url("/hooks"), _list),
    web.get(url(f"/hooks/{NUMBER}"), _show),
    web.get(url(f"/hooks/{NUMBER}/test"), _show),  # where a reload of the answer leads
    web.post(url(f"/hooks/{NUMBER}/test"), _test),
)
