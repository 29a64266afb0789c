"""From the sources to the tree: what is needed together, what excludes what, and every problem at once.

A value that cannot be read is set aside, so that what does not depend on it is still examined; its variable
was given, so it is not missing.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationError, create_model
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime.host_names import is_loopback
from kosmo_billing_daemon.settings import postgres_url, sources, tree
from kosmo_billing_daemon.settings.readers import SYMMETRIC, BrokerUrl

_TLS_PORT = 8883


def load(
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    credentials_directory: Path | None = None,
) -> tree.Settings:
    """Read every setting; raises ``Misconfigured`` with all that is wrong.

    Later sources win: defaults, the environment file (else ``ENV_FILE``), the environment, the files of the
    credentials directory (else ``CREDENTIALS_DIRECTORY``).
    """
    environ = os.environ if environ is None else environ
    layers = [sources.from_environ(environ)]
    env_file = env_file or _path(environ, "ENV_FILE")
    if env_file is not None:
        layers.append(sources.from_env_file(env_file))
    credentials_directory = credentials_directory or _path(environ, "CREDENTIALS_DIRECTORY")
    if credentials_directory is not None:
        layers.insert(0, sources.from_credentials(credentials_directory))
    found = _read(layers)
    settings = _settings(found, layers, environ)
    if found.problems or settings is None:
        raise Misconfigured(found.problems)
    return settings


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name].strip()) if environ.get(name, "").strip() else None


@dataclass(frozen=True, slots=True)
class _Found:
    """The readable values by variable, the names of all that was given, and the problems so far."""

    values: Mapping[str, Any]
    given: frozenset[str]
    problems: list[str]

    def fields(self, branch: type) -> dict[str, Any]:
        """Return the fields of a branch that were given; the defaults of the tree hold for the others."""
        own = ((name, variable.name) for owner, name, variable in tree.walk(branch) if owner is branch)
        return {name: self.values[variable] for name, variable in own if variable in self.values}

    def missing(self, *names: str) -> list[str]:
        return [name for name in names if name not in self.given]

    def among(self, *names: str) -> list[str]:
        return [name for name in names if name in self.given]


def _read(layers: list[sources.Layer]) -> _Found:
    """Read each variable from the first layer that has it."""
    problems = [problem for layer in reversed(layers) for problem in layer.problems]
    given = frozenset(name for layer in layers for name in layer.values)
    try:
        return _Found(_values(layers), given, problems)
    except ValidationError as error:
        wrong = {str(found["loc"][0]): str(found["ctx"]["error"]) for found in error.errors()}
    hidden = set(_secrets(layers))
    for name, sentence in wrong.items():
        layer = next(layer for layer in layers if name in layer.values)
        is_secret = any(secret in layer.values[name] for secret in hidden)
        shown = re.sub(r"'[^']*'", "the value", sentence) if is_secret else sentence
        problems.append(f"{name}: {shown}{layer.origin}")
    readable = [
        replace(layer, values={name: text for name, text in layer.values.items() if name not in wrong})
        for layer in layers
    ]
    return _Found(_values(readable), given, problems)


def _values(layers: Sequence[sources.Layer]) -> Mapping[str, Any]:
    """Read what is given; raises pydantic's ``ValidationError`` with everything that cannot be read."""

    class Layered(BaseSettings):
        model_config = SettingsConfigDict(hide_input_in_errors=True)

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(sources.LayerSource(settings_cls, layer) for layer in layers)

    given = {name for layer in layers for name in layer.values}
    fields: dict[str, Any] = {
        variable.name: Annotated[Any, PlainValidator(variable.read)]
        for variable in tree.VARIABLES
        if variable.name in given
    }
    return dict(create_model("Variables", __base__=Layered, **fields)())


def _secrets(layers: list[sources.Layer]) -> Iterator[str]:
    """Give every secret known, so that one pasted into the wrong variable too is not quoted."""
    for layer in layers:
        for name in tree.SECRETS & set(layer.values):
            text = layer.values[name]
            yield text.strip()
            yield from re.findall(r"://[^/@:]*:(.+)@", text)
            if name == "WEBHOOK_SECRET":
                yield from (word for word in re.split(r"[,\s]+", text) if word)


def _settings(found: _Found, layers: list[sources.Layer], environ: Mapping[str, str]) -> tree.Settings | None:
    """Build the tree, or ``None`` if something it cannot do without is not there."""
    btcpay, database, mqtt, http = _btcpay(found), _database(found, environ), _mqtt(found), _http(found)
    webhook = _webhook(found, http.host, socket_activated=bool(environ.get("LISTEN_FDS")))
    if btcpay is None or database is None:
        return None
    return tree.Settings(
        **{"instance": socket.gethostname()}
        | found.fields(tree.Settings)
        | {
            "btcpay": btcpay,
            "webhook": webhook,
            "database": database,
            "mqtt": mqtt,
            "http": http,
            "retention": tree.Retention(**found.fields(tree.Retention)),
            "warnings": sources.warnings(layers, http.jwt),
        }
    )


def _btcpay(found: _Found) -> tree.Btcpay | None:
    if missing := found.missing("BTCPAY_URL", "BTCPAY_API_KEY", "BTCPAY_STORE_ID"):
        found.problems.append(f"BTCPay not configured: set {', '.join(missing)}")
    fields = found.fields(tree.Btcpay)
    return tree.Btcpay(**fields) if {"url", "api_key", "store_id"} <= fields.keys() else None


