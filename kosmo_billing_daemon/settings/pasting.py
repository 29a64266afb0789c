"""Values that are read, but probably not as they were meant: quotes and blanks that came along.

docker's ``--env-file``, editors and shells keep what systemd takes off. A password may begin with a quote, so
these are warnings, not problems. The rule it keeps: a warning names the setting, never the value.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from kosmo_billing_daemon.settings.sources import Layer

_QUOTES = {"'": "'", '"': '"', "`": "`", "\u2018": "\u2019", "\u201c": "\u201d", "\u201e": "\u201c"}
_AS_GIVEN = ("DATABASE_PASSWORD", "MQTT_PASSWORD")  # the others are read without the blanks around them


def warnings(layers: Sequence[Layer], secrets: Collection[str]) -> tuple[str, ...]:
    """Say what looks pasted wrongly in the values that count; ``layers`` that come first win."""
    found: list[str] = []
    seen: set[str] = set()
    for layer in layers:
        for name, text in layer.values.items():
            if name not in seen:
                found += [f"{name}: {doubt}{layer.origin}" for doubt in _doubts(name, text, name in secrets)]
        found += [warning for name, warning in layer.doubts.items() if name not in seen]
        seen |= layer.values.keys()
    return tuple(found)


def of_key_file(path: Path) -> tuple[str, ...]:
    """Say what looks pasted wrongly in the file that holds a shared secret; its line end is taken off."""
    text = path.read_bytes().decode("latin-1").rstrip("\r\n")
    return tuple(f"JWT_KEY_FILE: {doubt} ({path})" for doubt in _doubts("MQTT_PASSWORD", text, True))


def _doubts(name: str, text: str, is_secret: bool) -> Iterator[str]:
    if any(_is_quoted(part) for part in _parts(name, text)):
        yield "the quotes around it count as part of it; remove them"
    elif is_secret and any(_begins_quoted(part) for part in _parts(name, text)):
        yield "a quote at one end of it counts as part of it; remove it if it is not meant"
    if not is_secret or text == text.strip():
        return
    if name in _AS_GIVEN:
        yield "a blank at its beginning or end counts as part of it; remove it if it is not meant"
    else:
        yield "a blank or line end around it is ignored; remove it"


def _parts(name: str, text: str) -> Iterator[str]:
    """Give the value and what stands for itself in it: each secret of several, the password of an address."""
    yield text.strip()
    if name == "WEBHOOK_SECRET":
        yield from re.split(r"[,\s]+", text.strip())
    if name.endswith("_URL"):
        yield from (unquote(password) for password in re.findall(r"://[^/@:]*:(.+)@", text))


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and _QUOTES.get(text[0]) == text[-1]


def _begins_quoted(text: str) -> bool:
    return bool(text) and (text[0] in _QUOTES or text[-1] in _QUOTES.values())
