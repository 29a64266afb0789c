"""Answers as JSON. The rule it keeps: an amount is a JSON number with exactly the digits it has."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from json.encoder import encode_basestring
from typing import Any
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.contract.encoding import rfc3339


def json_response(document: Any, *, status: int = 200) -> web.Response:
    """Answer with one of ``documents``, or with what is made of mappings, sequences, texts and numbers."""
    return json_bytes(encode(document).encode(), status=status)


def json_bytes(
    body: bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    """Answer with a document that is encoded already."""
    return web.Response(body=body, status=status, headers=headers, content_type=content_type)


def encode(document: Any) -> str:
    """Write JSON. Unlike ``json.dumps`` it takes dataclasses, times, ids and ``Decimal``, and no ``float``.

    A field of a dataclass that has a default and holds it, and it is empty, is left out.
    """
    match document:
        case Decimal():
            return _number(document)
        case str():
            return encode_basestring(document)
        case bool() | int() | None:
            return json.dumps(document)
        case datetime():
            return f'"{rfc3339(document)}"'
        case UUID() | date():
            return f'"{document}"'
        case _ if is_dataclass(document):
            values = (
                (name, getattr(document, name), left_out) for name, left_out in _fields(document.__class__)
            )
            return _object((name, value) for name, value, left_out in values if value or not left_out)
        case Mapping():
            return _object(document.items())
        case Sequence():
            return "[" + ",".join(map(encode, document)) + "]"
        case _:
            raise TypeError(f"{type(document).__name__} has no place in an answer")


def _object(items: Iterable[tuple[str, Any]]) -> str:
    return "{" + ",".join(f"{encode_basestring(name)}:{encode(value)}" for name, value in items) + "}"


@cache
def _fields(kind: Any) -> tuple[tuple[str, bool], ...]:
    return tuple((field.name, field.default is not MISSING) for field in fields(kind))


def _number(amount: Decimal) -> str:
    """Write 5.00 as 5.0: always a point, so that readers with two number types see one."""
    whole, _, fraction = f"{amount:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0') or '0'}"
