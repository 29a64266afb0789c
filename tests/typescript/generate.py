"""TypeScript types of what the API answers and of what crosses MQTT, from the two documents.

Run it after a change of either: python -m tests.typescript.generate
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kosmo_billing_daemon.contract.document import asyncapi
from kosmo_billing_daemon.settings import AuthMode
from kosmo_billing_daemon.web import openapi
from kosmo_billing_daemon.web.app import OPERATIONS

TARGET = Path(__file__).parents[2] / "config" / "examples" / "typescript"
WIDTH = 108

_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}

Schema = Mapping[str, Any]


def api() -> str:
    """The types of the API, and every code a problem may have."""
    document = openapi.document(OPERATIONS, AuthMode.HEADER)
    problem = document["components"]["schemas"]["Problem"]["properties"]
    union = "".join(f'\n  | "{code}"' for code in problem.pop("code")["enum"])
    problem["code"] = {"$ref": "#/ProblemCode"}
    return (
        "// Types of the billing API, made from its openapi.json. Times are RFC 3339 texts, ids UUIDs.\n\n"
        + _types(document["components"]["schemas"])
        + f"\n/** Every `code` that a Problem may have. */\nexport type ProblemCode ={union};\n"
    )


def mqtt() -> str:
    """The types of the MQTT payloads, and their topics."""
    document = json.loads(asyncapi())
    topics = "".join(f'  {name}: "{channel["address"]}",\n' for name, channel in document["channels"].items())
    return (
        "// Types of the MQTT payloads, made from asyncapi.json. Unknown fields are to be ignored.\n\n"
        + _types(document["components"]["schemas"])
        + "\n/** Where they are published, with the default prefix. */\n"
        + f"export const topics = {{\n{topics}}} as const;\n"
    )


def _types(schemas: Mapping[str, Schema]) -> str:
    return "\n".join(_declaration(name, schema) for name, schema in schemas.items())


def _declaration(name: str, schema: Schema) -> str:
    told = _comment(schema, "")
    if "properties" in schema and "allOf" not in schema:
        return f"{told}export interface {name} {_fields(schema, '')}\n"
    return f"{told}export type {name} = {_type(schema, '')};\n"


def _comment(schema: Schema, indent: str) -> str:
    text = schema.get("description", "").replace("*/", "* /")
    if not text:
        return ""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(indent) + 3 + len(lines[-1]) + 1 + len(word) > WIDTH - 4:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return f"{indent}/**\n" + "".join(f"{indent} * {line}\n" for line in lines) + f"{indent} */\n"


def _fields(schema: Schema, indent: str) -> str:
    inner = indent + "  "
    required = schema.get("required", ())
    fields = ""
    for name, field in schema["properties"].items():
        optional = "" if name in required else "?"
        fields += f"{_comment(field, inner)}{inner}{_key(name)}{optional}: {_type(field, inner)};\n"
    return f"{{\n{fields}{indent}}}"


def _key(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _type(schema: Schema, indent: str) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for several, joint in (("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")):
        if several in schema:
            return joint.join(_within(each, indent) for each in schema[several])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": each}, indent) for each in kind)
    if kind == "array":
        return f"readonly {_within(schema.get('items', {}), indent)}[]"
    if kind == "object" or "properties" in schema:
        return _object(schema, indent)
    return _PLAIN.get(str(kind), "unknown")


def _object(schema: Schema, indent: str) -> str:
    if "properties" in schema:
        return _fields(schema, indent)
    more = schema.get("additionalProperties")
    return f"Record<string, {_type(more, indent) if isinstance(more, dict) else 'unknown'}>"


def _within(schema: Schema, indent: str) -> str:
    """A type as part of another one: a union needs parentheses there."""
    text = _type(schema, indent)
    return f"({text})" if " | " in text and not text.startswith("{") else text


FILES = {"api.ts": api, "mqtt.ts": mqtt}


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    for file, make in FILES.items():
        (TARGET / file).write_text(make(), encoding="utf-8")
