"""Text as operators write it -> values, each with a sentence saying what would have been right.

A sentence quotes what was given only through ``shown``, which keeps back whatever may be a secret in
the wrong place: something long, or a URL with a password.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

E = TypeVar("E", bound=StrEnum)

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")  # needs no quotes in psql; 63 bytes is PostgreSQL's limit
_LONGEST_SHOWN = 24  # shorter than any key BTCPay or a password generator makes


def shown(text: str) -> str:
    """Quote what was given if that can do no harm."""
    harmless = len(text) <= _LONGEST_SHOWN and text.isprintable() and not set("@'") & set(text)
    return f"'{text}'" if harmless else "the value"


def whole_number(low: int, high: int, wanted: str) -> Callable[[str], int]:
    """Make a reader of whole numbers; ``wanted`` ends its sentences."""

    def read(text: str) -> int:
        text = text.strip()
        # Not int() alone: it takes "1_000", "+5" and digits of other scripts.
        if not re.fullmatch(r"-?[0-9]{1,12}", text):
            raise ValueError(f"{shown(text)} is not a whole number; give {wanted}")
        if not low <= int(text) <= high:
            raise ValueError(f"{shown(text)} is out of range; give {wanted}")
        return int(text)

    return read


def choice(kind: type[E]) -> Callable[[str], E]:
    """Make a reader of one word of ``kind``, whatever its case."""

    def read(text: str) -> E:
        try:
            return kind(text.strip().lower())
        except ValueError:
            known = " or ".join(kind) if len(kind) < 3 else f"one of {', '.join(kind)}"
            raise ValueError(f"{shown(text)} is not known; give {known}") from None

    return read


def switch(text: str) -> bool:
    """Read yes or no."""
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"{shown(text)} is neither true nor false; give true or false")


def one_line(text: str) -> str:
    """Read a line of text."""
    text = text.strip()
    if not text.isprintable():
        raise ValueError("a line break or control character is in it; give one line of text")
    return text


def secret(text: str) -> SecretStr:
    """Read a password as it is; only the line end of a file was taken off before."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("a line break or control character is in it; give the password alone, on one line")
    return SecretStr(text)


def unread(text: str) -> SecretStr:
    """Keep what is read later, together with other variables."""
    return SecretStr(text.strip())


def token(text: str) -> SecretStr:
    """Read a key that is sent in a header."""
    text = text.strip()
    if not re.fullmatch(r"[\x21-\x7e]{1,512}", text):
        raise ValueError("a blank or a character no key has is in it; paste the key alone")
    return SecretStr(text)


def webhook_secrets(text: str) -> tuple[SecretStr, ...]:
    """Read one secret, or the new and the old one."""
    given = list(dict.fromkeys(words(text)))
    if len(given) > 2:
        raise ValueError(
            f"{len(given)} secrets given; give one, or the new and the old one with a comma between"
        )
    return tuple(SecretStr(word) for word in given)


def store_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", text.strip()):
        raise ValueError(f"{shown(text)} is no store id; copy it from the settings of the store in BTCPay")
    return text.strip()


def identifier(text: str) -> str:
    """Read the name of a schema that needs no quotes."""
    name = text.strip()
    if not _SCHEMA.fullmatch(name) or name.startswith("pg_") or name == "information_schema":
        raise ValueError(
            f"{shown(name)} cannot be our schema; give lower-case letters, digits and _, at most 63, not pg_…"
        )
    return name


def topic_prefix(text: str) -> str:
    """Read the first levels of every topic of ours."""
    prefix = text.strip()
    if not prefix.isprintable() or set("+#") & set(prefix) or len(prefix.encode()) > 200:
        raise ValueError("wildcards (+ #), control characters or more than 200 bytes cannot begin our topics")
    if "" in prefix.split("/") or prefix.startswith("$"):
        raise ValueError(
            f"{shown(prefix)} has an empty level, a / at an end or a leading $; write it as a/b/c"
        )
    return prefix


def client_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,64}", text.strip()):
        raise ValueError(f"{shown(text)} is no client id; give letters, digits and . _ : @ -, at most 64")
    return text.strip()


def file(text: str) -> Path:
    """Read the path of a file we may read."""
    path = Path(text.strip())
    try:
        # Asked first, because opening a pipe waits for its other end.
        plain = path.is_file() or not path.exists()
        if plain:
            with path.open("rb") as opened:
                opened.read(1)
    except OSError as error:
        why = (error.strerror or "unknown").lower()
        raise ValueError(f"the file cannot be read ({why}); give the path of a file we may read") from None
    if not plain:
        raise ValueError("that is no plain file; give the path of a file we may read")
    return path


SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA"}
)


def algorithms(text: str) -> tuple[str, ...]:
    """Read the signatures that are accepted, none of which may stand for another."""
    by_name = {name.lower(): name for name in SYMMETRIC | ASYMMETRIC}
    names: list[str] = []
    for word in words(text):
        if word.lower() == "none":
            raise ValueError("none accepts tokens nobody signed; name the algorithm your issuer signs with")
        if word.lower() not in by_name:
            raise ValueError(f"{shown(word)} is not known; known are {', '.join(sorted(by_name.values()))}")
        names.append(by_name[word.lower()])
    if SYMMETRIC & set(names) and ASYMMETRIC & set(names):
        raise ValueError("HS… beside others would let a public key pass as a shared secret; keep to one kind")
    return tuple(dict.fromkeys(names))


def words(text: str) -> list[str]:
    """Split a list at commas and blanks."""
    found = [word for word in re.split(r"[,\s]+", text) if word]
    if not found:
        raise ValueError("nothing stands between the commas; give at least one, or leave it unset")
    return found
