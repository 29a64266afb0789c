"""Events as short plain texts, for ntfy, Gotify or a bot that writes to a mesh.

An operator writes a TOML document: one text per event type in ``[texts]``, with ``{fields}`` of the event,
and how the text is packed (``body``, ``content_type``, ``headers``). A mesh carries about 200 bytes, so a
text is shortened to ``most_bytes``, and never within the address at its end.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.records import record

TEST: Final = "hook.test"
"""The type of the event that ``hook test`` sends."""

_FIELD = re.compile(r"\{([a-z_]*)\}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_KEYS = {"texts", "body", "content_type", "headers", "most_bytes"}
_RESERVED = ("webhook-", "host", "content-", "connection", "transfer-", "user-agent")
_TEST_TEXT = "This is a test of kosmo-billing."


@record(kw_only=True)
class HookTexts:
    """``texts`` by event type; ``body`` holds ``{text}``, or is ``None`` for the text alone."""

    texts: Mapping[str, str]
    body: str | None
    content_type: str
    headers: Mapping[str, str]
    most_bytes: int

    def render(self, event_type: str, facts: Mapping[str, Any]) -> bytes | None:
        """Return the body for an event; ``None`` where there is no text for its type."""
        text = self.texts.get(event_type, _TEST_TEXT if event_type == TEST else None)
        if text is None:
            return None
        values = {name: _words(value) for name, value in facts.items()}
        values |= _derived(facts)
        filled = _FIELD.sub(lambda field: values.get(field[1], ""), text).rstrip()
        written = shortened(filled, self.most_bytes)
        if self.body is None:
            return written.encode()
        values["text"] = written
        is_json = "json" in self.content_type
        return _FIELD.sub(
            lambda field: _quoted(values.get(field[1], ""), is_json=is_json), self.body
        ).encode()


def _words(value: object) -> str:
    match value:
        case None:
            return ""
        case Mapping():
            return "; ".join(f"{name}: {_words(inner)}" for name, inner in value.items())
        case list():
            return ", ".join(map(_words, value))
        case _:
            return str(value)


def _quoted(value: str, *, is_json: bool) -> str:
    return json.dumps(value, ensure_ascii=False) if is_json else value


def _derived(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what texts want to say and no event does in so many words."""
    hours = facts.get("hours_left")
    derived = {"plan": str(facts.get("plan_type") or facts.get("pack") or "").capitalize()}
    if isinstance(hours, int):
        days = round(hours / 24)
        derived["days_left"] = str(days)
        derived["time_left"] = f"{days} days" if days > 1 else f"{hours} hour{'' if hours == 1 else 's'}"
    return derived


def shortened(text: str, most_bytes: int) -> str:
    """Cut a text to so many bytes of UTF-8; an address at its end stays whole, and what precedes is cut."""
    if len(text.encode()) <= most_bytes:
        return text
    head, _, last = text.rpartition(" ")
    tail = f" {last}" if last.startswith(("https://", "http://")) else ""
    room = most_bytes - len(tail.encode()) - len("…".encode())
    if room < 0:
        return text.encode()[:most_bytes].decode(errors="ignore")
    cut = (head if tail else text).encode()[:room].decode(errors="ignore")
    return f"{cut.rstrip()}…{tail}"


def parse_texts(document: str) -> HookTexts:
    """Read an operator's document; raises ``Invalid``, which says what is wrong with it."""
    try:
        read = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"the texts are not TOML: {error}") from None
    if unknown := sorted(read.keys() - _KEYS):
        raise Invalid(
            f"the texts have unknown keys: {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}"
        )
    texts, headers = read.get("texts"), read.get("headers", {})
    body, content_type = read.get("body"), read.get("content_type", "text/plain; charset=utf-8")
    most_bytes = read.get("most_bytes", 4000)
    if not isinstance(texts, dict) or not texts or not _are_texts(texts):
        raise Invalid('[texts] holds one text per event type, such as "subscription.expiring" = "…"')
    if body is not None and not (isinstance(body, str) and "{text}" in body):
        raise Invalid("body is a text that contains {text}")
    if not isinstance(content_type, str) or not content_type.isascii() or not content_type.isprintable():
        raise Invalid("content_type is the value of that header")
    if type(most_bytes) is not int or not 20 <= most_bytes <= 60_000:
        raise Invalid("most_bytes is a number from 20 to 60000")
    if not isinstance(headers, dict) or not _are_texts(headers):
        raise Invalid("[headers] holds texts")
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or name.lower().startswith(_RESERVED):
            raise Invalid(f"[headers]: {name} cannot be set")
    return HookTexts(
        texts=texts, body=body, content_type=content_type, headers=headers, most_bytes=most_bytes
    )


def _are_texts(table: Mapping[str, Any]) -> bool:
    return all(isinstance(value, str) for value in table.values())
