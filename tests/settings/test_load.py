import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kosmo_billing_daemon.domain.plans import BUILT_IN, parse_catalogue
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime.logs import Format, Level
from kosmo_billing_daemon.settings import AdminAddress, AuthMode, MqttProtocol, Settings, WebhookTrust, load
from kosmo_billing_daemon.settings.tree import VARIABLES
from tests.settings.generate import TARGET, environment_file
from tests.settings.setting import COMPLETE, loaded, problem, problems


def test_four_variables_are_enough_and_the_rest_has_defaults() -> None:
    settings = loaded()
    assert settings.btcpay.url == "https://btcpay.example.org"
    assert settings.btcpay.api_key.get_secret_value() == "key-of-the-store"
    assert settings.btcpay.invoice_expiration is None
    assert settings.webhook.secrets == ()
    assert settings.webhook.trust is WebhookTrust.BTCPAY
    assert settings.database.dsn() == COMPLETE["DATABASE_URL"]
    assert (settings.database.schema, settings.database.connections) == ("public", 10)
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.tls) == ("127.0.0.1", 1883, None)
    assert (settings.mqtt.client_id, settings.mqtt.prefix) == ("kosmo-billing", "kosmo/billing/v1")
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8004)
    assert [str(network) for network in settings.http.trusted_proxies.networks] == ["127.0.0.0/8", "::1/128"]
    assert settings.http.trusted_proxies.unix
    assert settings.http.auth_mode is AuthMode.HEADER
    assert settings.http.jwt is None
    assert settings.plans_file is None
    assert settings.remind_hours == (168, 72, 24)
    assert (settings.retention.deliveries.days, settings.retention.usage.days) == (60, 90)
    assert settings.instance


