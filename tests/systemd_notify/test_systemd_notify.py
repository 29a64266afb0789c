import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kosmo_billing_daemon.runtime import systemd_notify


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The receiving end of ``NOTIFY_SOCKET``."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@kosmo-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield receiver


def test_each_message_is_what_systemd_expects(systemd: socket.socket) -> None:
    systemd_notify.ready("serving")
    assert systemd.recv(1000) == b"READY=1\nSTATUS=serving"
    systemd_notify.status("degraded: broker away")
    assert systemd.recv(1000) == b"STATUS=degraded: broker away"
    systemd_notify.watchdog()
    assert systemd.recv(1000) == b"WATCHDOG=1"
    systemd_notify.stopping()
    assert systemd.recv(1000) == b"STOPPING=1\nSTATUS=stopping"


def test_a_status_adds_no_line(systemd: socket.socket) -> None:
    systemd_notify.status("a\nREADY=1\r\nüb")
    assert systemd.recv(1000).decode() == "STATUS=a READY=1 üb"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "relative", "vsock:2:1"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert systemd_notify.notify(ready=1) is False


@pytest.mark.parametrize(
    ("microseconds", "process", "seconds"),
    [
        ("30000000", "us", 30.0),
        ("30000000", None, 30.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_ours_or_there_is_none(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, process: str | None, seconds: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", process)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "us" else value)
    assert systemd_notify.watchdog_interval() == seconds


_TAKES_SOCKETS = """
import os, socket
from kosmo_billing_daemon.runtime.systemd_notify import listen_sockets
with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
    expected = [first.getsockname(), second.getsockname()]
    handed = [os.dup(first.fileno()), os.dup(second.fileno())]
    first_copy, second_copy = (os.dup2(fd, 60 + n) for n, fd in enumerate(handed))
    os.closerange(3, 60)
    first.detach(), second.detach()
    os.dup2(60, 3), os.dup2(61, 4)
os.environ |= {"LISTEN_FDS": "2", "LISTEN_PID": "1", "LISTEN_FDNAMES": "http:admin"}
assert listen_sockets() == [], "sockets of another process"
assert "LISTEN_FDS" in os.environ
os.environ["LISTEN_PID"] = str(os.getpid())
names, taken = zip(*listen_sockets())
assert names == ("http", "admin")
assert [one.getsockname() for one in taken] == expected
assert [one.fileno() for one in taken] == [3, 4]
assert not any(one.getblocking() or one.get_inheritable() for one in taken)
assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} & set(os.environ)
assert listen_sockets() == []
for one in taken:
    one.close()
print("taken")
"""


def test_listening_sockets_are_taken_once_by_the_process_they_are_for() -> None:
    """In a process of its own, since descriptor 3 of this one belongs to somebody."""
    done = subprocess.run(  # noqa: S603  a script of our own
        [sys.executable, "-W", "error", "-c", _TAKES_SOCKETS],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("taken\n", "", 0)
