"""Bodies and queries as they come in: bounded in size and time, and exact about what is wrong.

The rule it keeps: a body that is not understood to the last field is refused, since it may ask for money.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from http import HTTPStatus
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, Self, TypeVar, cast

from aiohttp import web

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.problems import FieldProblem, HttpRefused, InvalidFields

P = ParamSpec("P")
T = TypeVar("T")

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 30.0
"""A body that is not complete by then never will be."""


async def read_body(request: web.Request, *, most: int = MAX_BODY_BYTES) -> bytes:
    """Return the raw body; refuses what is larger than ``most`` bytes, encoded, or too slow."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HttpRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_encoding",
            "send the body as it is, without Content-Encoding",
        )
    if (request.content_length or 0) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        if request.content.is_eof():  # it came with the head, as most do: nothing is waited for
            body += request.content.read_nowait()
        else:
            async with asyncio.timeout(request.app[keys.BODY_SECONDS]):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise _too_large(most)
    except TimeoutError:
        raise HttpRefused(
            HTTPStatus.REQUEST_TIMEOUT, "body_too_slow", "the body did not arrive in time"
        ) from None
    except ConnectionError:  # the client will not read the answer
        raise HttpRefused(HTTPStatus.BAD_REQUEST, "malformed_request", "the body broke off") from None
    if len(body) > most:
        raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> HttpRefused:
    return HttpRefused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", f"a body of at most {most} bytes is taken"
    )


async def read_object(request: web.Request, kind: type[Any]) -> Mapping[str, Any]:
    """Return the JSON object in the body, with no fields but those of ``kind``; an empty body has none.

    JSON is read whatever type the request names, since ``curl -d`` calls it a form; a real form is refused.
    """
    if request.content_type.startswith("multipart/"):
        raise HttpRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "a JSON object is needed, not a form"
        )
    document = _decoded(await read_body(request))
    known = [field.name for field in fields(kind)]
    unknown = [name for name in document if name not in known]
    if unknown:
        told = f"there is no such field; known are {', '.join(known)}"
        raise InvalidFields([FieldProblem(_shown(name), told) for name in unknown[:10]])
    return document


def _decoded(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        document = _decoder.decode(body.decode())
    except (ValueError, RecursionError):
        raise _not_json("the body is not JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise _not_json("the body is not a JSON object")
    return document


def _not_json(message: str) -> HttpRefused:
    return HttpRefused(HTTPStatus.BAD_REQUEST, "malformed_body", message)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise InvalidFields([FieldProblem(_shown(_repeated(pairs)), "it is there twice")])
    return document


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    names = [name for name, _ in pairs]
    return next(name for name in names if names.count(name) > 1)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:64])


def text(document: Mapping[str, Any], name: str, *, most: int) -> str:
    """Return a text of 1 to ``most`` characters that must be there."""
    value = optional_text(document, name)
    if value is None or not 1 <= len(value) <= most:
        raise Invalid(f"a text of 1 to {most} characters is needed", field=name)
    return value


def optional_text(document: Mapping[str, Any], name: str) -> str | None:
    """Return a text, or nothing where it is absent or null."""
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid("a text is needed", field=name)
    return value


def parameter(request: web.Request, name: str) -> str | None:
    """Return a query parameter; given twice it is refused."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise Invalid("it is given twice", field=name)
    return values[0] if values else None


class WrongFields:
    """Reads several fields and, at the end of its block, refuses all wrong ones at once.

    What ``read`` returns for a wrong field must not be used within the block. One wrong field keeps the code
    of its own refusal.
    """

    def __init__(self) -> None:
        self._refusals: list[Invalid] = []

    def read(self, reader: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return reader(*args, **kwargs)
        except Invalid as error:
            self._refusals.append(error)
            return cast("T", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self._refusals:
            return
        if len(self._refusals) == 1:
            raise self._refusals[0]
        raise InvalidFields([FieldProblem(str(each.field), each.message) for each in self._refusals])
