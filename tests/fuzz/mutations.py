"""Damage to payloads: what JSON can spell but we may not expect, and bytes that are no JSON at all."""

import copy
import json
from collections.abc import Callable, MutableMapping, MutableSequence
from random import Random
from typing import Any

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308,
    float("inf"), float("nan"), "", " ", "0", "5.00", "-5", "1e400", "1e-400", "NaN", "9" * 64, "9" * 5000,
    "\0", "\ud800", "\x1b[2J", "line\nbreak", "\u202e", "x" * 128, "x" * 129, "\N{GRINNING FACE}" * 64,
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1970-01-01T00:00:00Z", "2026-03-01",
    "ab111111-1111-1111-1111-111111111111", "AB111111111111111111111111111111", "'; DROP TABLE users; --",
    [], {}, [[]], [{}], {"": {}},
)  # fmt: skip
_TOKENS = (b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u0000", b"\\ud800", b"\0", b"\xff", b"\xed\xa0\x80",
           b"\xef\xbb\xbf", b"1e999", b"-0", b"NaN", b"null", b"9" * 64)  # fmt: skip
_LONGEST = 64 * 1024  # more finds nothing new and only costs time

Place = tuple[MutableMapping[str, Any] | MutableSequence[Any], Any]


def mutated(data: bytes, random: Random, *, times: int = 4) -> bytes:
    """Damage a payload one to ``times`` times; the same random numbers give the same damage."""
    for _ in range(random.randint(1, times)):
        data = random.choice(_WAYS)(data, random)
    return data[:_LONGEST]


def _changed(data: bytes, random: Random) -> bytes:
    """Change one place of the document: another value, or none, or one of its own from elsewhere."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return _torn(data, random)
    places = list(_places(root))
    holder, key = random.choice(places)
    match random.randrange(4):
        case 0 if holder is not root:
            del holder[key]
        case 1:
            source, name = random.choice(places)
            holder[key] = copy.deepcopy(source[name])
        case 2 if isinstance(holder[key], str):
            text = holder[key]
            at = random.randint(0, len(text))
            holder[key] = text[:at] + str(random.choice(_VALUES)) + text[at + random.randint(0, 2) :]
        case _:
            holder[key] = copy.deepcopy(random.choice(_VALUES))
    return _written(root[0], random)


def _doubled(data: bytes, random: Random) -> bytes:
    """Repeat a key of the outermost object with another value."""
    end = data.rfind(b"}")
    try:
        names = list(json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return _torn(data, random)
    if end < 0 or not names:
        return _torn(data, random)
    name, value = random.choice(names), random.choice(_VALUES)
    return data[:end] + f",{json.dumps(name)}:{json.dumps(value)}".encode() + data[end:]


def _nested(data: bytes, random: Random) -> bytes:
    """Wrap it deeply."""
    depth = random.choice((1, 2, 100, 5000))
    return b"[" * depth + data + b"]" * depth if random.random() < 0.5 else b'{"a":' * depth + data


def _recoded(data: bytes, random: Random) -> bytes:
    return data.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))


def _torn(data: bytes, random: Random) -> bytes:
    """Cut, repeat or replace a piece of the bytes."""
    start, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
    piece = random.choice((b"", random.choice(_TOKENS), random.randbytes(3), data[start:end] * 2))
    if random.random() < 0.5:
        end = min(len(data), start + 1)
    return data[:start] + piece + data[end:]


_WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _changed, _changed, _changed, _changed, _doubled, _torn, _torn, _recoded, _nested,
)  # fmt: skip


def _places(holder: Any) -> list[Place]:
    """Every place a value stands in."""
    found: list[Place] = []
    left = [holder]
    while left:
        one = left.pop()
        keys: list[Any] = list(one) if isinstance(one, dict) else list(range(len(one)))
        found += [(one, key) for key in keys]
        left += [one[key] for key in keys if isinstance(one[key], dict | list)]
    return found


def _written(document: Any, random: Random) -> bytes:
    """Write it; lone surrogates go as JSON's escapes or as the bytes UTF-8 forbids."""
    try:
        return json.dumps(document, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return b"[" * 100_000