VALUES: list[tuple[str, str, str, Any]] = [
    ("BTCPAY_URL", "http://10.0.0.2:49392/btcpay/", "btcpay.url", "http://10.0.0.2:49392/btcpay"),
    ("BTCPAY_STORE_ID", "abc", "btcpay.store_id", "abc"),
    ("BTCPAY_PUBLIC_URL", "https://Pay.example.org", "btcpay.public_url", "https://pay.example.org"),
    ("BTCPAY_INVOICE_MINUTES", "15", "btcpay.invoice_expiration", timedelta(minutes=15)),
    ("BTCPAY_TIMEOUT", "30", "btcpay.timeout", 30.0),
    ("WEBHOOK_TRUST", "BODY", "webhook.trust", WebhookTrust.BODY),
    ("WEBHOOK_URL", "https://api.example.org/hook", "webhook.public_url", "https://api.example.org/hook"),
    ("DATABASE_SCHEMA", "billing", "database.schema", "billing"),
    ("DATABASE_CONNECTIONS", "20", "database.connections", 20),
    ("MQTT_HOST", "broker", "mqtt.host", "broker"),
    ("MQTT_HOST", "[::1]", "mqtt.host", "::1"),
    ("MQTT_PORT", "1884", "mqtt.port", 1884),
    ("MQTT_USERNAME", "billing", "mqtt.username", "billing"),
    ("MQTT_CLIENT_ID", "other", "mqtt.client_id", "other"),
    ("MQTT_PREFIX", "a/b", "mqtt.prefix", "a/b"),
    ("MQTT_PROTOCOL", "3.1.1", "mqtt.protocol", MqttProtocol.V311),
    ("MQTT_KEEPALIVE", "30", "mqtt.keepalive", 30),
    ("HOST", "0.0.0.0", "http.host", "0.0.0.0"),  # noqa: S104  a value, nothing listens
    ("PORT", "0", "http.port", 0),
    (
        "CORS_ORIGINS",
        "https://A.example:443/, http://b:80",
        "http.cors_origins",
        ("https://a.example", "http://b"),
    ),
    ("CORS_ORIGINS", "*", "http.cors_origins", ("*",)),
    ("ALLOWED_HOSTS", "A.example [::1]", "http.allowed_hosts", frozenset({"a.example", "::1"})),
    ("REDIRECT_HOSTS", "A.example,b.example", "http.redirect_hosts", frozenset({"a.example", "b.example"})),
    ("TRUSTED_PROXIES", "unix", "http.trusted_proxies.networks", ()),
    ("TRUSTED_PROXIES", "10.0.0.7", "http.trusted_proxies.unix", False),
    ("NEW_NODES_PER_DAY", "3", "http.new_nodes_per_day", 3),
    ("USAGE_MESSAGES_PER_MINUTE", "60", "usage_messages", 60),
    ("USAGE_USERS_PER_MINUTE", "70", "usage_users", 70),
    ("REMIND_HOURS", "24, 72,24", "remind_hours", (72, 24)),
    ("PUBLIC_URL", "https://Billing.example.org/", "http.public_url", "https://billing.example.org"),
    ("REMIND_HOURS", "off", "remind_hours", ()),
    ("DELIVERY_RETENTION_DAYS", "30", "retention.deliveries", timedelta(days=30)),
    ("ADMIN_LISTEN", "/run/x.sock", "admin_listen", AdminAddress(path="/run/x.sock")),
    ("ADMIN_LISTEN", "[::1]:8005", "admin_listen", AdminAddress(host="::1", port=8005)),
    ("ADMIN_LISTEN", "LOCALHOST:0", "admin_listen", AdminAddress(host="localhost", port=0)),
    ("ADMIN_LISTEN", "", "admin_listen", None),
    ("ADMIN_LISTEN", " off ", "admin_listen", None),
    ("USAGE_RETENTION_DAYS", "80", "retention.usage", timedelta(days=80)),
    ("DAILY_USAGE_RETENTION_DAYS", "90", "retention.usage_days", timedelta(days=90)),
    ("EVENT_RETENTION_DAYS", "91", "retention.events", timedelta(days=91)),
    ("INVOICE_RETENTION_DAYS", "92", "retention.invoices", timedelta(days=92)),
    ("DOCUMENT_RETENTION_DAYS", "93", "retention.documents", timedelta(days=93)),
    ("LINK_RETENTION_DAYS", "94", "retention.links", timedelta(days=94)),
    ("LOG_FORMAT", "json", "log_format", Format.JSON),
    ("LOG_LEVEL", "DEBUG", "log_level", Level.DEBUG),
    ("INSTANCE_NAME", "billing-2", "instance", "billing-2"),
]


