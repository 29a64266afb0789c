"""The OpenAPI 3.1 document, made from ``documents`` and the descriptions beside this file.

``openapi.json`` is what it makes: a part of the package, so that it can be read, compared and generated
from without a daemon; a test makes it again and compares.
After a change: ``python -m kosmo_billing_daemon.web.reference.openapi``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.settings import AuthMode
from kosmo_billing_daemon.web.documents import Problem
from kosmo_billing_daemon.web.reference.beside import BESIDE
from kosmo_billing_daemon.web.reference.buying import BUYING
from kosmo_billing_daemon.web.reference.rights import RIGHTS
from kosmo_billing_daemon.web.reference.shapes import ANYWHERE, JSON, Answer, Operation, Parameter
from kosmo_billing_daemon.web.rendering import encode

FILE = "openapi.json"
OPERATIONS = (*BUYING, *RIGHTS, *BESIDE)

_ABOUT = """Sell plans for the KosmoConnect gateway, and see what each user may do.

**From nothing to a plan:** read `GET /plans`; `POST /invoices` with one of them and send the customer to
`checkout_url`; meanwhile listen to `GET /subscription/events`, which tells within a second that the payment
settled. `GET /subscription` says the same once, and `GET /usage` what was sent since.

**Who asks.** By the operator's choice: a bearer token whose claim `sub` is the user's UUID, or
`X-User-ID` set by a proxy that the daemon trusts. Whoever is not known gets the same 401.

**Errors** are `application/problem+json` (RFC 9457) with a stable `code`; `Problem` lists them all. 4xx:
the request is wrong as it stands. 429 and 503 carry `Retry-After`: the same request may be repeated then.
Every answer carries `X-Request-ID`, yours if you sent one.

**Reading again** is cheap: send the `ETag` back as `If-None-Match` (browsers do) and get 304."""

_HEADERS = {
    "ETag": ("Names this state", {"type": "string"}),
    "Location": ("Where the invoice is", {"type": "string"}),
    "Retry-After": ("Seconds to wait", {"type": "integer", "minimum": 1}),
    "WWW-Authenticate": ("What names a user here", {"type": "string"}),
}


@cache
def served(mode: AuthMode) -> bytes:
    """Return the document as it is served: with the one way of naming users that there is here."""
    told = json.loads(resources.files(__package__).joinpath(FILE).read_bytes())
    scheme = "bearer" if mode is AuthMode.JWT else "proxy"
    for methods in told["paths"].values():
        for operation in methods.values():
            operation["security"] = [known for known in operation["security"] if scheme in known]
    schemes = told["components"]["securitySchemes"]
    told["components"]["securitySchemes"] = {scheme: schemes[scheme]}
    return json.dumps(told, ensure_ascii=False).encode()


def document() -> dict[str, Any]:
    """Make the document."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KosmoConnect billing",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "Where this document came from"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "With AUTH_MODE=jwt; X-User-ID is ignored then",
                },
                "proxy": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-User-ID",
                    "description": "With AUTH_MODE=header: the user's UUID, from a trusted proxy only",
                },
            },
        },
    }


class _Schemas:
    """Schemas of all classes in use; each gets its place among the components."""

    def __init__(self) -> None:
        kinds = {Problem} | {kind for operation in OPERATIONS for kind in _kinds(operation)}
        ordered = sorted(kinds, key=str)
        inputs = [(kind, "validation", TypeAdapter(kind)) for kind in ordered]
        references, definitions = TypeAdapter.json_schemas(
            inputs,  # type: ignore[arg-type]  # its own examples give tuples of any kinds
            ref_template="#/components/schemas/{model}",
        )
        self._references = {kind: reference for (kind, _), reference in references.items()}
        self._definitions = definitions.get("$defs", {})

    def of(self, kind: Any) -> dict[str, Any]:
        if isinstance(kind, tuple):
            return {"anyOf": [self.of(each) for each in kind]}
        if kind is str:
            return {"type": "string"}
        if kind is dict:
            return {"type": "object"}
        reference: dict[str, Any] = _plain(self._references[kind])
        return reference

    def components(self) -> dict[str, Any]:
        named = {name: _plain(schema) for name, schema in sorted(self._definitions.items())}
        named[Problem.__name__]["properties"]["code"]["enum"] = problem_codes()
        return named


def problem_codes() -> list[str]:
    """Return every code that a problem may have."""
    of_operations = (operation.codes for operation in OPERATIONS)
    return sorted(
        {code for codes in (ANYWHERE, *of_operations) for known in codes.values() for code in known}
    )


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
        plain["description"] = re.sub(
            r"\s*\n\s*\n\s*|\s*\n\s*", " ", plain["description"].replace("``", "`")
        ).replace("`None`", "null")
    return plain


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    described["security"] = [{"bearer": []}, {"proxy": []}] if operation.identity else []
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        schema = schemas.of(operation.body)
        content = {"schema": schema, "example": _example(operation.body_example)}
        # A body whose fields may all be missing may be missing itself.
        needed = operation.body is dict or "required" in schemas.components()[operation.body.__name__]
        described["requestBody"] = {"required": needed, "content": {JSON: content}}
    answers = {status: _answer(answer, schemas) for status, answer in operation.answers.items()}
    for status, codes in operation.codes.items():
        problem = _problem(status, codes)
        if status not in answers:
            answers[status] = problem
        else:
            answers[status]["content"] |= problem["content"]
            answers[status]["description"] += f". Or:\n\n{problem['description']}"
    described["responses"] = {str(status): answers[status] for status in sorted(answers)}
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.place == "path",
        "schema": dict(parameter.schema),
    }
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = _headers(answer.headers)
    if answer.kind is not None:
        content: dict[str, Any] = {"schema": schemas.of(answer.kind)}
        if answer.example is not None:
            content["example"] = _example(answer.example)
        described["content"] = {answer.media_type: content}
    return described


def _problem(status: int, codes: Mapping[str, str]) -> dict[str, Any]:
    told = "\n".join(f"- `{code}`: {meaning}" for code, meaning in codes.items())
    described: dict[str, Any] = {"description": f"{HTTPStatus(status).phrase}\n\n{told}"}
    if status in (429, 503):
        described["headers"] = _headers(("Retry-After",))
    if status == HTTPStatus.UNAUTHORIZED:
        described["headers"] = _headers(("WWW-Authenticate",))
    examples = {
        code: {
            "summary": meaning,
            "value": {
                "type": "about:blank",
                "title": HTTPStatus(status).phrase,
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


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: {"description": told, "schema": schema}
        for name, (told, schema) in ((name, _HEADERS[name]) for name in names)
    }


def _example(example: Any) -> Any:
    if isinstance(example, str) or not (is_dataclass(example) or isinstance(example, tuple)):
        return example
    return json.loads(encode(example))


def text() -> str:
    """Return the document as the file holds it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_text(text(), encoding="utf-8")
