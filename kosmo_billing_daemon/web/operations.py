"""How a route is declared: its handler, and beside it what the OpenAPI document says about it.

The rule it keeps: what ``app`` serves and what ``openapi`` describes is one list, so neither can have a route
that the other lacks.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any

from aiohttp import web

from kosmo_billing_daemon.runtime.records import record

JSON = "application/json"

Problems = Mapping[int, Mapping[str, str]]
"""Problems by status: each code, and what it means."""


@record(kw_only=True)
class Parameter:
    """A parameter in ``place``: path, query or header."""

    name: str
    place: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    example: Any = None


@record
class Answer:
    """A body that is no problem; ``kind`` is its class, or several, or nothing."""

    description: str
    kind: Any = None
    example: Any = None
    media_type: str = JSON
    headers: tuple[str, ...] = ()


@record(kw_only=True)
class Operation:
    """One method of one path. ``has_etag``: it answers through ``conditional``."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    name: str
    tag: str
    summary: str
    description: str = ""
    needs_user: bool = True
    has_etag: bool = False
    allow_head: bool = True
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    needs_body: bool = False
    body_example: Any = None
    answers: Mapping[int, Answer]
    problems: tuple[Problems, ...] = ()

    def route(self) -> web.RouteDef:
        # aiohttp's own pattern for a parameter takes no braces, which would be answered otherwise.
        path = re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", self.path)
        if self.method == "get":
            return web.get(path, self.handler, allow_head=self.allow_head)
        return web.route(self.method.upper(), path, self.handler)

    def all_problems(self) -> Problems:
        """Return those of the operation and those that many have."""
        merged: dict[int, dict[str, str]] = {}
        for problems in (*((UNKNOWN, AWAY) if self.needs_user else ()), *self.problems, BUG):
            for status, known in problems.items():
                merged.setdefault(status, {}).update(known)
        return merged


BUG = {500: {"internal_error": "A bug; the daemon's log has the details"}}
UNKNOWN = {
    401: {"unauthenticated": "Authentication required: missing or invalid credentials"},
    410: {"user_erased": "The operator erased this user's data less than 30 days ago"},
    421: {"unknown_host": "With AUTH_MODE=header: the name in Host is not listed in ALLOWED_HOSTS"},
}
AWAY = {
    503: {
        "database_unavailable": "The database does not answer",
        "database_conflict": "Too many changes at the same time",
        "locked": "Another program holds this user's rows in the database",
        "keys_unavailable": "With AUTH_MODE=jwt: the issuer's keys cannot be fetched",
    }
}
OVERLOADED = {503: {"overloaded": "Too much is waiting to be written"}}
FOREIGN = {403: {"foreign_origin": "A page of an origin that is not listed in CORS_ORIGINS sent this"}}
WRITING = {
    **FOREIGN,
    400: {
        "malformed_body": "The body is not a JSON object in UTF-8",
        "malformed_request": "The request broke off or cannot be read",
    },
    408: {"body_too_slow": "The body did not arrive within 30 seconds"},
    413: {"body_too_large": "The body is larger than 64 KiB"},
    415: {
        "unsupported_encoding": "The body has a Content-Encoding",
        "unsupported_media_type": "The body is a form, or a browser sent it as something else than JSON",
    },
    422: {"invalid": "A field is wrong or unknown; errors says which, and what would be right"},
}
WRONG_PARAMETER = {422: {"invalid": "A parameter is wrong; errors says which, and what would be right"}}
ANYWHERE = {
    400: {"malformed_request": "The request cannot be read"},
    404: {"not_found": "There is nothing at this address"},
    405: {"method_not_allowed": "This address does not take that method; Allow names those it takes"},
    417: {"expectation_failed": "The header Expect names something else than 100-continue"},
}
"""Problems of requests that reach no operation."""
