"""How a route is described: what it takes, what it answers, and which problems it may answer with."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from kosmo_billing_daemon.runtime.records import record

JSON = "application/json"
API = "/api/v1/billing"

WRITING = {
    400: {
        "malformed_body": "The body is not a JSON object in UTF-8",
        "malformed_request": "The request broke off or cannot be read",
    },
    403: {"foreign_origin": "A page of an origin that is not listed in CORS_ORIGINS sent this"},
    408: {"body_too_slow": "The body did not arrive within 30 seconds"},
    413: {"body_too_large": "The body is larger than 64 KiB"},
    415: {
        "unsupported_encoding": "The body has a Content-Encoding",
        "unsupported_media_type": "The body is a form, or a browser sent it as something else than JSON",
    },
}
AWAY = {
    "database_unavailable": "The database does not answer",
    "database_conflict": "Too many changes at the same time",
    "locked": "Another program holds this user's rows in the database",
    "keys_unavailable": "With AUTH_MODE=jwt: the issuer's keys cannot be fetched",
}
BTCPAY = {
    f"btcpay_{why}": f"The payment server {what}"
    for why, what in {
        "away": "does not answer",
        "denied": "does not accept our key",
        "garbled": "gives no sense",
        "refused": "refuses to create invoices",
        "creation_unknown": "did not say whether it created the invoice; the same request finds out",
    }.items()
}
OVERLOADED = {"overloaded": "Too much is waiting to be written"}

Codes = Mapping[int, Mapping[str, str]]
"""Problems by status: each code, and what it means."""


@record(kw_only=True)
class Parameter:
    """A parameter in ``place``: path, query or header."""

    name: str
    place: str
    description: str
    schema: Mapping[str, Any]
    example: Any = None


@record(kw_only=True)
class Answer:
    """A body that is no problem; ``kind`` is its class, or several, or nothing."""

    description: str
    kind: Any = None
    example: Any = None
    media_type: str = JSON
    headers: tuple[str, ...] = ()


@record(kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str = ""
    identity: bool = True
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_example: Any = None
    answers: Mapping[int, Answer] = field(default_factory=dict)
    codes: Codes = field(default_factory=dict)


def codes(*sets: Codes, away: Mapping[str, str] | None = None) -> Codes:
    merged: dict[int, dict[str, str]] = {}
    for problems in (*sets, {503: away or {}}, {500: {"internal_error": "A bug; the log tells"}}):
        for status, known in problems.items():
            if known:
                merged.setdefault(status, {}).update(known)
    return merged


ANYWHERE = {
    400: {"malformed_request": "The request cannot be read"},
    404: {"not_found": "There is nothing at this address"},
    405: {"method_not_allowed": "This address does not take that method; Allow names those it takes"},
    417: {"expectation_failed": "The header Expect names something else than 100-continue"},
}
"""Problems of requests that reach no operation."""

UNKNOWN = {
    401: {"unauthenticated": "Authentication required: missing or invalid credentials"},
    421: {"unknown_host": "With AUTH_MODE=header: the name in Host is not listed in ALLOWED_HOSTS"},
}
WRONG_PARAMETER = {422: {"invalid": "A parameter is wrong; errors says which, and what would be right"}}
WRONG_FIELD = {422: {"invalid": "A field is wrong or unknown; errors says which, and what would be right"}}
WRONG_NODE = {422: {"invalid_node_id": "It is not ! and eight hex digits"}}

NONE_MATCH = Parameter(
    name="If-None-Match",
    place="header",
    description="The ETag of the answer one has: 304 while that is still the state",
    schema={"type": "string"},
)
UNCHANGED = Answer(description="Nothing changed since the answer with that ETag", headers=("ETag",))
NODE_ID = Parameter(
    name="node_id",
    place="path",
    description="Meshtastic id, any case",
    schema={"type": "string", "pattern": "^![0-9a-fA-F]{8}$"},
    example="!a1b2c3d4",
)


def query(name: str, description: str, schema: Mapping[str, Any], example: Any = None) -> Parameter:
    return Parameter(name=name, place="query", description=description, schema=schema, example=example)


DAY = {"type": "string", "format": "date"}
