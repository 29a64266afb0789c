"""The OpenAPI 3.1 document of a list of operations, with the schemas of the classes that they name.

pydantic only derives the schemas: answers need no validation, and bodies that ask for money get errors in
words of our own, which its validation has not.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.settings import AuthMode
from kosmo_billing_daemon.web.operations import ANYWHERE, JSON, Answer, Operation, Parameter
from kosmo_billing_daemon.web.problems import Problem
from kosmo_billing_daemon.web.rendering import encode

_ABOUT = """Sell plans for the KosmoConnect gateway, and see what each user may do.

**From nothing to a plan:** read `GET /plans`; `POST /invoices` with one of them and send the customer to
`checkout_url`; meanwhile listen to `GET /subscription/events`, which tells within a second that the payment
settled. `GET /subscription` says the same once, and `GET /usage` what was sent since.

**Authentication.** By the operator's choice: a bearer token whose claim `sub` is the user's UUID, or
`X-User-ID` set by a proxy that the daemon trusts. Every request without either gets the same 401.

**Errors** are `application/problem+json` (RFC 9457) with a stable `code`; `Problem` lists them all. 4xx:
the request is wrong as it stands. 429 and 503 carry `Retry-After`: the same request may be repeated then.
Every answer carries `X-Request-ID`, yours if you sent one.

**Reading again** is cheap: send the `ETag` back as `If-None-Match` (browsers do) and get 304."""

_SCHEMES = {
    AuthMode.JWT: {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "With AUTH_MODE=jwt; X-User-ID is ignored then",
        }
    },
    AuthMode.HEADER: {
        "proxy": {
            "type": "apiKey",
            "in": "header",
            "name": "X-User-ID",
            "description": "With AUTH_MODE=header: the user's UUID, from a trusted proxy only",
        }
    },
}
_HEADERS = {
    "ETag": {"description": "Identifies this state", "schema": {"type": "string"}},
    "Location": {"description": "Where the invoice is", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "How requests name their user here", "schema": {"type": "string"}},
}
_HEADERS_OF_PROBLEMS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}

_IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    place="header",
    description="The ETag of an earlier answer: 304 while nothing has changed since",
)
_NOT_MODIFIED = Answer("Nothing changed since the answer with that ETag", headers=("ETag",))


def encoded(operations: Sequence[Operation], mode: AuthMode) -> bytes:
    """Return the document as it is served."""
    return json.dumps(document(operations, mode), ensure_ascii=False).encode()


def document(operations: Sequence[Operation], mode: AuthMode) -> dict[str, Any]:
    """Make the document, with the one way of naming users that there is in this ``mode``."""
    schemas = _Schemas(operations)
    schemes = _SCHEMES[mode]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _operation(operation, schemas)
        described["security"] = [{name: []} for name in schemes] if operation.needs_user else []
        paths.setdefault(operation.path, {})[operation.method] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KosmoConnect billing",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "Where this document came from"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": schemes},
    }


def problem_codes(operations: Sequence[Operation]) -> list[str]:
    """Return every code that a problem may have."""
    of_operations = (operation.all_problems() for operation in operations)
    return sorted(
        {code for problems in (ANYWHERE, *of_operations) for known in problems.values() for code in known}
    )


class _Schemas:
    """Schemas of all classes in use; each has its place among the ``components``."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        kinds = {Problem} | {kind for operation in operations for kind in _kinds(operation)}
        inputs = [(kind, "validation", TypeAdapter(kind)) for kind in sorted(kinds, key=str)]
        references, definitions = TypeAdapter.json_schemas(
            inputs,  # type: ignore[arg-type]  # its own examples give tuples of any kinds
            ref_template="#/components/schemas/{model}",
        )
        self._references = {kind: reference for (kind, _), reference in references.items()}
        self.components = {name: _plain(schema) for name, schema in sorted(definitions["$defs"].items())}
        self.components[Problem.__name__]["properties"]["code"]["enum"] = problem_codes(operations)

    def of(self, kind: Any) -> dict[str, Any]:
        if isinstance(kind, tuple):
            return {"anyOf": [self.of(each) for each in kind]}
        if kind in (str, dict):
            return {"type": "string" if kind is str else "object"}
        reference: dict[str, Any] = _plain(self._references[kind])
        return reference


def _kinds(operation: Operation) -> Iterator[Any]:
    for kind in (operation.body, *(answer.kind for answer in operation.answers.values())):
        for each in kind if isinstance(kind, tuple) else (kind,):
            if each not in (None, str, dict):
                yield each


def _plain(schema: Any, *, named: bool = False) -> Any:
    """Leave out what says nothing (titles made of names) and read docstrings as one paragraph each."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        name: _plain(value, named=name in ("properties", "$defs"))
        for name, value in schema.items()
        if named or name != "title"
    }
    if not named and isinstance(plain.get("description"), str):
        told = plain["description"].replace("``", "`").replace("`None`", "null")
        plain["description"] = re.sub(r"\s*\n\s*", " ", told)
    return plain


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    parameters = (*operation.parameters, *([_IF_NONE_MATCH] if operation.has_etag else []))
    if parameters:
        described["parameters"] = [_parameter(parameter) for parameter in parameters]
    if operation.body is not None:
        content = {"schema": schemas.of(operation.body), "example": _example(operation.body_example)}
        # A body whose fields may all be missing may be missing itself, but for one of several that is needed.
        needed = (
            operation.needs_body
            or operation.body is dict
            or "required" in schemas.components[operation.body.__name__]
        )
        described["requestBody"] = {"required": needed, "content": {JSON: content}}
    answers = {status: _answer(answer, schemas) for status, answer in operation.answers.items()}
    if operation.has_etag:
        answers[200]["headers"] = _headers("ETag")
        answers[304] = _answer(_NOT_MODIFIED, schemas)
    for status, codes in operation.all_problems().items():
        answers[status] = _problem(status, codes)
    described["responses"] = {str(status): answers[status] for status in sorted(answers)}
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.place == "path",
        "schema": dict(parameter.schema),
        **({} if parameter.example is None else {"example": parameter.example}),
    }


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = _headers(*answer.headers)
    if answer.kind is not None:
        content: dict[str, Any] = {"schema": schemas.of(answer.kind)}
        if answer.example is not None:
            content["example"] = _example(answer.example)
        described["content"] = {answer.media_type: content}
    return described


def _problem(status: int, codes: Mapping[str, str]) -> dict[str, Any]:
    phrase = HTTPStatus(status).phrase
    told = "\n".join(f"- `{code}`: {meaning}" for code, meaning in codes.items())
    described: dict[str, Any] = {"description": f"{phrase}\n\n{told}"}
    if status in _HEADERS_OF_PROBLEMS:
        described["headers"] = _headers(_HEADERS_OF_PROBLEMS[status])
    examples = {
        code: {
            "summary": meaning,
            "value": {
                "type": "about:blank",
                "title": phrase,
                "status": status,
                "detail": meaning,
                "code": code,
                "request_id": "5f0c7f2e1b7a4d0c9a6e3b2d1c0f9e8d",
            },
        }
        for code, meaning in codes.items()
    }
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    described["content"] = {"application/problem+json": {"schema": schema, "examples": examples}}
    return described


def _headers(*names: str) -> dict[str, Any]:
    return {name: _HEADERS[name] for name in names}


def _example(example: Any) -> Any:
    return json.loads(encode(example)) if is_dataclass(example) or isinstance(example, tuple) else example
