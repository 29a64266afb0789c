"""Templates to answers: everything that is put into a page is escaped, and carries what each page needs."""

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlencode

from aiohttp import web

from kosmo_billing_daemon.admin.explaining import units
from kosmo_billing_daemon.console.desk import OPERATOR, operator_of
from kosmo_billing_daemon.contract.encoding import rfc3339
from kosmo_billing_daemon.contract.paths import ADMIN
from kosmo_billing_daemon.domain.currencies import smallest_unit
from kosmo_billing_daemon.domain.hooks import without_query

if TYPE_CHECKING:
    from jinja2 import Environment

COOKIE: Final = "kosmo_console"
CSRF: Final = "csrf"
NOTHING: Final = "\N{EN DASH}"
FLASH: Final = "kosmo_flash"

NAVIGATION: Final = (
    ("/", "Overview"),
    ("/users", "Users"),
    ("/attention", "Attention"),
    ("/ledger", "Ledger"),
    ("/refunds", "Refunds"),
    ("/hooks", "Hooks"),
    ("/gates", "Gates"),
    ("/feed", "Live feed"),
)
"""Path below ``/admin`` and name, in the order of the menu; a new page of the menu is one line here."""

_STATIC: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "feed.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_WIDE: Final = Context(prec=120)  # more digits than any amount has
_FLASH_SECONDS: Final = 60
_LONGEST_FLASH: Final = 300  # characters; a cookie has room for 4096 bytes


def url(path: str) -> str:
    """Return the address of a page, given as below ``/admin``."""
    return f"{ADMIN}{path}"


def with_query(path: str, query: Mapping[str, str]) -> str:
    """Return the address of a page with what of a query is not empty."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


def money(amount: Decimal | None, currency: str = "") -> str:
    """Write an amount with the digits its currency has, and more only if it has more."""
    if amount is None:
        return NOTHING
    unit = smallest_unit(currency)
    even = amount.quantize(unit, context=_WIDE)
    exact = even if amount == even else amount.normalize(_WIDE)
    return f"{exact:,f}{f' {currency}' if currency else ''}"


def about(amount: Decimal | None, currency: str = "") -> str:
    """Write an amount rounded to what can be paid, for headings and lists; the ledger has it exactly."""
    unit = smallest_unit(currency)
    if amount is None or not 0 < abs(amount) < unit:
        return money(None if amount is None else amount.quantize(unit, context=_WIDE), currency)
    return f"under {money(unit, currency)}"


def count(number: int | None) -> str:
    """Write a whole number with thin groups; nothing at all is unlimited."""
    return "unlimited" if number is None else f"{number:,}"


def sentence(said: str) -> str:
    """Write what an error says as a whole sentence."""
    return f"{said[:1].upper()}{said[1:]}{'' if said.endswith('.') else '.'}"


def counted(number: int, noun: str, more: str = "") -> str:
    """Write how many there are of what, such as "1 message"; ``more`` stands between the two."""
    return f"{count(number)}{more} {noun if number == 1 and not more else f'{noun}s'}"


def when(at: datetime | None) -> str:
    """Write a time for people, to the minute, in UTC."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def clock(at: datetime) -> str:
    """Write a time of these days for people, to the second, in UTC."""
    return f"{at.astimezone(UTC):%m-%d %H:%M:%S}"


def span(length: timedelta | float | None) -> str:
    """Write a duration in its greatest unit and the next smaller one."""
    if length is None:
        return NOTHING
    seconds = int(length.total_seconds() if isinstance(length, timedelta) else length)
    sign, parts = ("-" if seconds < 0 else ""), units(abs(seconds))
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    shown = [f"{number} {unit}" for number, unit in parts[first : first + 2] if number]
    return sign + (" ".join(shown) or "0 s")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - most daemons show no page

    environment = Environment(
        loader=PackageLoader("kosmo_billing_daemon.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "money": money,
        "about": about,
        "count": count,
        "when": when,
        "span": span,
        "clock": clock,
        "rfc3339": rfc3339,
        "without_query": without_query,
    }
    environment.globals |= {"url": url, "asset": asset, "navigation": NAVIGATION}
    return environment


@cache
def static_file(name: str) -> tuple[bytes, str] | None:
    """Return the content and type of a file that pages refer to."""
    if name not in _STATIC:
        return None
    return resources.files(__package__).joinpath("static", name).read_bytes(), _STATIC[name]


@cache
def asset(name: str) -> str:
    """Return the address of such a file, another one for each content, so that it may be kept."""
    found = static_file(name)
    assert found is not None, name  # noqa: S101 - templates name only what is there
    return url(f"/static/{name}?{hashlib.sha256(found[0]).hexdigest()[:12]}")


def render(
    request: web.Request, template: str, *, status: int = HTTPStatus.OK, **values: Any
) -> web.Response:
    """Answer with a page. Templates also see ``operator``, ``csrf``, ``path`` and the ``flash`` message."""
    operator = request.get(OPERATOR)
    flash = _read_flash(request)
    html = (
        _environment()
        .get_template(template)
        .render(
            operator=operator,
            csrf="" if operator is None else operator.sign(CSRF),
            path=request.path.removeprefix(ADMIN) or "/",
            query=request.query.get("q", "") if request.path == url("/search") else "",
            flash=flash,
            **values,
        )
    )
    response = web.Response(text=html, status=status, content_type="text/html", charset="utf-8")
    if FLASH in request.cookies:
        response.del_cookie(FLASH, path=ADMIN)
    return response


def fragment(template: str, **values: Any) -> str:
    """Return a part of a page, escaped as pages are."""
    return _environment().get_template(template).render(**values)


def redirect(request: web.Request, path: str, *, done: str = "") -> web.Response:
    """Answer a form that was carried out: go to a page below ``/admin``, which says once what was done."""
    response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": url(path)})
    if done:
        said = quote(done[:_LONGEST_FLASH], safe="")
        signed = f"{said}.{operator_of(request).sign(said)}"
        set_cookie(request, response, FLASH, signed, max_age=_FLASH_SECONDS)
    return response


async def send_file(
    request: web.Request, name: str, content_type: str, parts: AsyncGenerator[str]
) -> web.StreamResponse:
    """Answer with a file, part by part, so that none of it is kept."""
    async with contextlib.aclosing(parts):
        first = await anext(parts)  # what is refused is refused before the answer begins
        response = web.StreamResponse(headers={"Content-Disposition": f'attachment; filename="{name}"'})
        response.content_type, response.charset = content_type, "utf-8"
        await response.prepare(request)
        await response.write(first.encode())
        async for part in parts:
            await response.write(part.encode())
        await response.write_eof()
    return response


def set_cookie(
    request: web.Request, response: web.Response, name: str, value: str, *, max_age: int | None = None
) -> None:
    """Set a cookie that no script and no other site can use; over https, only over https."""
    response.set_cookie(
        name,
        value,
        max_age=max_age,
        path=ADMIN,
        httponly=True,
        samesite="Strict",
        secure=request.headers.get("X-Forwarded-Proto", "").lower() == "https",
    )


def _read_flash(request: web.Request) -> str:
    operator, cookie = request.get(OPERATOR), request.cookies.get(FLASH)
    if operator is None or cookie is None:
        return ""
    said, _, signature = cookie.rpartition(".")
    return unquote(said) if operator.signed(said, signature) else ""
