"""What can be known of the units without booting: systemd's judgement, and that the parts fit together."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kosmo_billing_daemon.assembly.console import DESCRIPTOR
from kosmo_billing_daemon.settings import admin_listen
from tests.cli import man

SYSTEMD = Path(__file__).parents[2] / "systemd"
SERVICE = (SYSTEMD / "kosmo-billing.service").read_text()
SOCKET = (SYSTEMD / "kosmo-billing.socket").read_text()
ADMIN_SOCKET = (SYSTEMD / "kosmo-billing-admin.socket").read_text()
PYTHON = "/opt/kosmo-billing/venv/bin/python"
BOTH_SOCKETS = "kosmo-billing.socket kosmo-billing-admin.socket"
MOST_EXPOSED = 10  # tenths: "systemd-analyze security" may say 1.0


def values(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{re.escape(name)}=(.*)$", unit, re.MULTILINE)


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        assert os.environ.get("CI") != "true", "CI needs systemd-analyze (Debian: apt install systemd)"
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they are installed, but for an interpreter that exists here too."""
    (tmp_path / "kosmo-billing.service").write_text(SERVICE.replace(PYTHON, "/bin/true"))
    (tmp_path / "kosmo-billing.socket").write_text(SOCKET)
    (tmp_path / "kosmo-billing-admin.socket").write_text(ADMIN_SOCKET)
    shutil.copytree(SYSTEMD / "kosmo-billing.service.d", tmp_path / "kosmo-billing.service.d")
    return tmp_path


def judged(*command: str) -> tuple[int, str]:
    done = subprocess.run(  # noqa: S603  systemd's own tool on our own files
        command, capture_output=True, text=True, check=False, timeout=30, env={**os.environ, "LC_ALL": "C"}
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "unit", ["kosmo-billing.service", "kosmo-billing.socket", "kosmo-billing-admin.socket"]
)
def test_systemd_finds_nothing_to_say(analyze: str, installed: Path, unit: str) -> None:
    # The exit status is 0 even for unknown names and values; only silence is approval.
    assert judged(analyze, "verify", "--man=no", str(installed / unit)) == (0, "")


@pytest.mark.parametrize("reach", ["this host alone", "as shipped"])
def test_the_service_is_hardly_exposed(analyze: str, installed: Path, reach: str) -> None:
    if reach == "this host alone":
        shutil.rmtree(installed / "kosmo-billing.service.d")
    options = ("--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}")
    code, told = judged(analyze, "security", *options, str(installed / "kosmo-billing.service"))
    assert code == 0, told


@pytest.mark.parametrize(
    "name",
    [
        "kosmo-billing.service",
        "kosmo-billing.service.d/reach.conf",
        "kosmo-billing.socket",
        "kosmo-billing-admin.socket",
        "kosmo-billing.sysusers.conf",
        "kosmo-billing.tmpfiles.conf",
    ],
)
def test_no_line_ends_in_a_comment(name: str) -> None:
    """systemd takes such a comment for a part of the value."""
    lines = (SYSTEMD / name).read_text().splitlines()
    assert [line for line in lines if "#" in line and not line.startswith("#")] == []


def test_no_core_dump_holds_the_secrets() -> None:
    assert values(SERVICE, "LimitCORE") == ["0"]


def test_outages_of_others_stop_nothing() -> None:
    assert values(SERVICE, "Requires") == values(SERVICE, "BindsTo") == values(SERVICE, "PartOf") == []
    assert "postgresql.service mosquitto.service" in values(SERVICE, "After")[0]


def test_one_command_enables_all_units() -> None:
    assert values(SERVICE, "Also") == [BOTH_SOCKETS]
    assert values(SERVICE, "Wants")[-1] == values(SERVICE, "After")[-1] == BOTH_SOCKETS
    # A socket that follows the service's restarts would drop what waits in it.
    assert values(SOCKET, "PartOf") == values(SOCKET, "BindsTo") == values(SOCKET, "FlushPending") == []


