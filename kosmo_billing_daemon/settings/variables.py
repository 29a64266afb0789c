"""Every variable by its name, in the order of the example file: what is read, and how.

All are optional here and their defaults live in ``tree``; what is needed together is said in ``loading``.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kosmo_billing_daemon.runtime.logs import Format, Level
from kosmo_billing_daemon.settings import addresses, values
from kosmo_billing_daemon.settings.sources import Layer, LayerSource
from kosmo_billing_daemon.settings.tree import AuthMode, MqttProtocol, WebhookTrust

_Line = Annotated[str | None, PlainValidator(values.one_line)]
_Secret = Annotated[SecretStr | None, PlainValidator(values.secret)]
_WebUrl = Annotated[str | None, PlainValidator(addresses.web_url)]
_Host = Annotated[str | None, PlainValidator(addresses.host)]
_Switch = Annotated[bool | None, PlainValidator(values.switch)]
_File = Annotated[Path | None, PlainValidator(values.file)]


def _number(low: int, high: int, wanted: str) -> PlainValidator:
    return PlainValidator(values.whole_number(low, high, wanted))


class Variables(BaseSettings):
    """The variables that are set; ``None`` stands for the default."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        # pydantic-settings would pass defaults to the readers, which expect text.
        validate_default=False,
    )

    btcpay_url: Annotated[str | None, PlainValidator(addresses.btcpay_url)] = None
    btcpay_api_key: Annotated[SecretStr | None, PlainValidator(values.token)] = None
    btcpay_store_id: Annotated[str | None, PlainValidator(values.store_id)] = None
    btcpay_public_url: _WebUrl = None
    btcpay_invoice_minutes: Annotated[int | None, _number(1, 1440, "minutes from 1 to 1440")] = None
    btcpay_timeout: Annotated[int | None, _number(1, 120, "seconds from 1 to 120")] = None

    webhook_secret: Annotated[tuple[SecretStr, ...] | None, PlainValidator(values.webhook_secrets)] = None
    webhook_trust: Annotated[WebhookTrust | None, PlainValidator(values.choice(WebhookTrust))] = None
    webhook_url: _WebUrl = None

    database_url: Annotated[SecretStr | None, PlainValidator(values.unread)] = None
    database_password: _Secret = None
    database_schema: Annotated[str | None, PlainValidator(values.identifier)] = None
    # Below 3 the loops and the requests could wait for each other; PostgreSQL itself allows 100 by default.
    database_connections: Annotated[int | None, _number(3, 500, "connections from 3 to 500")] = None

    mqtt_url: Annotated[addresses.BrokerUrl | None, PlainValidator(addresses.broker_url)] = None
    mqtt_host: _Host = None
    mqtt_port: Annotated[int | None, _number(1, 65535, "a port from 1 to 65535")] = None
    mqtt_username: _Line = None
    mqtt_password: _Secret = None
    mqtt_client_id: Annotated[str | None, PlainValidator(values.client_id)] = None
    mqtt_prefix: Annotated[str | None, PlainValidator(values.topic_prefix)] = None
    mqtt_protocol: Annotated[MqttProtocol | None, PlainValidator(values.choice(MqttProtocol))] = None
    mqtt_keepalive: Annotated[int | None, _number(2, 3600, "seconds from 2 to 3600")] = None
    mqtt_tls: _Switch = None
    mqtt_tls_ca: _File = None
    mqtt_tls_cert: _File = None
    mqtt_tls_key: _File = None

    host: _Host = None
    port: Annotated[int | None, _number(0, 65535, "a port from 1 to 65535, or 0 for any free one")] = None
    auth_mode: Annotated[AuthMode | None, PlainValidator(values.choice(AuthMode))] = None
    trusted_proxies: Annotated[addresses.Proxies | None, PlainValidator(addresses.proxies)] = None
    allowed_hosts: Annotated[frozenset[str] | None, PlainValidator(addresses.hosts)] = None
    cors_origins: Annotated[tuple[str, ...] | None, PlainValidator(addresses.origins)] = None
    redirect_hosts: Annotated[frozenset[str] | None, PlainValidator(addresses.hosts)] = None

    invoice_rate: Annotated[int | None, _number(1, 1000, "invoices per minute from 1 to 1000")] = None
    stream_beat: Annotated[int | None, _number(1, 300, "seconds from 1 to 300")] = None
    metrics_token: Annotated[SecretStr | None, PlainValidator(values.token)] = None

    jwt_jwks_url: Annotated[str | None, PlainValidator(addresses.jwks_url)] = None
    jwt_key_file: _File = None
    jwt_algorithms: Annotated[tuple[str, ...] | None, PlainValidator(values.algorithms)] = None
    jwt_issuer: _Line = None
    jwt_audience: _Line = None
    jwt_claim: _Line = None
    jwt_leeway: Annotated[int | None, _number(0, 300, "seconds from 0 to 300")] = None

    plans_file: _File = None
    expiring_notice_hours: Annotated[int | None, _number(1, 720, "hours from 1 to 720")] = None
    # Below 4 days a delivery could be forgotten while its invoice may still be paid late (72 h).
    delivery_retention_days: Annotated[int | None, _number(4, 36500, "days from 4 to 36500")] = None
    # Reports are accepted 7 days late; a message forgotten earlier could be counted twice.
    usage_retention_days: Annotated[int | None, _number(8, 36500, "days from 8 to 36500")] = None
    log_format: Annotated[Format | None, PlainValidator(values.choice(Format))] = None
    log_level: Annotated[Level | None, PlainValidator(values.choice(Level))] = None
    instance_name: _Line = None


KNOWN = tuple(name.upper() for name in Variables.model_fields)
FILES = frozenset({"MQTT_TLS_CA", "MQTT_TLS_CERT", "MQTT_TLS_KEY", "JWT_KEY_FILE", "PLANS_FILE"})
SECRETS = frozenset(
    {
        "BTCPAY_API_KEY",
        "WEBHOOK_SECRET",
        "DATABASE_URL",
        "DATABASE_PASSWORD",
        "MQTT_URL",
        "MQTT_PASSWORD",
        "METRICS_TOKEN",
    }
)
"""Variables whose values hold secrets."""


def read(layers: tuple[Layer, ...]) -> Variables:
    """Read the variables, earlier layers first; raises pydantic's ``ValidationError``."""

    class Layered(Variables):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(LayerSource(settings_cls, layer) for layer in layers)

    return Layered()
