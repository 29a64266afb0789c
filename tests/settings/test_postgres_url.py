"""Every parameter of a PostgreSQL URL is honoured, ignored for a reason that is told, or refused by name."""

import getpass
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from kosmo_billing_daemon.settings.postgres_parameters import ENVIRONMENT, HONOURED
from kosmo_billing_daemon.settings.postgres_url import BadUrl, PostgresAddress, read
from tests.settings.setting import loaded, problem, problems

# libpq's "Parameter Key Words" (PostgreSQL 18), and values that its clients take.
KEY_WORDS = {
    "host": "h", "hostaddr": "10.0.0.1", "port": "5433", "dbname": "d", "user": "u", "password": "p",
    "passfile": "/nowhere", "require_auth": "scram-sha-256", "channel_binding": "require",
    "connect_timeout": "10", "client_encoding": "auto", "options": "-c geqo=off", "application_name": "a",
    "fallback_application_name": "a", "keepalives": "1", "keepalives_idle": "30", "keepalives_interval": "3",
    "keepalives_count": "3", "tcp_user_timeout": "9000", "replication": "database", "gssencmode": "require",
    "sslmode": "require", "requiressl": "1", "sslnegotiation": "direct", "sslcompression": "0",
    "sslcert": "/nowhere", "sslkey": "/nowhere", "sslkeylogfile": "/nowhere", "sslpassword": "p",
    "sslcertmode": "require", "sslrootcert": "/nowhere", "sslcrl": "/nowhere", "sslcrldir": "/nowhere",
    "sslsni": "0", "requirepeer": "postgres", "ssl_min_protocol_version": "TLSv1.3",
    "ssl_max_protocol_version": "TLSv1.3", "min_protocol_version": "3.2", "max_protocol_version": "3.0",
    "krbsrvname": "postgres", "gsslib": "gssapi", "gssdelegation": "1", "scram_client_key": "k",
    "scram_server_key": "k", "service": "s", "servicefile": "/nowhere", "target_session_attrs": "read-write",
    "load_balance_hosts": "random", "oauth_issuer": "i", "oauth_client_id": "i", "oauth_client_secret": "s",
    "oauth_scope": "s",
}  # fmt: skip
IGNORED = {
    "client_encoding", "application_name", "fallback_application_name", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslcompression", "sslkeylogfile",
    "load_balance_hosts",
}  # fmt: skip
SILENT = {"max_protocol_version"}


def address(text: str, environ: Mapping[str, str] | None = None) -> PostgresAddress:
    return read(text, environ or {})


