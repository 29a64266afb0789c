"""Where values come from: an environment file, the process environment, the credentials directory.

Each becomes one ``Layer`` of named texts. An empty text means unset, except
where it means off. A name that begins as ours do but is not known is a problem, because a slip that is
ignored in silence is found only in production.

docker's ``--env-file``, editors and shells keep quotes and blanks that systemd takes off. A password may
begin with a quote, so these are warnings, not problems. A warning names the setting, never the value.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from kosmo_billing_daemon.settings import readers
from kosmo_billing_daemon.settings.admin_listen import admin_address
from kosmo_billing_daemon.settings.readers import SYMMETRIC
from kosmo_billing_daemon.settings.tree import KNOWN, SECRETS, VARIABLES, Jwt

PREFIXES = ("BTCPAY_", "MQTT_", "WEBHOOK_", "DATABASE_", "JWT_")
_CREDENTIAL_PREFIX = "kosmo_"  # systemd names the files of LoadCredential=kosmo:DIRECTORY so
_FILES = frozenset(variable.name for variable in VARIABLES if variable.read is readers.file)
_OFF_IF_EMPTY = frozenset(variable.name for variable in VARIABLES if variable.read is admin_address)
_AS_GIVEN = frozenset(variable.name for variable in VARIABLES if variable.read is readers.secret)
_QUOTES = {"'": "'", '"': '"', "`": "`", "\u2018": "\u2019", "\u201c": "\u201d", "\u201e": "\u201c"}
_LONGEST = 64 * 1024  # no value of ours is longer; a mistaken path to something huge is not read


@dataclass(frozen=True, slots=True)
class Layer:
    """The values of one source and what is wrong with the source itself."""

    origin: str  # ends a sentence; empty for the process environment
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    problems: tuple[str, ...] = ()
    doubts: Mapping[str, str] = field(default_factory=dict)  # by setting, what was taken off its value


class LayerSource(PydanticBaseSettingsSource):
    """Hands one layer to pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002  given
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._layer.values)


def from_environ(environ: Mapping[str, str]) -> Layer:
    """Take what is ours from the process environment."""
    return _layer("", environ)


def from_env_file(path: Path) -> Layer:
    """Read ``NAME=VALUE`` lines with the quoting of systemd's ``EnvironmentFile=``.

    Not python-dotenv, because that replaces ``$`` in passwords and takes other comments, so one file would
    mean two things.
    """
    try:
        text = path.read_bytes()[: _LONGEST * 16].decode()
    except OSError as error:
        return Layer("", problems=(f"ENV_FILE: {path} cannot be read ({_why(error)})",))
    except UnicodeDecodeError:
        return Layer("", problems=(f"ENV_FILE: {path} is not UTF-8 text",))
    values: dict[str, str] = {}
    problems: list[str] = []
    # Not splitlines(), which also splits at characters that may be part of a password.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        name, equals, raw = line.partition("=")
        name = name.strip()
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            problems.append(f"ENV_FILE: line {number} of {path} is not NAME=VALUE")
            continue
        value = _unquote(raw)
        if value is None:
            problems.append(f"{name}: a quote is not closed (line {number} of {path})")
        else:
            values[name] = value
    layer = _layer(f" ({path})", values, own=True)
    return Layer(layer.origin, layer.values, (*problems, *layer.problems))


def _unquote(raw: str) -> str | None:
    """Read a value as systemd does; ``None`` if a quote is not closed."""
    result: list[str] = []
    kept = 0  # length up to which trailing blanks belong to the value
    quote = ""
    plain = False  # within unquoted text, where quotes stand for themselves
    characters = iter(raw)
    for character in characters:
        if quote:
            if character == quote:
                quote = ""
            elif character == "\\" and quote == '"':
                following = next(characters, "")
                result.append(following if following in '"\\`$' else "\\" + following)
            else:
                result.append(character)
            kept = len(result)
        elif not plain and character in " \t":
            continue
        elif not plain and character in "'\"":
            quote = character
        else:
            plain = True
            result.append(next(characters, "") if character == "\\" else character)
            kept = kept if character in " \t" else len(result)
    return None if quote else "".join(result[:kept])


