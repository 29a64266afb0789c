"""Reading what BTCPay wrote: exact numbers, bounded texts, and one exception for everything else.

The rule it keeps: whatever bytes arrive, the caller gets values the database can hold or ``Garbled`` with
the place, never another exception. Unknown fields are nobody's business.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeVar

from kosmo_billing_daemon.btcpay.errors import Garbled

_T = TypeVar("_T")

MAX_ID_LENGTH = 128
MAX_URL_LENGTH = 2048

# BTCPay computes with .NET decimals: below 7.93e28 and at most 28 decimals.
_NUMBER = re.compile(r"[+-]?[0-9]{1,64}(\.[0-9]{1,64})?([eE][+-]?[0-9]{1,4})?")
_LEAST_ADJUSTED, _MOST_ADJUSTED = -28, 28
_MAX_DIGITS = 64

LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""Beyond this a time is absurd: adding our own spans of time to it must never overflow."""


def decode(body: bytes) -> Any:
    """Decode JSON in UTF-8 with exact numbers; raises ``ValueError`` whatever is wrong with it."""
    try:
        return _decoder.decode(body.decode())
    except (ArithmeticError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__} while decoding") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)  # json.loads makes one per call


def mapping(value: Any, field: str) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, Mapping):
        raise Garbled(field, "an object is needed")
    return value


def items(value: Any, field: str) -> list[Any]:
    """Return a JSON array."""
    if not isinstance(value, list):
        raise Garbled(field, "an array is needed")
    return value


def is_text(value: Any, most: int = MAX_ID_LENGTH) -> bool:
    """Say whether this is a text the database and a log line can hold: no NUL, no lone surrogate."""
    return isinstance(value, str) and 1 <= len(value) <= most and value.isprintable()


def text(document: Mapping[str, Any], name: str, *, most: int = MAX_ID_LENGTH) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not is_text(value, most):
        raise Garbled(name, f"a printable text of 1 to {most} characters is needed")
    return value


def optional_text(document: Mapping[str, Any], name: str, *, most: int = MAX_ID_LENGTH) -> str | None:
    """Return the text, or nothing where there is none that we could keep."""
    value = document.get(name)
    return value if isinstance(value, str) and is_text(value, most) else None


def one_of(document: Mapping[str, Any], name: str, known: Mapping[str, _T]) -> _T:
    """Return what stands for one of the texts that BTCPay may say."""
    value = document.get(name)
    if not isinstance(value, str) or value not in known:
        raise Garbled(name, f"{short(repr(value))} is none of {', '.join(known)}")
    return known[value]


def short(words: object) -> str:
    said = "".join(c if c.isprintable() else "?" for c in str(words)[:80])
    return said if is_text(said, 80) else "?"


def flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if not isinstance(value, bool):
        raise Garbled(name, "true or false is needed")
    return value


def texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return an array of texts; those we could not keep are left out."""
    return tuple(value for value in items(document.get(name), name) if is_text(value))


def number(document: Mapping[str, Any], name: str) -> Decimal:
    """Return an exact amount from a string or a number; its scale means nothing."""
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise Garbled(name, "a number is needed")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise Garbled(name, "a number is needed")
    try:
        amount = Decimal(value)
    except InvalidOperation:  # an exponent beyond what Decimal can hold
        raise Garbled(name, "an absurd number") from None
    if not amount.is_finite():
        raise Garbled(name, "a number is needed")
    if not amount:
        return Decimal(0)
    if (
        not _LEAST_ADJUSTED <= amount.adjusted() <= _MOST_ADJUSTED
        or len(amount.as_tuple().digits) > _MAX_DIGITS
    ):
        raise Garbled(name, "an absurd number")
    return amount


def optional_number(document: Mapping[str, Any], name: str) -> Decimal | None:
    return None if document.get(name) is None else number(document, name)


def whole(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if isinstance(value, Decimal) and number(document, name) == value.to_integral_value():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Garbled(name, "a whole number is needed")
    return value


def time(document: Mapping[str, Any], name: str) -> datetime:
    """Return a time given in unix seconds."""
    seconds = whole(document, name)
    if not 0 <= seconds <= LATEST.timestamp():
        raise Garbled(name, "an absurd time")
    return datetime.fromtimestamp(seconds, UTC)


def optional_time(document: Mapping[str, Any], name: str) -> datetime | None:
    return None if document.get(name) is None else time(document, name)
