"""The installed command under sudo: as the service, with the service's own settings, for a named person.

Each test has mounts of its own: users, sudoers, /etc/kosmo-billing and /opt are as on an installed host.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import pytest
import typer.main

from kosmo_billing_daemon.cli import app
from tests.support.daemon import KEY, STORE, WEBHOOK_SECRET

ROOT = Path(__file__).parents[2]
COMMAND = "/opt/kosmo-billing/command/kosmo-billing"
SERVICE, MALLORY = "kosmo-billing:x:64001:64001", "mallory:x:64002:64002"
KEPT = {"PATH", "HOME", "USER", "LOGNAME", "KOSMO_BILLING_CALLER", "ENV_FILE", "CREDENTIALS_DIRECTORY"}
NEEDED = sorted({sys.base_prefix, sys.prefix, str(ROOT)})

# The interpreter may lie where only root gets: it is shown to others without opening anything else.
_MOUNTS = """
set -eu
mount --make-rprivate /
number=0
for path in $NEEDED; do number=$((number + 1)); mkdir -p "$HOST/keep/$number"
    mount --bind "$path" "$HOST/keep/$number"; done
for path in $NEEDED; do
    closed=$path above=$path
    while [ "$above" != / ]; do
        above=$(dirname "$above")
        [ "$(($(stat -c 0%a "$above") & 1))" = 1 ] || closed=$above
    done
    [ "$closed" = "$path" ] || mount -t tmpfs -o mode=755 tmpfs "$closed"
done
number=0
for path in $NEEDED; do number=$((number + 1)); mkdir -p "$path"
    mount --bind "$HOST/keep/$number" "$path"; done