def _at(settings: Settings, path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("name", "text", "path", "value"), VALUES)
def test_each_variable_arrives_at_its_place(name: str, text: str, path: str, value: object) -> None:
    assert _at(loaded(**{name: text}), path) == value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("PORT", "abc", "'abc' is not a whole number; give a port from 1 to 65535"),
        ("PORT", "70000", "'70000' is out of range"),
        ("PORT", "8_004", "is not a whole number"),
        ("MQTT_PORT", "0", "'0' is out of range"),
        ("BTCPAY_URL", "btcpay.example.org", "is no web address; give it as https://host"),
        ("BTCPAY_URL", "https://btcpay.example.org/api/v1", "without /api/v1"),
        ("BTCPAY_URL", "https://[broken", "this is no URL"),
        ("BTCPAY_URL", f"https://{'a' * 64}.example.org", "neither a name nor an address"),
        ("BTCPAY_URL", "https://btcpay..example.org", "neither a name nor an address"),
        ("CORS_ORIGINS", f"https://{'a' * 64}.example.org", "neither a name nor an address"),
        ("BTCPAY_API_KEY", "token abc", "paste the key alone"),
        ("BTCPAY_STORE_ID", "my store", "'my store' is no store id"),
        ("BTCPAY_INVOICE_MINUTES", "1441", "minutes from 1 to 1440"),
        ("WEBHOOK_SECRET", "one,two three", "3 secrets given"),
        ("WEBHOOK_TRUST", "everyone", "'everyone' is not known; give btcpay or body"),
        ("DATABASE_URL", "mysql://db/kosmo", "begins with postgresql://"),
        ("DATABASE_URL", "postgresql+asyncpg://db/kosmo", "begins with postgresql://"),
        ("DATABASE_URL", "postgresql://u:p#q@db/kosmo", "percent-encode"),
        ("DATABASE_URL", "postgresql://u:p/q@db/kosmo", "percent-encode"),
        ("DATABASE_SCHEMA", "Billing; drop", "lower-case letters"),
        ("DATABASE_SCHEMA", "pg_catalog", "cannot be our schema"),
        ("DATABASE_CONNECTIONS", "1", "connections from 3 to 500"),
        ("MQTT_URL", "http://broker", "a broker URL is mqtt://host"),
        ("MQTT_URL", "mqtt://broker/topic", "something follows"),
        ("MQTT_URL", "mqtt://broker:0", "port 0 is none"),
        ("MQTT_URL", "mqtt://user:%00@broker", "control character"),
        ("MQTT_HOST", "broker:1883", "without scheme and port"),
        ("MQTT_PREFIX", "kosmo/#", "wildcards"),
        ("MQTT_PREFIX", "/kosmo", "'/kosmo' has an empty level"),
        ("MQTT_PREFIX", "kosmo//v1", "an empty level"),
        ("MQTT_PREFIX", "$SYS/kosmo", "leading $"),
        ("MQTT_PROTOCOL", "4", "give 5 or 3.1.1"),
        ("MQTT_TLS", "maybe", "give true or false"),
        ("MQTT_CLIENT_ID", "a b", "is no client id"),
        ("HOST", "http://localhost", "is no host"),
        ("AUTH_MODE", "none", "give header or jwt"),
        ("TRUSTED_PROXIES", "10.0.0.300", "is no address or network"),
        ("TRUSTED_PROXIES", "0.0.0.0/0", "everybody could be any user"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "the network itself is 10.0.0.0/8"),
        ("TRUSTED_PROXIES", ",", "nothing stands between the commas"),
        ("CORS_ORIGINS", "kosmo.example", "is no origin"),
        ("CORS_ORIGINS", "https://kosmo.example/path", "no origin"),
        ("CORS_ORIGINS", "*,https://kosmo.example", "* stands beside"),
        ("ALLOWED_HOSTS", "kosmo.example:8004", "is no host"),
        ("REDIRECT_HOSTS", "https://kosmo.example", "is no host"),
        ("PLANS_FILE", "/nowhere/plans.toml", "cannot be read (no such file or directory)"),
        ("PLANS_FILE", "/dev", "no plain file"),
        ("ADMIN_LISTEN", "0.0.0.0:8005", "can be reached from outside"),
        ("ADMIN_LISTEN", "[::]:8005", "can be reached from outside"),
        ("ADMIN_LISTEN", "localhost.example:8005", "can be reached from outside"),
        ("ADMIN_LISTEN", "127.0.0.1:70000", "70000 is no port"),
        ("ADMIN_LISTEN", "8005", "'8005' is no address"),
        ("ADMIN_LISTEN", "admin.sock", "is no address"),
        ("ADMIN_LISTEN", f"/run/{'a' * 103}", "at most 107 bytes"),
        ("LOG_FORMAT", "xml", "one of auto, text, json, journal"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("REMIND_HOURS", "72,-1", "hours from 1 to 720"),
        ("USAGE_RETENTION_DAYS", "7", "days from 8"),
        ("INSTANCE_NAME", "a\nb", "one line of text"),
        ("MQTT_USERNAME", "caf\udce9", "not UTF-8"),
        ("MQTT_USERNAME", "a\0b", "not UTF-8"),
    ],
)
def test_a_wrong_value_is_told_in_a_sentence(name: str, text: str, said: str) -> None:
    sentence = problem(**{name: text})
    assert sentence.startswith(f"{name}: ")
    assert said in sentence


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(Misconfigured) as refused:
        load(
            {
                "PORT": "abc",
                "MQTT_PROTOCOL": "4",
                "BTCPAY_URL": "nonsense",
                "MQTT_PASSWORD": "x",
                "JWT_KEI": "",
            }
        )
    assert [sentence.split(";")[0] for sentence in refused.value.problems] == [
        "JWT_KEI is not known",
        "BTCPAY_URL: 'nonsense' is no web address",
        "MQTT_PROTOCOL: '4' is not known",
        "PORT: 'abc' is not a whole number",
        "BTCPay not configured: set BTCPAY_API_KEY, BTCPAY_STORE_ID",
        (
            "Database not configured: set DATABASE_URL, such as postgresql://user@host/name "
            "or postgresql:///name?host=/run/postgresql"
        ),
        "MQTT_PASSWORD: a password without a user name",
    ]


