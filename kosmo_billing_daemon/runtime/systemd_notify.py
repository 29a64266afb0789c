"""Messages to systemd, and what it hands over: readiness, a status line, heartbeats, sockets.

Without systemd (no ``NOTIFY_SOCKET``) everything here does nothing, so callers never ask where they run.
A message that cannot be sent is dropped: systemd notices silence by itself.
"""

import os
import socket
from contextlib import suppress

_FIRST_SOCKET = 3  # SD_LISTEN_FDS_START


def notify(**state: str | int) -> bool:
    """Send ``NAME=value`` lines; says whether anybody was there to take them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A line break within a value would begin a line of its own.
    lines = [f"{name.upper()}={' '.join(str(value).splitlines())}" for name, value in state.items()]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.setblocking(False)
        connection.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), address)
        return True
    return False


def ready(text: str) -> None:
    """Say that the service is up, and how it is."""
    notify(ready=1, status=text)


def status(text: str) -> None:
    """Set the line that ``systemctl status`` shows."""
    notify(status=text)


def stopping() -> None:
    """Say that the end has begun; no new work is taken."""
    notify(stopping=1, status="stopping")


def watchdog() -> None:
    """Send a heartbeat; only after real progress."""
    notify(watchdog=1)


def watchdog_interval() -> float | None:
    """Return the seconds within which a heartbeat is expected; ``None`` if none is."""
    if not _is_us(os.environ.get("WATCHDOG_PID", str(os.getpid()))):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000


def listen_sockets() -> list[tuple[str, socket.socket]]:
    """Take the listening sockets systemd opened for us, by ``FileDescriptorName=``: once, since the variables
    are removed.
    """
    count, process = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not _is_us(process):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if not count.isdecimal():
        return []
    taken: list[tuple[str, socket.socket]] = []
    for number in range(int(count)):
        descriptor = _FIRST_SOCKET + number
        os.set_inheritable(descriptor, False)
        taken.append((names[number] if number < len(names) else "", socket.socket(fileno=descriptor)))
        taken[-1][1].setblocking(False)
    return taken


def _is_us(process: str) -> bool:
    return process.isdecimal() and int(process) == os.getpid()
