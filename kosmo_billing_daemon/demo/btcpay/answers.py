"""How the Greenfield API says yes and no.

The rule it keeps: a refusal is raised as ``GreenfieldRefused`` with the exact status and body of BTCPay
Server, and only the middleware turns it into a response.
"""

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from aiohttp import web

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class GreenfieldRefused(Exception):
    """The request is answered with this status and JSON body (None: no body)."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def validation_refusal(problems: Iterable[tuple[str, str]]) -> GreenfieldRefused:
    """Return the 422 of failed validation: the path and the message of each problem."""
    return GreenfieldRefused(
        HTTPStatus.UNPROCESSABLE_ENTITY, [{"path": path, "message": message} for path, message in problems]
    )


def invalid(path: str, message: str) -> GreenfieldRefused:
    """Return the 422 of one value that is wrong."""
    return validation_refusal([(path, message)])


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