def from_credentials(directory: Path) -> Layer:
    """Read one value per file; of a variable that names a file the path itself is the value."""
    values: dict[str, str] = {}
    doubts: dict[str, str] = {}
    problems: list[str] = []
    try:
        entries = sorted(entry for entry in directory.iterdir() if entry.is_file() and entry.name[0] != ".")
    except OSError as error:
        return Layer("", problems=(f"CREDENTIALS_DIRECTORY: {directory} cannot be read ({_why(error)})",))
    for entry in entries:
        own = entry.name.lower().startswith(_CREDENTIAL_PREFIX)
        name = entry.name[len(_CREDENTIAL_PREFIX) :].upper() if own else entry.name.upper()
        if name not in KNOWN:
            problems += _slip(name, own=own, shown=entry.name, origin=f" ({directory})")
            continue
        try:
            raw = str(entry) if name in _FILES else _content(entry)
        except OSError as error:
            problems.append(f"{name}: the credential {entry} cannot be read ({_why(error)})")
            continue
        except UnicodeDecodeError:
            problems.append(f"{name}: the credential {entry} is not UTF-8 text")
            continue
        value = raw.rstrip("\r\n")
        if value != raw.removesuffix("\n"):  # one line end is how a text file ends
            doubts[name] = f"{name}: more line ends than one after it are ignored; remove them ({entry})"
        if values.setdefault(name, value) != value and name not in _FILES:
            problems.append(f"{name}: two credentials of this name differ in {directory}; remove one")
    layer = _layer(f" (credential in {directory})", values)
    return Layer(layer.origin, layer.values, (*problems, *layer.problems), doubts)


def _content(entry: Path) -> str:
    with entry.open("rb") as opened:
        return opened.read(_LONGEST).decode()


def _layer(origin: str, values: Mapping[str, str], *, own: bool = False) -> Layer:
    taken: dict[str, str] = {}
    problems: list[str] = []
    for name, value in values.items():
        if name not in KNOWN:
            problems += _slip(name, own=own, shown=name, origin=origin)
        elif "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            problems.append(f"{name}: characters that are not UTF-8 text are in it{origin}")
        elif value.strip() or name in _OFF_IF_EMPTY:
            taken[name] = value
    return Layer(origin, taken, tuple(problems))


def _slip(name: str, *, own: bool, shown: str, origin: str) -> list[str]:
    """Name an unknown variable if it looks like ours; in a place of ``own`` a likeness is enough."""
    upper = name.upper()
    ours = upper.startswith(PREFIXES)
    begun = [one for one in KNOWN if ours and (one.startswith(upper) or upper.startswith(one))]
    nearest = sorted(begun, key=lambda one: abs(len(one) - len(upper)))[:1] or difflib.get_close_matches(
        upper, KNOWN, n=1, cutoff=0.6 if ours else 0.85
    )
    if not ours and not (own and nearest):
        return []
    advice = f"did you mean {nearest[0]}?" if nearest else "remove it, or see the list of settings"
    return [f"{shown} is not known{origin}; {advice}"]


def _why(error: OSError) -> str:
    return (error.strerror or "unknown").lower()


def warnings(layers: Sequence[Layer], jwt: Jwt | None) -> tuple[str, ...]:
    """Say what looks pasted wrongly in the values that count; ``layers`` that come first win."""
    found: list[str] = []
    seen: set[str] = set()
    for layer in layers:
        for name, text in layer.values.items():
            if name not in seen:
                found += [f"{name}: {doubt}{layer.origin}" for doubt in _doubts(name, text)]
        found += [warning for name, warning in layer.doubts.items() if name not in seen]
        seen |= layer.values.keys()
    if jwt is not None and jwt.key_file is not None and SYMMETRIC & set(jwt.algorithms):
        # The file holds a shared secret, whose line end is taken off.
        text = jwt.key_file.read_bytes().decode("latin-1").rstrip("\r\n")
        found += [f"JWT_KEY_FILE: {doubt} ({jwt.key_file})" for doubt in _doubts("MQTT_PASSWORD", text)]
    return tuple(found)


def _doubts(name: str, text: str) -> Iterator[str]:
    is_secret = name in SECRETS
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
