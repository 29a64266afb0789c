"""Quotes and blanks that came along with a value are told, with the setting's name and never the value.

Seen failing: docker's ``--env-file`` keeps quotes, and a quoted key or secret was taken without a word.
"""

from pathlib import Path

import pytest

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import load
from kosmo_billing_daemon.settings.tree import SECRETS
from tests.settings.setting import COMPLETE, loaded

USER = {"MQTT_USERNAME": "kosmo"}
VALUE = "Zq7value"
URLS = {
    "DATABASE_URL": "postgresql://billing:{}@db.example.org/kosmo",
    "MQTT_URL": "mqtt://kosmo:{}@broker.example.org",
}


def warned(**variables: str) -> list[str]:
    """The settings that are warned of; no warning may hold the value."""
    with_user = {} if "MQTT_URL" in variables else USER
    told = loaded(**{**with_user, **variables}).warnings
    assert VALUE not in "".join(told)
    return [warning.partition(":")[0] for warning in told]


FORMS = ('"{}"', "'{}'", "`{}`", '"{}', "{}'")
QUOTED = [
    *((name, form) for name in sorted(SECRETS) for form in FORMS),
    *((name, "%22{}%22") for name in URLS),
    *((name, "\u201c{}\u201d") for name in ("WEBHOOK_SECRET", "DATABASE_PASSWORD", "MQTT_PASSWORD")),
]


@pytest.mark.parametrize(("name", "form"), QUOTED)
def test_quotes_around_a_secret_are_told(name: str, form: str) -> None:
    value = form.format(VALUE)
    assert warned(**{name: URLS.get(name, "{}").format(value)}) == [name]
    assert warned(**{name: URLS.get(name, "{}").format(VALUE)}) == []


@pytest.mark.parametrize("name", sorted(SECRETS))
@pytest.mark.parametrize("form", [" {}", "{} ", "{}\t", "{}\r", "{}\n"])
def test_blanks_and_line_ends_around_a_secret_are_told_or_refused(name: str, form: str) -> None:
    value = form.format(URLS.get(name, "{}").format(VALUE))
    refused = name in ("DATABASE_PASSWORD", "MQTT_PASSWORD") and value.strip(" ") != value.strip()
    if refused:
        with pytest.raises(Misconfigured, match="line break or control character"):
            warned(**{name: value})
    else:
        assert warned(**{name: value}) == [name]


def test_quotes_around_any_other_value_and_one_of_two_secrets_are_told() -> None:
    assert warned(MQTT_CLIENT_ID="plain", MQTT_USERNAME='"kosmo"') == ["MQTT_USERNAME"]
    assert warned(INSTANCE_NAME="'one'") == ["INSTANCE_NAME"]
    assert warned(WEBHOOK_SECRET=f'new{VALUE},"{VALUE}"') == ["WEBHOOK_SECRET"]
    assert warned(INSTANCE_NAME="o'clock", MQTT_PASSWORD=f"a\"{VALUE}'b") == []


def test_a_value_that_does_not_count_is_not_told(tmp_path: Path) -> None:
    """The environment wins over the file, whose quotes are taken off; quotes within quotes stay."""
    file = tmp_path / "kosmo.env"
    file.write_text(f'MQTT_PASSWORD="{VALUE}"\nWEBHOOK_SECRET=\'"{VALUE}"\'\nINSTANCE_NAME=\'"x"\'\r\n')
    told = load({**COMPLETE, **USER, "INSTANCE_NAME": "plain"}, env_file=file).warnings
    assert [warning.partition(":")[0] for warning in told] == ["WEBHOOK_SECRET"]
    assert str(file) in told[0]


def test_what_follows_a_credential_is_told_but_for_one_line_end(tmp_path: Path) -> None:
    for content, expected in (
        (VALUE, []),
        (f"{VALUE}\n", []),
        (f"{VALUE}\r\n", ["MQTT_PASSWORD"]),
        (f"{VALUE}\n\n", ["MQTT_PASSWORD"]),
        (f"{VALUE} \n", ["MQTT_PASSWORD"]),
        (f'"{VALUE}"\n', ["MQTT_PASSWORD"]),
    ):
        (tmp_path / "mqtt_password").write_bytes(content.encode())
        told = load({**COMPLETE, **USER}, credentials_directory=tmp_path).warnings
        assert [warning.partition(":")[0] for warning in told] == expected, content
        assert VALUE not in "".join(told)


def test_a_shared_key_in_a_file_is_looked_at_too(tmp_path: Path) -> None:
    key = tmp_path / "key"
    jwt = {
        "AUTH_MODE": "jwt",
        "JWT_KEY_FILE": str(key),
        "JWT_ALGORITHMS": "HS256",
        "JWT_ISSUER": "https://id.example.org",
        "JWT_AUDIENCE": "kosmo",
    }
    for content, expected in (
        (VALUE * 8, []),
        (f"{VALUE * 8}\n", []),
        (f'"{VALUE * 8}"\n', ["JWT_KEY_FILE"]),
    ):
        key.write_text(content)
        assert warned(**jwt) == expected
