"""Every answer given while the tests run, compared with what the API's document says of it."""

import json
from functools import cache
from typing import Any

import jsonschema_rs
from aiohttp import web

from kosmo_billing_daemon.contract.paths import RENEWAL
from kosmo_billing_daemon.settings import AuthMode
from kosmo_billing_daemon.web.app import OPERATIONS
from kosmo_billing_daemon.web.openapi import document

UNDESCRIBED = {"OPTIONS"}


DESCRIBED: dict[str, Any] = json.loads(json.dumps(document(OPERATIONS, AuthMode.HEADER)))


@cache
def _validator(reference: str) -> jsonschema_rs.Validator:
    """A validator for a schema given as text; references are found among the document's components."""
    schema = {**json.loads(reference), "components": DESCRIBED["components"]}
    return jsonschema_rs.validator_for(schema, validate_formats=True)


class Record:
    """Notes what the document does not tell; 404 and 405 beside all routes have none to be told by.

    Nor have the style and the script of ``/docs``, and pages for people, which are no operations.
    """

    def __init__(self) -> None:
        self.undocumented: list[str] = []

    async def note(self, request: web.Request, response: web.StreamResponse) -> None:
        resource = request.match_info.route.resource
        if request.match_info.http_exception is not None or resource is None or "/docs/" in request.path:
            return
        if request.path.startswith(f"{RENEWAL}/"):
            return
        method = {"HEAD": "GET"}.get(request.method, request.method).lower()
        path = resource.canonical
        told = DESCRIBED["paths"].get(path, {}).get(method)
        if told is None:
            self.undocumented.append(f"{method} {path}")
            return
        answer = told["responses"].get(str(response.status))
        if answer is None:
            self.undocumented.append(f"{method} {path} answers {response.status}: {_body(response)!r}")
            return
        self.undocumented += [
            f"{method} {path} {response.status}: {wrong}" for wrong in _wrong(answer, response)
        ]


def _wrong(answer: dict[str, Any], response: web.StreamResponse) -> list[str]:
    body = _body(response)
    content = answer.get("content")
    missing = [name for name in answer.get("headers", {}) if name not in response.headers]
    if missing and response.status != 503:  # readiness says 503 without being a problem
        return [f"header {name} is missing" for name in missing]
    if content is None:
        return [f"no body is told of, but there is {body!r}"] if body else []
    if response.content_type not in content:
        return [f"{response.content_type} is not told of"]
    if response.content_type not in ("application/json", "application/problem+json") or body is None:
        return []
    told, document = content[response.content_type], json.loads(body)
    wrong = [str(error) for error in _validator(json.dumps(told["schema"])).iter_errors(document)]
    if "examples" in told and document["code"] not in told["examples"]:
        wrong.append(f"code {document['code']} is not told of")
    return wrong


def _body(response: web.StreamResponse) -> bytes | None:
    body = response.body if isinstance(response, web.Response) else None
    return body if isinstance(body, bytes) and body else None
