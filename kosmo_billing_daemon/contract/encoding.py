"""JSON in and out for the payloads: compact to write, exact about what is wrong to read."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, TypeVar
from uuid import UUID

from kosmo_billing_daemon.errors import Refused
from kosmo_billing_daemon.runtime.records import record

MAX_ID_LENGTH = 128

CANONICAL_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ANY_UUID = re.compile(CANONICAL_UUID.pattern, re.IGNORECASE | re.ASCII)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: JSON can spell them, PostgreSQL and UTF-8 cannot hold them."""


class Malformed(Refused):
    """A payload that is not what the contract says."""

    code = "malformed"


def _plain(value: object) -> str | None:
    """Write what JSON has no form of its own for: times and ids."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} in a payload")


# json.dumps makes one per call
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=_plain)


def dumps(document: Mapping[str, Any]) -> bytes:
    """Encode compactly; keys in the order given; raises ``Malformed`` for a text that is not Unicode."""
    return encoded(_encoder.encode(document))


def dumps_record(payload: Any) -> bytes:
    """Encode a record that has the fields of its document, in their order."""
    return dumps({field.name: getattr(payload, field.name) for field in fields(payload)})


def encoded(text: str) -> bytes:
    """Encode JSON; raises ``Malformed`` for a text that is not Unicode."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Malformed("a text holds half of a surrogate pair") from None


json_text = encode_basestring  # a text as JSON, without the detour by a dict


def json_texts(texts: Collection[str]) -> str:
    """Write texts as a list in JSON; a single one is written by ``json_text``."""
    return f"[{','.join(map(json_text, texts))}]" if texts else "[]"


def loads(payload: bytes) -> Mapping[str, Any]:
    """Decode one JSON object; raises ``Malformed``."""
    try:
        document = json.loads(payload.decode())  # of bytes it would accept UTF-16 and lone surrogates
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Malformed("a JSON object is needed")
    return document


def rfc3339(time: datetime | None) -> str | None:
    """Write an aware time in UTC with Z and microseconds only where there are some."""
    if time is None:
        return None
    # Half the time of ``isoformat``: every document has two or three times, and days repeat.
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    second = f"{_day(utc.toordinal())}T{_TWO[utc.hour]}:{_TWO[utc.minute]}:{_TWO[utc.second]}"
    return f"{second}.{utc.microsecond:06}Z" if utc.microsecond else f"{second}Z"


_TWO = tuple(f"{number:02}" for number in range(60))


@lru_cache(1000)
def _day(ordinal: int) -> str:
    return date.fromordinal(ordinal).isoformat()


_E = TypeVar("_E", bound=StrEnum)


@record
class Fields:
    """Typed access to the fields of one object; every miss is ``Malformed`` with its place."""

    document: Mapping[str, Any]
    place: str = ""

    def has(self, name: str) -> bool:
        return name in self.document

    def is_null(self, name: str) -> bool:
        """Only what is there can be null: a missing limit must not read as unlimited."""
        return self.has(name) and self.document[name] is None

    def text(self, name: str, *, most: int = MAX_ID_LENGTH) -> str:
        value = self.document.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= most or _UNSTORABLE.search(value):
            raise Malformed(f"{self.place}{name}: a text of 1 to {most} characters")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.document.get(name)
        if not isinstance(value, list) or not all(
            isinstance(item, str) and not _UNSTORABLE.search(item) for item in value
        ):
            raise Malformed(f"{self.place}{name}: a list of texts")
        return tuple(value)

    def whole(self, name: str, *, least: int = 0, most: int = 2**53 - 1) -> int:
        value = self.document.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Malformed(f"{self.place}{name}: a whole number from {least} to {most}")
        return value

    def whole_or_null(self, name: str) -> int | None:
        """Null must be written out: a limit that is merely missing must not read as unlimited."""
        return None if self.is_null(name) else self.whole(name)

    def uuid(self, name: str) -> UUID:
        value = self.document.get(name)
        try:
            return UUID(value)
        except (ValueError, TypeError, AttributeError):
            raise Malformed(f"{self.place}{name}: a UUID") from None

    def optional_uuid(self, name: str) -> UUID | None:
        return self.uuid(name) if self.has(name) and not self.is_null(name) else None

    def time(self, name: str) -> datetime:
        value = self.document.get(name)
        try:
            time = datetime.fromisoformat(value)  # type: ignore[arg-type]  # likewise
            if time.tzinfo is None:
                raise ValueError(name)
            return time.astimezone(UTC)
        except (ValueError, TypeError, OverflowError):
            raise Malformed(f"{self.place}{name}: an RFC 3339 time with offset") from None

    def optional_time(self, name: str) -> datetime | None:
        return None if self.is_null(name) else self.time(name)

    def one_of(self, name: str, kind: type[_E]) -> _E:
        value = self.document.get(name)
        try:
            return kind(value)  # type: ignore[arg-type]  # likewise
        except ValueError:
            raise Malformed(f"{self.place}{name}: one of {', '.join(kind)}") from None
