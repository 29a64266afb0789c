import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from kosmo_billing_daemon.settings import AuthMode, load
from tests.settings.setting import COMPLETE, loaded, problem, problems

JWT = {
    "AUTH_MODE": "jwt",
    "JWT_JWKS_URL": "https://id.example.org/keys",
    "JWT_ALGORITHMS": "rs256, eddsa",
    "JWT_ISSUER": "https://id.example.org",
    "JWT_AUDIENCE": "kosmo-billing",
}


def _openssl(arguments: str) -> None:
    subprocess.run(["/usr/bin/openssl", *arguments.split()], check=True, capture_output=True)  # noqa: S603  our own


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    _openssl(f"req -x509 {curve} -subj /CN=broker -days 2 -out {cert} -keyout {key}")
    return cert, key


class TestWebhook:
    def test_one_or_two_secrets_with_comma_or_blanks_between(self) -> None:
        for text in ("new,old", "new old", "new\nold\n", "new,\n old"):
            secrets = loaded(WEBHOOK_SECRET=text).webhook.secrets
            assert [secret.get_secret_value() for secret in secrets] == ["new", "old"]
        assert len(loaded(WEBHOOK_SECRET="same,same").webhook.secrets) == 1

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
    def test_the_body_may_be_trusted_on_loopback(self, host: str) -> None:
        assert loaded(WEBHOOK_TRUST="body", HOST=host).webhook.trust == "body"

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "billing", "localhost.example"])  # noqa: S104  only read
    def test_the_body_is_not_trusted_elsewhere(self, host: str) -> None:
        sentence = problem(WEBHOOK_TRUST="body", HOST=host)
        assert sentence.startswith("WEBHOOK_TRUST: body needs HOST on loopback")
        assert "could then write paid invoices" in sentence

    def test_the_body_is_not_trusted_with_a_socket_from_systemd(self) -> None:
        assert "a socket from systemd" in problem(WEBHOOK_TRUST="body", LISTEN_FDS="1")


class TestDatabase:
    def test_a_password_of_its_own_is_put_into_the_url(self) -> None:
        plain = loaded(DATABASE_PASSWORD="p@ss&word /?").database.dsn()
        assert plain == "postgresql://billing@db.example.org/kosmo?password=p%40ss%26word%20%2F%3F"
        socket = loaded(DATABASE_URL="postgresql:///db?host=/run/postgresql", DATABASE_PASSWORD="p")
        assert socket.database.dsn() == "postgresql:///db?host=/run/postgresql&password=p"

    @pytest.mark.parametrize("url", ["postgresql://u:p@h/db", "postgresql://h/db?password=p"])
    def test_two_passwords_contradict(self, url: str) -> None:
        assert "in one place only" in problem(DATABASE_URL=url, DATABASE_PASSWORD="q")


class TestMqtt:
    def test_a_url_says_all_in_one(self) -> None:
        mqtt = loaded(MQTT_URL="mqtts://us%65r:p%40ss@broker:1234").mqtt
        assert (mqtt.host, mqtt.port, mqtt.username) == ("broker", 1234, "user")
        assert mqtt.password is not None
        assert mqtt.password.get_secret_value() == "p@ss"
        assert mqtt.tls is not None

    def test_the_port_follows_from_tls(self) -> None:
        assert loaded(MQTT_URL="mqtts://broker").mqtt.port == 8883
        assert loaded(MQTT_URL="mqtt://broker").mqtt.port == 1883
        assert loaded(MQTT_TLS="yes").mqtt.port == 8883
        assert loaded(MQTT_TLS="yes", MQTT_PORT="1884").mqtt.port == 1884

    def test_a_url_beside_what_it_says_contradicts(self) -> None:
        sentence = problem(MQTT_URL="mqtt://u@broker", MQTT_HOST="h", MQTT_PORT="1", MQTT_USERNAME="v")
        assert sentence.startswith("MQTT_URL: it says the same as MQTT_HOST, MQTT_PORT, MQTT_USERNAME")

    def test_the_password_may_stand_beside_the_url(self) -> None:
        mqtt = loaded(MQTT_URL="mqtt://user@broker", MQTT_PASSWORD="p").mqtt
        assert mqtt.password is not None
        assert mqtt.password.get_secret_value() == "p"

    def test_a_password_needs_a_user(self) -> None:
        assert problem(MQTT_PASSWORD="p").startswith("MQTT_PASSWORD: a password without a user name")

    def test_a_file_turns_tls_on(self, certificate: tuple[Path, Path]) -> None:
        cert, key = map(str, certificate)
        tls = loaded(MQTT_TLS_CA=cert, MQTT_TLS_CERT=cert, MQTT_TLS_KEY=key).mqtt.tls
        assert tls is not None
        assert tls.context().get_ca_certs()[0]["subject"] == ((("commonName", "broker"),),)

    def test_files_with_tls_off_contradict(self, certificate: tuple[Path, Path]) -> None:
        assert "MQTT_TLS is false" in problem(MQTT_TLS="no", MQTT_TLS_CA=str(certificate[0]))
        assert "begins with mqtt://" in problem(MQTT_URL="mqtt://broker", MQTT_TLS_CA=str(certificate[0]))

    def test_a_certificate_and_its_key_come_together(self, certificate: tuple[Path, Path]) -> None:
        cert, key = map(str, certificate)
        assert problem(MQTT_TLS_CERT=cert).startswith("MQTT_TLS_KEY: ")
        assert problem(MQTT_TLS_KEY=key).startswith("MQTT_TLS_CERT: ")

    def test_a_file_that_holds_no_certificate_is_found_before_connecting(
        self, tmp_path: Path, certificate: tuple[Path, Path]
    ) -> None:
        wrong = tmp_path / "wrong.pem"
        wrong.write_text("not a certificate")
        assert problem(MQTT_TLS_CA=str(wrong)).startswith("MQTT_TLS_CA: no certificate can be read")
        both = problem(MQTT_TLS_CERT=str(wrong), MQTT_TLS_KEY=str(certificate[1]))
        assert both.startswith("MQTT_TLS_CERT, MQTT_TLS_KEY: ")

    def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(
        self, tmp_path: Path, certificate: tuple[Path, Path]
    ) -> None:
        cert, key = certificate
        locked = tmp_path / "locked.pem"
        _openssl(f"pkcs8 -topk8 -in {key} -out {locked} -passout pass:word")
        assert "without a passphrase" in problem(MQTT_TLS_CERT=str(cert), MQTT_TLS_KEY=str(locked))