def refused(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(BadUrl) as error:
        read(text, environ or {})
    return list(error.value.problems)


@pytest.mark.parametrize("name", KEY_WORDS)
def test_every_parameter_of_libpq_is_honoured_ignored_with_a_reason_or_refused_by_name(name: str) -> None:
    url = f"postgresql:///?{name}={quote(KEY_WORDS[name])}"
    if name == "sslnegotiation":
        url += "&sslmode=require"
    if name in HONOURED and KEY_WORDS[name] != "/nowhere":
        assert address(url).ignored == ()
    elif name in IGNORED:
        (told,) = address(url).ignored
        assert told.startswith(f"DATABASE_URL: {name} is ignored: ")
    elif name in SILENT:
        assert address(url).ignored == ()
    else:
        said = refused(f"{url}&sslmode=require" if name in {"sslrootcert", "sslcrl"} else url)
        assert any(sentence.startswith(f"DATABASE_URL: {name}: ") for sentence in said), said


def test_what_is_harmless_of_a_refused_parameter_is_taken() -> None:
    harmless = "channel_binding=prefer&gssencmode=disable&replication=false&sslsni=1&requiressl=0"
    assert address(f"postgresql://u@h/d?{harmless}&gssdelegation=0&sslcertmode=allow").ignored == ()


@pytest.mark.parametrize(
    ("parameter", "advice"),
    [
        ("schema=billing", "DATABASE_SCHEMA"),
        ("currentSchema=billing", "DATABASE_SCHEMA"),
        ("search_path=billing", "DATABASE_SCHEMA"),
        ("pgbouncer=true", "connect to PostgreSQL directly"),
        ("connection_limit=5", "DATABASE_CONNECTIONS"),
        ("ssl=no-verify", "sslmode=require"),
        ("statement_timeout=5000", "options=-c NAME=VALUE"),
        ("sslmode=no-verify", "give disable, allow, prefer, require, verify-ca or verify-full"),
        ("target_session_attrs=master", "the value is not known"),
        ("target_session_attrs=prefer-standby", "the daemon writes"),
        ("connect_timeout=0", "seconds from 1 to 30"),
        ("port=0", "from 1 to 65535"),
        ("sslrootcert=/some/ca.pem", "sslmode=prefer verifies nothing"),
        ("sslnegotiation=direct", "needs sslmode=require"),
        ("ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "older than the oldest"),
        ("sslmode=require&sslmode=disable", "given twice"),
        ("sslmode", "sslmode has no value"),
        ("half-a-password", "a parameter has no value"),
        ("sslrootcert=system&sslmode=require", "system needs sslmode=verify-full"),
    ],
)
def test_what_other_drivers_write_and_slips_are_refused_with_advice(parameter: str, advice: str) -> None:
    (said,) = refused(f"postgresql://u@h/d?{parameter}")
    assert advice in said
    assert "half-a-password" not in said


def test_every_problem_is_told_at_once_and_no_value_with_them() -> None:
    said = problems(
        DATABASE_URL="postgresql://u:hidden@h:99999/d?sslmode=hidden&channel_binding=require&hidden&schema=hidden"
    )
    assert len(said) == 5
    assert not any("hidden" in sentence for sentence in said)
    assert all(sentence.startswith("DATABASE_URL: ") for sentence in said)


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_a_file_of_tls_that_is_missing_or_none_is_named(name: str, tmp_path: Path, authority: Path) -> None:
    missing, garbage = tmp_path / "missing.pem", tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    ca = authority / "ca.pem"
    pair = f"&sslcert={garbage}" if name == "sslkey" else f"&sslrootcert={ca}" if name == "sslcrl" else ""
    for path, why in ((missing, "no such file"), (garbage, "is no certificate")):
        sentences = refused(f"postgresql://u@h/d?sslmode=verify-full&{name}={path}{pair}")
        found = [sentence for sentence in sentences if str(path) in sentence and why in sentence.lower()]
        assert found, sentences
    assert "sslmode=verify-ca needs" in problem(DATABASE_URL="postgresql://u@h/d?sslmode=verify-ca")


def _openssl(directory: Path, arguments: str) -> None:
    subprocess.run(["/usr/bin/openssl", *arguments.split()], check=True, capture_output=True, cwd=directory)  # noqa: S603  our own


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority (ca.pem) and a certificate of it for db.example.org (db.pem, db.key)."""
    directory = tmp_path_factory.mktemp("authority")
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    _openssl(directory, f"req -x509 {curve} -subj /CN=authority -out ca.pem -keyout ca.key")
    named = "-subj /CN=db -addext subjectAltName=DNS:db.example.org"
    _openssl(directory, f"req -x509 {curve} {named} -CA ca.pem -CAkey ca.key -out db.pem -keyout db.key")
    return directory


def trusts(url: str, authority: Path, name: str) -> bool:
    """Shake hands as PostgreSQL's server with that certificate would, reached by that name."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(authority / "db.pem", authority / "db.key")
    client_context = address(url).tls.attempts()[0]
    assert client_context is not None
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(down, up, server_hostname=name)
    server = server_context.wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_each_sslmode_verifies_what_it_promises(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ca, right, wrong = f"sslrootcert={authority}/ca.pem", "db.example.org", "other.example.org"
    for query, names in (
        ("", {right, wrong}),
        ("sslmode=require", {right, wrong}),
        (f"sslmode=require&{ca}", {right, wrong}),
        (f"sslmode=verify-ca&{ca}", {right, wrong}),
        (f"sslmode=verify-full&{ca}", {right}),
        ("sslrootcert=system", set[str]()),
        (f"sslmode=require&sslrootcert={authority}/db.pem", set[str]()),
    ):
        url = f"postgresql://u@h/d?{query}"
        assert {name for name in (right, wrong) if trusts(url, authority, name)} == names, query
    (tmp_path / ".postgresql").mkdir()
    shutil.copy(authority / "ca.pem", tmp_path / ".postgresql/root.crt")
    assert trusts("postgresql://u@h/d?sslmode=verify-full", authority, right)
    assert not trusts("postgresql://u@h/d?sslmode=verify-full", authority, wrong)
    # Beside the certificate of a client whose key only its owner may read.
    shutil.copy(authority / "db.pem", tmp_path / ".postgresql/postgresql.crt")
    assert trusts("postgresql://u@h/d", authority, right)


def test_a_home_that_this_account_may_not_look_into_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file in place of the directory answers as one that may not be entered does: also to root."""
    (tmp_path / ".postgresql").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    tls = address("postgresql://u@h/d").tls
    assert len(tls.attempts()) == 2
    (said,) = refused("postgresql://u@h/d?sslmode=verify-full")
    assert said.startswith("DATABASE_URL: sslrootcert: ")


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("postgres://u@db.example.org", [("db.example.org", 5432)]),
        ("postgresql://u@h1:5433,h2/d", [("h1", 5433), ("h2", 5432)]),
        ("postgresql://u@[::1]:6000/d", [("::1", 6000)]),
        ("postgresql://u@[fe80::1%25eth0]/d", [("fe80::1%eth0", 5432)]),
        ("postgresql://u@%2Frun%2Fpg:7000/d", [("/run/pg", 7000)]),
        ("postgresql:///d?host=/run/pg&user=u", [("/run/pg", 5432)]),
        ("postgresql:///d?host=h1,::1&port=1,2&user=u", [("h1", 1), ("::1", 2)]),
        ("postgresql://?host=h1,h2&port=7", [("h1", 7), ("h2", 7)]),
        (" postgresql://u@DB.example.org./d ", [("DB.example.org.", 5432)]),
    ],
)
def test_hosts_are_read_in_every_spelling(text: str, hosts: list[tuple[str, int]]) -> None:
    assert list(address(text).hosts) == hosts


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("host=localhost dbname=kosmo password=hidden", "key=value string"),
        ("postgresql+asyncpg://u:hidden@h/d", "begins with postgresql://"),
        ("postgresql:/u:hidden@h/d", "begins with postgresql://"),
        ("postgresql://u:hid#den@h/d", "percent-encode"),
        ("postgresql://u:hid/den@h/d", "percent-encode"),
        ("postgresql://u:hid?den@h/d", "percent-encode"),
        ("postgresql://u:hid@den@h/d", "percent-encode"),
        ("postgresql://u:hidden%@h/d", "two digits"),
        ("postgresql://u:hidden%ff@h/d", "no UTF-8 text"),
        ("postgresql://u:hid den@h/d", "blank or control"),
        ("postgresql://u:hid\nden@h/d", "blank or control"),
        ("postgresql://u:hidden@[::1/d", "cannot be read"),
        ("postgresql://u:hidden@[nowhere]/d", "one of the hosts is none"),
        ("postgresql://u:hidden@h:port/d", "from 1 to 65535"),
        ("postgresql://u:hidden@h1,/d", "one of the hosts is none"),
        ("postgresql://u:hidden@h1,h2,h3/d?port=1,2", "2 ports for 3 hosts"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(text: str, why: str) -> None:
    (said,) = refused(text)
    assert why in said
    assert "hid" not in said
    assert "den" not in said.replace("refused", "")


def test_a_parameter_in_other_letters_is_unknown_to_us_as_to_libpq() -> None:
    (said,) = refused("postgresql://u@h/d?Host=other")
    assert "Host: PostgreSQL's clients know no such parameter" in said


def test_user_password_and_database_are_taken_as_they_were_before_encoding() -> None:
    found = address("postgresql://us%65r:p%40%23+%25@h/my%20db")
    assert (found.user, found.password, found.database) == ("user", "p@#+%", "my db")
    assert address("postgresql://h/?user=u&password=a+b").password == "a+b"
    assert "p@#" not in repr(found)


def test_several_hosts_are_asked_for_one_that_takes_writes_unless_said_otherwise() -> None:
    assert address("postgresql://u@h/d").target == "any"
    assert address("postgresql:///d").target == "any"
    assert address("postgresql://u@h1,h2/d").target == "read-write"
    assert address("postgresql://u@h1,h2/d?target_session_attrs=any").target == "any"
    assert address("postgresql://u@h1,h2/d", {"PGTARGETSESSIONATTRS": "primary"}).target == "primary"


def test_variables_of_libpq_stand_in_for_what_the_url_leaves_out_and_are_refused_by_their_name() -> None:
    environ = {"PGHOST": "h", "PGPORT": "7", "PGUSER": "u", "PGPASSWORD": "p", "PGDATABASE": "d"}
    found = address("postgresql://", environ)
    assert (found.hosts, found.user, found.password, found.database) == ((("h", 7),), "u", "p", "d")
    assert address("postgresql://other@h:8", environ).hosts == (("h", 8),)
    wrong = {"PGPORT": "many", "PGSSLMODE": "no-verify", "PGCHANNELBINDING": "require", "PGSERVICE": "s"}
    said = refused("postgresql://u@h/d", wrong)
    assert {sentence.partition(":")[0] for sentence in said} == set(wrong)
    assert set(ENVIRONMENT.values()) <= set(KEY_WORDS)


def test_ssl_true_is_what_libpq_makes_of_it() -> None:
    assert address("postgresql://u@h/d?ssl=true").tls.mode == "require"
    assert address("postgresql://u@h/d?sslrootcert=system").tls.mode == "verify-full"


def test_an_account_without_a_name_must_be_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's account that nobody entered into its passwd."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert "no user is in it" in problem(DATABASE_URL="postgresql://h/d")
    monkeypatch.undo()
    assert address("postgresql://h/d").user == getpass.getuser()


def test_a_password_of_its_own_stands_before_pgpassword(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(PGPASSWORD="other", DATABASE_PASSWORD="p").database.dsn().endswith("password=p")
    monkeypatch.setenv("PGPASSWORD", "other")
    assert address("postgresql://u@h/d?password=p", {"PGPASSWORD": "other"}).password == "p"


def test_a_password_file_must_be_there_and_private(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    (said,) = refused(f"postgresql://u@h/d?passfile={path}")
    assert str(path) in said
    path.write_text("*:*:*:*:p\n")
    path.chmod(0o644)
    assert "chmod 600" in refused(f"postgresql://u@h/d?passfile={path}")[0]
    path.chmod(0o600)
    assert address(f"postgresql://u@h/d?passfile={path}").passfile == path
