"""How every action looks: a form with a reason, a preview of what will happen, a confirmation.

A page's author gives fields, a preview and what to run; the rest is here, once. The rules it keeps: what is
confirmed is what was previewed, once. A refusal is shown in the form, in plain words, and nothing is lost of
what was typed. The action goes through ``admin``, in the name of the operator of this session.
"""

import hmac
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Literal

from aiohttp import web

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.console.desk import operator_of
from kosmo_billing_daemon.console.rendering import redirect, render, url
from kosmo_billing_daemon.errors import Invalid, Refused, Unavailable
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web.problems import status_of

Values = Mapping[str, str]
"""What was typed, by the names of the fields: without blanks around it, empty for an unticked box."""

_MOST_CONFIRMED: Final = 10_000


@record(kw_only=True)
class FormField:
    """One thing to fill in. ``options`` are value and label of a select."""

    name: str
    label: str
    kind: Literal["text", "textarea", "number", "select", "checkbox", "date", "hidden"] = "text"
    hint: str = ""
    value: str = ""
    longest: int = 2000
    options: Sequence[tuple[str, str]] = ()
    is_required: bool = True


Fields = Callable[[web.Request], Awaitable[Sequence[FormField]]]


async def nothing_else(_: web.Request) -> Sequence[FormField]:
    """Ask for a reason alone."""
    return ()


@record(kw_only=True)
class Preview:
    """What will happen: one sentence, what changes (name and new value), and what to think of first."""

    sentence: str
    effects: Sequence[tuple[str, str]] = ()
    warning: str = ""


@record(kw_only=True)
class OperatorForm:
    """One action.

    ``path`` is its address below ``/admin``, as aiohttp's routes are written; ``verb`` stands on the button
    that does it, such as "Grant the plan". ``fields`` says what is asked beside the reason. ``preview`` says
    what will happen and ``run`` does it, returning a sentence in the past tense, or a page of its own for
    what is shown once; both may raise ``Refused``. ``back`` is the page it belongs to, given as ``path`` is;
    ``then`` is the page to which it leads once it is done, if that is another one. ``about`` says above the
    form what it is about.
    """

    path: str
    title: str
    verb: str
    preview: Callable[[web.Request, Values], Awaitable[Preview]]
    run: Callable[[web.Request, Values, OperatorAction], Awaitable[str | web.Response]]
    back: Callable[[web.Request], str]
    fields: Fields = nothing_else
    about: Callable[[web.Request], Awaitable[str]] | None = None
    then: Callable[[web.Request], Awaitable[str]] | str | None = None
    intro: str = ""
    is_dangerous: bool = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get(url(self.path), self._show), web.post(url(self.path), self._take)]

    async def _show(self, request: web.Request) -> web.Response:
        fields = await self.fields(request)
        given = {field.name: request.query.get(field.name, field.value).strip() for field in fields}
        return await self._render(request, fields, given)

    async def _take(self, request: web.Request) -> web.Response:
        form = await request.post()
        fields = await self.fields(request)
        given = {field.name: _typed(form.get(field.name, ""), field.longest) for field in fields}
        reason = str(form.get("reason", "")).strip()
        if "change" in form:
            return await self._render(request, fields, given, reason)
        confirmation = str(form.get("confirm", ""))
        try:
            by = await acting(request)
            _require_filled(fields, given)
            if not self._is_confirmed(request, confirmation, given, reason):
                preview = await self.preview(request, given)
                return await self._render(request, fields, given, reason, preview=preview)
            if not _first_time(request, confirmation):
                return redirect(request, self.back(request), done="This was carried out once already.")
            done = await self.run(request, given, by)
        except Refused as error:
            status = status_of(error)
            name = error.field if isinstance(error, Invalid) else None
            return await self._render(
                request, fields, given, reason, error=error.message, status=status, wrong=name
            )
        except Unavailable as error:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            told = f"{error.message}. Nothing is known to have changed; look before you try again."
            return await self._render(request, fields, given, reason, error=told, status=status)
        if isinstance(done, web.Response):
            return done
        onward = self.then or self.back(request)
        return redirect(request, onward if isinstance(onward, str) else await onward(request), done=done)

    async def _render(
        self,
        request: web.Request,
        fields: Sequence[FormField],
        given: Values,
        reason: str = "",
        *,
        preview: Preview | None = None,
        error: str = "",
        wrong: str | None = None,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> web.Response:
        confirmation = (
            "" if preview is None else self._confirmation(request, os.urandom(16).hex(), given, reason)
        )
        return render(
            request,
            "form.html",
            status=status,
            form=self,
            fields=fields,
            given=given,
            reason=reason,
            preview=preview,
            confirmation=confirmation,
            error=error,
            wrong=wrong,
            back=self.back(request),
            about="" if self.about is None else await self.about(request),
        )

    def _confirmation(self, request: web.Request, nonce: str, given: Values, reason: str) -> str:
        """Return what confirms exactly this, in this session."""
        about = repr((request.path, sorted(given.items()), reason, nonce))
        return f"{nonce}.{operator_of(request).sign(about)}"

    def _is_confirmed(self, request: web.Request, given: str, values: Values, reason: str) -> bool:
        """Say whether it was previewed as it stands; what was changed since is previewed again."""
        nonce = given.partition(".")[0]
        expected = self._confirmation(request, nonce, values, reason)
        return bool(nonce) and hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))


async def acting(request: web.Request) -> OperatorAction:
    """Return who decides, and why, as the form says; raises ``Invalid`` without a reason."""
    reason = str((await request.post()).get("reason", "")).strip()
    return OperatorAction(operator_of(request).who, reason)


CONFIRMED: web.AppKey[OrderedDict[str, None]] = web.AppKey("confirmed", OrderedDict)


def _first_time(request: web.Request, confirmation: str) -> bool:
    """Say whether this confirmation is new: a double click, or a reload, does nothing again."""
    used = request.app[CONFIRMED]
    if confirmation in used:
        return False
    used[confirmation] = None
    if len(used) > _MOST_CONFIRMED:
        used.popitem(last=False)
    return True


def _typed(given: object, longest: int) -> str:
    """Return what was typed; browsers end lines with CR and LF, whatever they were given."""
    return str(given).replace("\r\n", "\n")[:longest].strip()


def _require_filled(fields: Sequence[FormField], given: Values) -> None:
    for field in fields:
        value = given[field.name]
        if field.is_required and not value and field.kind != "checkbox":
            raise Invalid(f"{field.label} is missing", field=field.name)
        if value and field.options and value not in {option for option, _ in field.options}:
            raise Invalid(f"{field.label}: choose one of the list", field=field.name)
