from pathlib import Path

import pytest

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import load
from tests.settings.setting import COMPLETE


def _said(environ: dict[str, str], **sources: Path) -> tuple[str, ...]:
    with pytest.raises(Misconfigured) as refused:
        load(environ, **sources)
    return refused.value.problems


def _credentials(directory: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def test_later_sources_win(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("PORT=1\nMQTT_PORT=2\nMQTT_CLIENT_ID=file\nDATABASE_SCHEMA=file\n")
    directory = tmp_path / "credentials"
    directory.mkdir()
    _credentials(directory, PORT="3\n")
    environ = COMPLETE | {"PORT": "4", "MQTT_PORT": "5", "MQTT_CLIENT_ID": ""}
    settings = load(environ, env_file, directory)
    assert settings.http.port == 3
    assert settings.mqtt.port == 5
    assert settings.mqtt.client_id == "file"  # an empty value hides nothing
    assert settings.database.schema == "file"


def test_the_sources_are_named_by_the_environment_too(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("PORT=1\n")
    directory = tmp_path / "credentials"
    directory.mkdir()
    _credentials(directory, MQTT_USERNAME="credential", mqtt_password="p")
    settings = load(COMPLETE | {"ENV_FILE": str(env_file), "CREDENTIALS_DIRECTORY": str(directory)})
    assert settings.http.port == 1
    assert settings.mqtt.username == "credential"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("MQTT_USERNAME=plain", "plain"),
        ("  MQTT_USERNAME = spaced  ", "spaced"),
        ("MQTT_USERNAME=two words # no comment", "two words # no comment"),
        ("MQTT_USERNAME='a \"b\" \\ $c'", 'a "b" \\ $c'),
        ('MQTT_USERNAME="a \\"b\\" \\\\ $c \\d"', 'a "b" \\ $c \\d'),
        ("MQTT_USERNAME=a\\\\b", "a\\b"),
        ("MQTT_USERNAME=it's", "it's"),
        ("MQTT_USERNAME='joined'\"up\"", "joinedup"),
        ('MQTT_USERNAME="a"b"c"', 'ab"c"'),
        ("MQTT_USERNAME=${HOME}", "${HOME}"),
        ("# MQTT_USERNAME=no\n; MQTT_USERNAME=no\n\nMQTT_USERNAME=last\r", "last"),
    ],
)
def test_an_environment_file_is_read_as_systemd_reads_it(tmp_path: Path, line: str, value: str) -> None:
    env_file = tmp_path / "env"
    env_file.write_bytes(f"{line}\n".encode())
    assert load(COMPLETE, env_file).mqtt.username == value


def test_lines_that_cannot_be_read_are_told_by_number_not_by_content(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("PORT=1\nhunter2\nMQTT_PASSWORD='hunter2\n=hunter2\nexport PORT=1\n")
    assert _said(COMPLETE, env_file=env_file) == (
        f"ENV_FILE: line 2 of {env_file} is not NAME=VALUE",
        f"MQTT_PASSWORD: a quote is not closed (line 3 of {env_file})",
        f"ENV_FILE: line 4 of {env_file} is not NAME=VALUE",
        f"ENV_FILE: line 5 of {env_file} is not NAME=VALUE",
    )


def test_a_problem_says_from_which_source_the_value_came(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("PORT=abc\nTRUSTED_PROXYS=10.0.0.1\nUVLOOP=1\nDATABASE_URI=x\n")
    _credentials(tmp_path, MQTT_PORT="abc")
    assert _said(COMPLETE, env_file=env_file, credentials_directory=tmp_path) == (
        f"TRUSTED_PROXYS is not known ({env_file}); did you mean TRUSTED_PROXIES?",
        f"DATABASE_URI is not known ({env_file}); did you mean DATABASE_URL?",
        f"MQTT_PORT: 'abc' is not a whole number; give a port from 1 to 65535 (credential in {tmp_path})",
        f"PORT: 'abc' is not a whole number; give a port from 1 to 65535, or 0 for any free one ({env_file})",
    )


def test_a_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert _said(COMPLETE, env_file=missing, credentials_directory=missing) == (
        f"ENV_FILE: {missing} cannot be read (no such file or directory)",
        f"CREDENTIALS_DIRECTORY: {missing} cannot be read (no such file or directory)",
    )


def test_credentials_are_found_by_variable_name_in_any_case_and_with_the_prefix_of_systemd(
    tmp_path: Path,
) -> None:
    _credentials(
        tmp_path,
        BTCPAY_API_KEY="key\n",
        kosmo_WEBHOOK_SECRET="new\nold\n",
        kosmo_database_password="pa$$ word \r\n",
        mqtt_username="user",
    )
    settings = load({**COMPLETE, "BTCPAY_API_KEY": ""}, credentials_directory=tmp_path)
    assert settings.btcpay.api_key.get_secret_value() == "key"
    assert [secret.get_secret_value() for secret in settings.webhook.secrets] == ["new", "old"]
    assert settings.database.password is not None
    assert settings.database.password.get_secret_value() == "pa$$ word "
    assert settings.mqtt.username == "user"


def test_credentials_of_others_are_ignored_and_slips_in_ours_are_named(tmp_path: Path) -> None:
    _credentials(tmp_path, tls_key=b"\xff", kosmo_README="", MQTT_PASWORD="x", kosmo_BTCPAY_KEY="y")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "MQTT_DIRECTORY").mkdir()
    assert _said(COMPLETE, credentials_directory=tmp_path) == (
        f"MQTT_PASWORD is not known ({tmp_path}); did you mean MQTT_PASSWORD?",
        f"kosmo_BTCPAY_KEY is not known ({tmp_path}); did you mean BTCPAY_API_KEY?",
    )


def test_a_credential_for_a_file_is_that_file(tmp_path: Path) -> None:
    _credentials(tmp_path, kosmo_PLANS_FILE="[plans]", kosmo_JWT_KEY_FILE="s")
    settings = load(
        COMPLETE | {"AUTH_MODE": "jwt", "JWT_ALGORITHMS": "HS256", "JWT_ISSUER": "i", "JWT_AUDIENCE": "a"},
        credentials_directory=tmp_path,
    )
    assert settings.plans_file == tmp_path / "kosmo_PLANS_FILE"
    assert settings.http.jwt is not None
    assert settings.http.jwt.key_file == tmp_path / "kosmo_JWT_KEY_FILE"


def test_credentials_that_contradict_or_are_no_text_are_told(tmp_path: Path) -> None:
    _credentials(tmp_path, MQTT_PASSWORD="a", kosmo_MQTT_PASSWORD="b", MQTT_USERNAME=b"\xff\xfe")
    assert _said(COMPLETE, credentials_directory=tmp_path) == (
        f"MQTT_USERNAME: the credential {tmp_path / 'MQTT_USERNAME'} is not UTF-8 text",
        f"MQTT_PASSWORD: two credentials of this name differ in {tmp_path}; remove one",
        "MQTT_PASSWORD: a password without a user name; set MQTT_USERNAME too",
    )
