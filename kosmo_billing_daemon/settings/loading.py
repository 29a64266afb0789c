"""From the sources to the tree: every problem is gathered before one error carries them all.

A value that cannot be read is set aside, so that what does not depend on it is still examined.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import pasting, sources
from kosmo_billing_daemon.settings.branches import build
from kosmo_billing_daemon.settings.tree import Settings
from kosmo_billing_daemon.settings.values import SYMMETRIC
from kosmo_billing_daemon.settings.variables import FILES, KNOWN, SECRETS, Variables, read


def load(
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    credentials_directory: Path | None = None,
) -> Settings:
    """Read every setting; raises ``Misconfigured`` with all that is wrong.

    Later sources win: defaults, the environment file (else ``ENV_FILE``), the environment, the files of the
    credentials directory (else ``CREDENTIALS_DIRECTORY``).
    """
    environ = os.environ if environ is None else environ
    layers = [sources.from_environ(environ, KNOWN)]
    env_file = env_file or _path(environ, "ENV_FILE")
    if env_file is not None:
        layers.append(sources.from_env_file(env_file, KNOWN))
    credentials_directory = credentials_directory or _path(environ, "CREDENTIALS_DIRECTORY")
    if credentials_directory is not None:
        layers.insert(0, sources.from_credentials(credentials_directory, KNOWN, FILES))
    problems = [problem for layer in reversed(layers) for problem in layer.problems]
    variables, given = _read(layers, problems)
    settings = build(variables, given, problems, environ)
    if problems or settings is None:
        raise Misconfigured(problems)
    warnings = pasting.warnings(layers, SECRETS)
    jwt = settings.http.jwt
    if jwt is not None and jwt.key_file is not None and SYMMETRIC & set(jwt.algorithms):
        warnings += pasting.of_key_file(jwt.key_file)
    return replace(settings, warnings=warnings)


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name].strip()) if environ.get(name, "").strip() else None


def _read(layers: list[sources.Layer], problems: list[str]) -> tuple[Variables, frozenset[str]]:
    """Return what could be read and the names of all that was given, readable or not."""
    given = frozenset(name for layer in layers for name in layer.values)
    try:
        return read(tuple(layers)), given
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        wrong = {str(item["loc"][0]).upper(): item["msg"] for item in found}
    hidden = set(_secrets(layers))
    for name, message in wrong.items():
        layer = next(layer for layer in layers if name in layer.values)
        sentence = message.removeprefix("Value error, ")
        if any(text in layer.values[name] for text in hidden):
            sentence = re.sub(r"'[^']*'", "the value", sentence)
        problems.append(f"{name}: {sentence}{layer.origin}")
    readable = tuple(
        sources.Layer(layer.origin, {name: text for name, text in layer.values.items() if name not in wrong})
        for layer in layers
    )
    return read(readable), given


def _secrets(layers: list[sources.Layer]) -> Iterator[str]:
    """Give every secret known, so that one pasted into the wrong variable too is not quoted."""
    for layer in layers:
        for name in SECRETS & set(layer.values):
            text = layer.values[name]
            yield text.strip()
            yield from re.findall(r"://[^/@:]*:(.+)@", text)
            if name == "WEBHOOK_SECRET":
                yield from (word for word in re.split(r"[,\s]+", text) if word)
