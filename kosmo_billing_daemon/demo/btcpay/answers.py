"""How the Greenfield API says no, and how its bodies are read and written.

The rule it keeps: a refusal is raised as ``GreenfieldRefused`` with the exact status and body of BTCPay
Server, and only the middleware turns it into a response.
"""

import json
from http import HTTPStatus
from typing import Any

from aiohttp import web

from kosmo_billing_daemon.runtime.records import record

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@record
class GreenfieldProblem:
    """One entry of a validation answer."""

    path: str
    message: str


class GreenfieldRefused(Exception):
    """The request is answered with this status and JSON body (None: no body)."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def validation_refusal(*problems: GreenfieldProblem) -> GreenfieldRefused:
    """Return the 422 of failed validation."""
    return GreenfieldRefused(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        [{"path": problem.path, "message": problem.message} for problem in problems],
    )


def business_refusal(code: str, message: str, status: int = HTTPStatus.BAD_REQUEST) -> GreenfieldRefused:
    """Return the answer to a valid request that cannot be served."""
    return GreenfieldRefused(status, {"code": code, "message": message})


def unauthenticated() -> GreenfieldRefused:
    return business_refusal(
        "unauthenticated",
        "Authentication is required for accessing this endpoint",
        HTTPStatus.UNAUTHORIZED,
    )


def missing_permission(permission: str) -> GreenfieldRefused:
    return GreenfieldRefused(
        HTTPStatus.FORBIDDEN,
        {
            "missingPermission": permission,
            "code": "missing-permission",
            "message": (
                f'Insufficient API Permissions. Please use an API key with permission "{permission}". '
                "You can create an API key in your account's settings / Api Keys."
            ),
        },
    )


def json_response(body: Any, status: int = HTTPStatus.OK) -> web.Response:
    # A lone surrogate in metadata is replaced, as .NET does, not a reason to fail.
    return web.Response(
        body=_encode(body).encode(errors="replace"),
        status=status,
        headers={"Content-Type": "application/json; charset=utf-8"},
    )


async def read_json_object(request: web.Request, *, any_type: bool = False) -> tuple[dict[str, Any], str]:
    """Return the request body as an object and as text (for reading numbers exactly).

    ``any_type`` reads JSON whatever the header says, as `curl -d` sends it.
    """
    media_type = request.content_type
    if not (any_type or media_type in ("application/json", "text/json") or media_type.endswith("+json")):
        raise GreenfieldRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, None)
    try:
        text = (await request.read()).decode()
        body = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        message = str(error) if _text_given(error) else "A non-empty request body is required."
        raise validation_refusal(GreenfieldProblem("", message)) from error
    if not isinstance(body, dict):
        raise validation_refusal(GreenfieldProblem("", "A JSON object is required."))
    return body, text


def _text_given(error: Exception) -> bool:
    """Tell whether a decoding error is about text, not about an empty body."""
    return not (isinstance(error, json.JSONDecodeError) and not error.doc.strip())
