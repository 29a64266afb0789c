"""The schemas of the contract's document, as validators of real payloads."""

import json
import re
from datetime import datetime
from functools import cache
from typing import Any

from jsonschema import Draft7Validator, FormatChecker

from kosmo_billing_daemon.contract.document import asyncapi
from kosmo_billing_daemon.contract.topics import Topics

DOCUMENT: dict[str, Any] = json.loads(asyncapi())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
_FORMATS = FormatChecker(formats=["uuid"])
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@_FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return True  # the type is another rule's
    return _RFC3339.fullmatch(value) is not None and datetime.fromisoformat(value).tzinfo is not None


@cache
def _validator(schema: str) -> Draft7Validator:
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return Draft7Validator(whole, format_checker=_FORMATS)


def errors(schema: str, instance: Any) -> list[str]:
    """What a schema of the document finds wrong."""
    return [f"{error.json_path}: {error.message}" for error in _validator(schema).iter_errors(instance)]


def schema_of(topic: str, payload: Any, topics: Topics | None = None) -> str:
    """The schema of a message by its topic, as a reader of the document would find it."""
    known = json.loads(asyncapi(topics))
    for channel in known["channels"].values():
        pattern = re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(channel["address"]))
        if re.fullmatch(pattern, topic):
            names = list(channel["messages"])
            fitting = [name for name in names if payload.get("type") in _types(name)] or names
            return str(fitting[0])
    raise AssertionError(f"no channel for {topic}")


def _types(message: str) -> list[str]:
    described = SCHEMAS[message]["properties"].get("type", {})
    found: list[str] = described.get("enum", [])
    return found