class TestJwt:
    def test_all_of_it_arrives(self) -> None:
        http = load(COMPLETE | JWT | {"JWT_CLAIM": "user", "JWT_LEEWAY": "0"}).http
        assert http.auth_mode is AuthMode.JWT
        assert http.jwt is not None
        assert http.jwt.jwks_url == "https://id.example.org/keys"
        assert http.jwt.algorithms == ("RS256", "EdDSA")
        assert (http.jwt.issuer, http.jwt.audience) == ("https://id.example.org", "kosmo-billing")
        assert (http.jwt.claim, http.jwt.leeway) == ("user", timedelta())

    def test_what_is_missing_is_named_at_once(self) -> None:
        assert problem(AUTH_MODE="jwt") == (
            "AUTH_MODE=jwt not configured: "
            "set JWT_JWKS_URL or JWT_KEY_FILE, JWT_ALGORITHMS, JWT_ISSUER, JWT_AUDIENCE"
        )
        assert problem(**JWT | {"JWT_ISSUER": ""}) == "AUTH_MODE=jwt not configured: set JWT_ISSUER"

    def test_tokens_without_effect_are_named(self) -> None:
        assert problem(**JWT | {"AUTH_MODE": ""}).startswith("AUTH_MODE: JWT_ALGORITHMS, JWT_AUDIENCE, ")
        assert loaded(**JWT | {"AUTH_MODE": "header"}).http.jwt is None

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("none", "tokens nobody signed"),
            ("RS256,None", "tokens nobody signed"),
            ("RS257", "is not known"),
            ("HS256,RS256", "a public key pass as a shared secret"),
        ],
    )
    def test_algorithms_that_let_anybody_in_are_refused(self, text: str, said: str) -> None:
        assert said in problem(**JWT | {"JWT_ALGORITHMS": text})

    def test_keys_come_over_https_or_loopback(self) -> None:
        assert "plain http" in problem(**JWT | {"JWT_JWKS_URL": "http://id.example.org/keys"})
        assert loaded(**JWT | {"JWT_JWKS_URL": "http://127.0.0.1:9/keys?a=b"}).http.jwt is not None

    def test_a_shared_secret_comes_from_a_file_that_is_no_public_key(
        self, tmp_path: Path, certificate: tuple[Path, Path]
    ) -> None:
        assert "give JWT_KEY_FILE" in problem(**JWT | {"JWT_ALGORITHMS": "HS256"})
        from_file = JWT | {"JWT_ALGORITHMS": "HS256", "JWT_JWKS_URL": ""}
        assert "public key sign" in problem(**from_file | {"JWT_KEY_FILE": str(certificate[0])})
        shared = tmp_path / "shared"
        shared.write_text("a secret of both sides")
        jwt = loaded(**from_file | {"JWT_KEY_FILE": str(shared)}).http.jwt
        assert jwt is not None
        assert jwt.key_file == shared

    def test_one_place_for_the_key(self, certificate: tuple[Path, Path]) -> None:
        said = problems(**JWT | {"JWT_KEY_FILE": str(certificate[0])})
        assert said == ["JWT_JWKS_URL, JWT_KEY_FILE: both say where the key is; keep one"]