def _webhook(found: _Found, host: str, *, socket_activated: bool) -> tree.WebhookSettings:
    webhook = tree.WebhookSettings(**found.fields(tree.WebhookSettings))
    if webhook.trust is tree.WebhookTrust.BODY:
        why = "whoever reaches the port could then write paid invoices"
        if not is_loopback(host):
            found.problems.append(
                f"WEBHOOK_TRUST: body needs HOST on loopback (127.0.0.1), since {why}; "
                "change HOST, or set WEBHOOK_TRUST=btcpay"
            )
        if socket_activated:
            found.problems.append(
                f"WEBHOOK_TRUST: body is refused with a socket from systemd, which may be public: {why}; "
                "stop the socket unit, or set WEBHOOK_TRUST=btcpay"
            )
    return webhook


def _database(found: _Found, environ: Mapping[str, str]) -> tree.DatabaseSettings | None:
    if found.missing("DATABASE_URL"):
        found.problems.append(
            "Database not configured: set DATABASE_URL, such as postgresql://user@host/name "
            "or postgresql:///name?host=/run/postgresql"
        )
    fields = found.fields(tree.DatabaseSettings)
    if "url" not in fields:
        return None
    database = tree.DatabaseSettings(**fields)
    if database.password is not None:  # it stands before PGPASSWORD, as one in the URL does
        environ = {name: text for name, text in environ.items() if name != "PGPASSWORD"}
    try:
        address = postgres_url.read(database.url.get_secret_value(), environ)
    except postgres_url.BadUrl as error:
        found.problems.extend(error.problems)
        return None
    if database.password is not None and address.password is not None:
        found.problems.append(
            "DATABASE_PASSWORD: DATABASE_URL has a password in it too; give it in one place only"
        )
    return replace(database, ignored=address.ignored)


def _mqtt(found: _Found) -> tree.Mqtt:
    url: BrokerUrl | None = found.values.get("MQTT_URL")
    named = {} if url is None else url.named()
    if "MQTT_URL" in found.given:
        twice = found.among("MQTT_HOST", "MQTT_PORT", "MQTT_TLS")
        twice += found.among(*(f"MQTT_{name.upper()}" for name in ("username", "password") if name in named))
        if twice:
            found.problems.append(
                f"MQTT_URL: it says the same as {', '.join(twice)}; keep either it or those"
            )
    tls = _tls(found, url)
    defaults = {} if tls is None else {"port": _TLS_PORT}
    mqtt = tree.Mqtt(**(defaults | found.fields(tree.Mqtt) | named | {"tls": tls}))
    if mqtt.password is not None and mqtt.username is None and "MQTT_USERNAME" not in found.given:
        found.problems.append("MQTT_PASSWORD: a password without a user name; set MQTT_USERNAME too")
    return mqtt


def _tls(found: _Found, url: BrokerUrl | None) -> tree.Tls | None:
    files = found.among("MQTT_TLS_CA", "MQTT_TLS_CERT", "MQTT_TLS_KEY")
    wanted = found.values.get("MQTT_TLS") if url is None else url.tls
    if wanted is False and files:
        how = "MQTT_TLS is false" if url is None else "MQTT_URL begins with mqtt://"
        found.problems.append(f"{', '.join(files)}: TLS is off, since {how}; turn it on, or remove the files")
    if not (files if wanted is None else wanted):
        return None
    missing = found.missing("MQTT_TLS_CERT", "MQTT_TLS_KEY")
    if len(missing) == 1:
        found.problems.append(f"{missing[0]}: a certificate and its key come together; set it too")
    tls = tree.Tls(**found.fields(tree.Tls))
    try:
        tree.Tls(ca=tls.ca).context()
    except OSError:
        found.problems.append("MQTT_TLS_CA: no certificate can be read from it; give a file in PEM format")
    if tls.cert is not None and tls.key is not None:
        try:
            tree.Tls(cert=tls.cert, key=tls.key).context()
        except OSError:
            found.problems.append(
                "MQTT_TLS_CERT, MQTT_TLS_KEY: these are no certificate and the key that fits it; "
                "give both in PEM format, the key without a passphrase"
            )
    return tls


def _http(found: _Found) -> tree.Http:
    http = tree.Http(**found.fields(tree.Http))
    return replace(http, jwt=_jwt(found, http.auth_mode))


def _jwt(found: _Found, mode: tree.AuthMode) -> tree.Jwt | None:
    if mode is not tree.AuthMode.JWT:
        given = [name for name in sorted(found.given) if name.startswith("JWT_")]
        if given and "AUTH_MODE" not in found.given:
            found.problems.append(
                f"AUTH_MODE: {', '.join(given)} would have no effect; set AUTH_MODE to jwt or header"
            )
        return None
    missing = found.missing("JWT_ALGORITHMS", "JWT_ISSUER", "JWT_AUDIENCE")
    sources = found.among("JWT_JWKS_URL", "JWT_KEY_FILE")
    if not sources:
        missing.insert(0, "JWT_JWKS_URL or JWT_KEY_FILE")
    if missing:
        found.problems.append(f"AUTH_MODE=jwt not configured: set {', '.join(missing)}")
    if len(sources) == 2:
        found.problems.append("JWT_JWKS_URL, JWT_KEY_FILE: both say where the key is; keep one")
    fields = found.fields(tree.Jwt)
    if SYMMETRIC & set(fields.get("algorithms", ())):
        key_file = fields.get("key_file")
        if "JWT_JWKS_URL" in found.given:
            found.problems.append(
                "JWT_ALGORITHMS: HS… needs a shared secret, which no web address may hold; give JWT_KEY_FILE"
            )
        # The classic confusion: everybody may know a public key, so everybody could sign with it.
        elif key_file is not None and b"-----BEGIN" in key_file.read_bytes()[:4096]:
            found.problems.append(
                "JWT_ALGORITHMS: HS… with a PEM key would let everybody who has the public key sign; "
                "name the algorithm of that key"
            )
    return tree.Jwt(**fields) if {"algorithms", "issuer", "audience"} <= fields.keys() else None