def test_the_console_has_a_socket_of_its_own_that_only_this_host_reaches() -> None:
    assert values(ADMIN_SOCKET, "FileDescriptorName") == [DESCRIPTOR]
    assert values(ADMIN_SOCKET, "ListenStream") == [admin_listen.DEFAULT.path]
    assert values(ADMIN_SOCKET, "SocketGroup") == values(SERVICE, "Group")
    assert values(ADMIN_SOCKET, "SocketMode") == ["0660"]
    # It would be removed with the service, and the socket in it.
    assert values(SERVICE, "RuntimeDirectory") == []


def test_bad_settings_are_not_tried_again() -> None:
    assert values(SERVICE, "RestartPreventExitStatus") == ["78"]
    assert f"systemctl --no-block stop {BOTH_SOCKETS}" in values(SERVICE, "ExecStopPost")[0]


def test_the_parts_name_the_same_things() -> None:
    builder = (SYSTEMD / "build-deb").read_text()
    sysusers = (SYSTEMD / "kosmo-billing.sysusers.conf").read_text()
    tmpfiles = (SYSTEMD / "kosmo-billing.tmpfiles.conf").read_text()
    command = (SYSTEMD / "kosmo-billing").read_text()
    (user,) = values(SERVICE, "User")
    (credentials,) = values(SERVICE, "LoadCredential")
    (settings,) = values(SERVICE, "EnvironmentFile")
    (home,) = values(SERVICE, "StateDirectory")
    assert values(SERVICE, "ExecStart")[0].startswith(PYTHON + " ")
    assert values(SERVICE, "ExecStart")[0].endswith(" -m kosmo_billing_daemon serve")
    assert f'u {user} - "Kosmo billing daemon" /var/lib/{home}' in sysusers
    assert f"d {credentials.removeprefix('kosmo:')} 0700 root root -" in tmpfiles
    assert credentials.removeprefix("kosmo:") in values(SERVICE, "InaccessiblePaths")[0]
    assert settings.removeprefix("-") == "/etc/kosmo-billing/kosmo-billing.env"
    assert "config/kosmo-billing.env usr/share/kosmo-billing/kosmo-billing.env" in builder
    assert "etc=/etc/kosmo-billing\n" in command
    assert f"--reuid={user} --regid={user}" in command
    assert f"program={PYTHON}\n" in command
    for name in ("service", "socket", "sysusers.conf", "tmpfiles.conf"):
        assert f"systemd/kosmo-billing.{name} usr/lib/" in builder
    assert "systemd/kosmo-billing-admin.socket usr/lib/" in builder


@pytest.mark.parametrize(
    "script", ["kosmo-billing", "build-deb", "debian/postinst", "debian/prerm", "debian/postrm"]
)
def test_scripts_are_executable_and_read_by_their_shell(script: str) -> None:
    path = SYSTEMD / script
    shell = path.read_text().partition("\n")[0].removeprefix("#!").split()[-1].rpartition("/")[2]
    assert os.access(path, os.X_OK)
    assert judged(shell, "-n", str(path)) == (0, "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--suite", "sarge"), "unknown suite 'sarge': choose bookworm or trixie"),
        (("--suite", "trixie", "--arch", "armhf"), "no wheels for 'armhf': choose amd64 or arm64"),
        (("--revision",), "--revision needs a value"),
        (("--revision", "one"), "--revision takes a number"),
    ],
)
def test_a_package_nobody_can_build_is_refused_at_once(options: tuple[str, ...], told: str) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no Debian here")
    code, said = judged(str(SYSTEMD / "build-deb"), *options)
    assert (code, said) == (1, f"build-deb: {told}\n")


def test_the_man_page_tells_of_the_commands_there_are() -> None:
    """After a change of the command line: python -m tests.cli.man."""
    assert man.FILE.read_text("utf-8") == man.page()
