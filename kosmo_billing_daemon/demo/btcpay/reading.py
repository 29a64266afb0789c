"""Reading what a client sent, as strictly as BTCPay Server does.

The rule it keeps: everything that is wrong is named in one answer, with the path and the words of the real
server.
"""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldRefused, invalid, validation_refusal


class RequestReader:
    """Typed access to body and query; collects a problem for each value that is wrong."""

    def __init__(self) -> None:
        self._problems: dict[tuple[str, str], None] = {}

    def wrong(self, path: str, message: str) -> None:
        """Note a problem; one that is noted twice is answered once."""
        self._problems[path, message] = None

    def finish(self) -> None:
        """Refuse the request if anything is wrong with it."""
        if self._problems:
            raise validation_refusal(self._problems)

    def section(self, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        value = body.get(name)
        if value is not None and not isinstance(value, dict):
            self.wrong(name, f"The value of {name} must be a JSON object.")
            return {}
        return value or {}

    def text(self, values: Mapping[str, Any], name: str, path: str) -> str | None:
        value = values.get(name)
        if isinstance(value, dict | list):
            self.wrong(path, f"Unexpected JSON type for {path}.")
            return None
        return None if value is None else str(value)

    def texts(self, values: Mapping[str, Any], name: str, path: str) -> tuple[str | None, ...]:
        value = values.get(name)
        if value is not None and not isinstance(value, list):
            self.wrong(path, f"The value of {path} must be a JSON array.")
            return ()
        return tuple(item if isinstance(item, str) else None for item in value or ())

    def flag(
        self, values: Mapping[str, Any], name: str, path: str, *, default: bool | None = None
    ) -> bool | None:
        """Return a boolean; only where ``default`` is None may null stand for one."""
        value = values.get(name, default)
        if isinstance(value, bool) or value is default:
            return value
        self.wrong(path, f"Could not convert the value of {path} to a boolean.")
        return default

    def query_number(self, query: Mapping[str, str], name: str) -> int | None:
        value = query.get(name)
        try:
            return int(value) if value else None
        except ValueError:
            self.wrong(name, f"The value '{value}' is not valid.")
            return None

    def query_flag(self, query: Mapping[str, str], name: str, *, default: bool = False) -> bool:
        value = query.get(name, "").lower()
        if value not in ("", "true", "false"):
            self.wrong(name, f"The value '{value}' is not valid.")
        return value == "true" if value else default


def finite_decimal(value: object) -> Decimal | None:
    """Return the number that was written, as a number or as a text; None if it is no finite one."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


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
        raise invalid("", message) from error
    if not isinstance(body, dict):
        raise invalid("", "A JSON object is required.")
    return body, text


def _text_given(error: Exception) -> bool:
    """Tell whether a decoding error is about text, not about an empty body."""
    return not (isinstance(error, json.JSONDecodeError) and not error.doc.strip())