@pytest.mark.parametrize("left_out", ["BTCPAY_URL", "BTCPAY_API_KEY", "BTCPAY_STORE_ID"])
def test_exactly_the_missing_btcpay_setting_is_named(left_out: str) -> None:
    assert problem(**{left_out: ""}) == f"BTCPay not configured: set {left_out}"


def test_an_empty_value_means_unset() -> None:
    assert loaded(PORT="", MQTT_PASSWORD=" ", JWT_ISSUER="", MQTT_URL="") == loaded()


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("BTCPAY_API_KEI", "BTCPAY_API_KEY"),
        ("BTCPAY_APIKEY", "BTCPAY_API_KEY"),
        ("MQTT_USER", "MQTT_USERNAME"),
        ("MQTT_TLS_CAFILE", "MQTT_TLS_CA"),
        ("WEBHOOK_SECRETS", "WEBHOOK_SECRET"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("JWT_ALGORITHM", "JWT_ALGORITHMS"),
        ("btcpay_url", "BTCPAY_URL"),
    ],
)
def test_a_slip_is_named_with_the_nearest_known_variable(slip: str, meant: str) -> None:
    assert problem(**{slip: "something"}) == f"{slip} is not known; did you mean {meant}?"


def test_a_slip_without_likeness_is_named_all_the_same() -> None:
    assert (
        problem(MQTT_ZZZZZZZZZZZZZZ="1")
        == "MQTT_ZZZZZZZZZZZZZZ is not known; remove it, or see the list of settings"
    )


def test_variables_of_others_are_ignored() -> None:
    assert loaded(PATH="/bin", HOSTNAME="x", PORTS="1", LANG="C") == loaded()


def test_the_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        loaded().http.port = 1  # type: ignore[misc]


def test_the_example_file_is_made_from_the_settings_and_spells_their_defaults_out(tmp_path: Path) -> None:
    """After a change: python -m tests.settings.generate."""
    assert TARGET.read_text() == environment_file()
    assert load(COMPLETE, env_file=TARGET) == loaded()
    examples = {variable.name for variable in VARIABLES if variable.example}
    lines = [line[1:] for line in environment_file().splitlines() if line[1:2].isupper()]
    spelt_out = tmp_path / "all.env"
    spelt_out.write_text("\n".join(line for line in lines if line.partition("=")[0] not in examples))
    assert load(COMPLETE, env_file=spelt_out) == loaded()
    assert len(lines) == len(VARIABLES)


def test_the_catalogue_shipped_is_the_one_built_in() -> None:
    shipped = Path(__file__).parents[2] / "config" / "plans.toml"
    assert parse_catalogue(tomllib.loads(shipped.read_text())) == BUILT_IN


def test_several_things_wrong_with_one_branch_are_all_told() -> None:
    assert len(problems(AUTH_MODE="jwt", HOST="0.0.0.0", WEBHOOK_TRUST="body", PORT="x")) == 3  # noqa: S104  only read