mount --bind "$HOST/etc" /etc
mount --bind "$HOST/opt" /opt
"""
# What runs instead of the interpreter writes down who it is and what it was given.
_PYTHON = """#!/bin/sh
{{ /usr/bin/id -un; ulimit -c; /usr/bin/env -0 | tr '\\n\\0' ' \\n'; }} >>{host}/seen
exec {python} "$@"
"""


@dataclass
class Host:
    """A host on which the package is installed, and ``mallory`` may run its command with sudo."""

    directory: Path

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run lines of a root shell; ``as_mallory`` stands before what she types."""
        prepared = 'as_mallory() { setpriv --reuid=mallory --regid=64002 --clear-groups -- "$@"; }\n'
        return subprocess.run(  # noqa: S603  our own words
            ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", f"{_MOUNTS}{prepared}set +e\n{script}"],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOST": str(self.directory),
                "NEEDED": " ".join(NEEDED),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def seen(self) -> list[str]:
        return (self.directory / "seen").read_text().splitlines()


@pytest.fixture(scope="module")
def installed(module_database_url: str) -> Iterator[Host]:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("only root can install a command for sudo")
    directory = Path(tempfile.mkdtemp(prefix="kosmo-host-"))
    directory.chmod(0o755)
    made = Host(directory)
    try:
        shutil.copytree("/etc", directory / "etc", symlinks=True, ignore_dangling_symlinks=True)
        for name, sep in (("passwd", ":::/nonexistent:/bin/sh"), ("group", "")):
            with (directory / "etc" / name).open("a") as accounts:
                for account in (SERVICE, MALLORY):
                    accounts.write(account + sep + "\n" if sep else account.rpartition(":")[0] + ":\n")
        with (directory / "etc" / "shadow").open("a") as shadow:
            shadow.write("mallory:*:19000:0:99999:7:::\n")
        sudoers = directory / "etc" / "sudoers.d" / "kosmo-billing"
        sudoers.parent.mkdir(exist_ok=True)
        sudoers.write_text(f"mallory ALL=(root) NOPASSWD: {COMMAND}\n")
        sudoers.chmod(0o440)
        etc = directory / "etc" / "kosmo-billing"
        (etc / "credentials").mkdir(mode=0o700, parents=True)
        (etc / "credentials" / "BTCPAY_API_KEY").write_text(KEY)
        (etc / "credentials" / "WEBHOOK_SECRET").write_text(WEBHOOK_SECRET)
        settings = f"BTCPAY_URL=http://127.0.0.1:9\nBTCPAY_STORE_ID={STORE}\nMQTT_PORT=9\nDATABASE_URL={module_database_url}\n"
        (etc / "kosmo-billing.env").write_text(settings)
        for place, text in (
            ("command/kosmo-billing", (ROOT / "systemd" / "kosmo-billing").read_text()),
            ("venv/bin/python", _PYTHON.format(host=directory, python=sys.executable)),
        ):
            file = directory / "opt" / "kosmo-billing" / place
            file.parent.mkdir(parents=True)
            file.write_text(text)
            file.chmod(0o755)
        (directory / "seen").touch()
        (directory / "seen").chmod(0o666)
        if (probe := made.run("exit 0")).returncode != 0:
            pytest.skip(f"no mounts of our own here: {probe.stderr}")
        yield made
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def host(installed: Host) -> Host:
    """The host of all tests; nothing of this test was seen yet."""
    (installed.directory / "seen").write_text("")
    return installed


@pytest.fixture
def mine() -> Iterator[socket.socket]:
    """Somebody else's server, to which nothing of the service's may ever come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server
        with pytest.raises(BlockingIOError):
            server.accept()


def sudo() -> str:
    if shutil.which("sudo") is None:
        pytest.skip("sudo is not installed")
    return f"as_mallory sudo -n {COMMAND}"


def test_root_never_runs_the_program_whatever_stands_on_the_line(host: Host) -> None:
    done = host.run(f"for words in version 'user grant --help' --version; do {COMMAND} $words; done")
    assert (done.returncode, done.stderr) == (0, "")
    who = [line for line in host.seen if "=" not in line]
    assert who == ["kosmo-billing", "0"] * 3
    assert list(Path("/run").glob("kosmo-billing-command.*")) == []


def test_of_the_callers_environment_nothing_counts(host: Host, mine: socket.socket) -> None:
    """As with sudo -E, for whom a rule allows it."""
    url = f"http://127.0.0.1:{mine.getsockname()[1]}"
    evil = host.directory / "evil"
    evil.mkdir()
    for name in ("sitecustomize", "typer", "kosmo_billing_daemon"):
        (evil / f"{name}.py").write_text("raise SystemExit('code of the caller ran')")
    (evil / "env").write_text(
        f"BTCPAY_URL={url}\nBTCPAY_STORE_ID=x\nDATABASE_URL=postgresql://127.0.0.1:9/x\n"
    )
    settings = {
        "ENV_FILE": f"{evil}/env",
        "CREDENTIALS_DIRECTORY": str(evil),
        "BTCPAY_URL": url,
        "DATABASE_URL": "postgresql://127.0.0.1:9/x",
        "MQTT_HOST": "192.0.2.1",
        "PLANS_FILE": f"{evil}/env",
        "PYTHONPATH": str(evil),
        "PYTHONHOME": str(evil),
        "PYTHONSTARTUP": f"{evil}/typer.py",
        "SSLKEYLOGFILE": f"{evil}/keys",
        "SSL_CERT_FILE": f"{evil}/env",
        "PGPASSFILE": f"{evil}/env",
        "PGSSLROOTCERT": f"{evil}/env",
        "HTTPS_PROXY": url,
        "HTTP_PROXY": url,
        "ALL_PROXY": url,
        "HOME": str(evil),
        "TMPDIR": str(evil),
        "program": f"{evil}/program",
        "etc": str(evil),
        "copies": str(evil),
        "ENV": f"{evil}/env",
        "LINES_OF": "a\nPATH=x",
        "KOSMO_BILLING_CALLER": "somebody else",
    }
    done = host.run(
        f"{COMMAND} webhook list; {COMMAND} user grant {uuid4()} wanderer --reason r --json", **settings
    )
    assert "127.0.0.1:9" in done.stderr, done
    assert json.loads(done.stdout)["status"] == "active", done
    assert {line.partition("=")[0] for line in host.seen if "=" in line} - {"_", "PWD", "OLDPWD"} <= KEPT
    assert "KOSMO_BILLING_CALLER=root" in host.seen


def test_no_command_takes_a_file_of_the_caller(host: Host, mine: socket.socket) -> None:
    (host.directory / "mine").write_text(f"BTCPAY_URL=http://127.0.0.1:{mine.getsockname()[1]}\n")
    lines = (f"webhook list --env-file={host.directory}/mine", "-- demo --port 0")
    done = host.run("\n".join(f"{sudo()} {line}; echo $?" for line in lines))
    assert done.stdout.split() == ["2", "1"], done
    assert "under sudo only the service" in done.stderr
    assert "run it without sudo" in done.stderr
    assert "Traceback" not in done.stderr


def commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command by its words."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


PATHS = [
    pytest.param(command, parameter, id=f"{words} {parameter.opts[0]}")
    for words, command in commands(typer.main.get_command(app))
    for parameter in command.params
    if Path in get_args(get_type_hints(command.callback).get(parameter.name))
]


def test_there_are_options_that_name_files() -> None:
    assert {str(one.id) for one in PATHS} >= {
        "serve --env-file",
        "check --gateway-password-file",
        "watch --password-file",
        "webhook register --secret-file",
    }


@pytest.mark.parametrize(("command", "parameter"), PATHS)
def test_no_option_takes_a_file_of_the_caller(
    command: Any, parameter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed command sets this variable, whatever the caller has in the environment."""
    line = ["/etc/passwd"] if parameter.param_type_name == "argument" else [parameter.opts[0], "/etc/passwd"]
    monkeypatch.setenv("KOSMO_BILLING_CALLER", "mallory")
    with pytest.raises(
        typer.BadParameter, match="under sudo only the service's own settings and files count"
    ):
        command.make_context(command.name, line)


def test_the_audit_names_who_called_sudo(host: Host) -> None:
    user = uuid4()
    done = host.run(
        f"{sudo()} user grant {user} wanderer --reason 'ticket 7' >/dev/null;"
        f" {sudo()} user show {user} --json"
    )
    assert done.returncode == 0, done
    (entry,) = json.loads(done.stdout)["audit"]
    assert (entry["who"], entry["reason"]) == ("mallory", "ticket 7")


def test_a_password_comes_in_on_standard_input(host: Host) -> None:
    done = host.run(
        f"echo of-the-gateway | {sudo()} check --gateway-username gateway-1 --gateway-password-file -"
    )
    assert done.returncode == 1
    assert "✓ database PostgreSQL" in done.stdout
