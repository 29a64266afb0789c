"""Child processes of the demo: started without a shell, logged to a file, and never left behind.

A child dies with us, whatever ends us (see `tied_exec`). The kernel ties it to the *thread* that started it,
so start children from one that lives as long as they should: the main thread, as asyncio.run in it does.
"""

import asyncio
import os
import pwd
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kosmo_billing_daemon.demo import tied_exec
from kosmo_billing_daemon.errors import Invalid, KosmoError
from kosmo_billing_daemon.runtime.records import record

POLL_SECONDS = 0.01
START_SECONDS = 30.0
START_ATTEMPTS = 5
KILL_SECONDS = 5.0  # what the kernel needs to bury a SIGKILLed process, generously
PORT_ATTEMPTS = 20
# Below Linux's range for outgoing connections (32768 and up): a port of ours stays free during a restart.
PORT_RANGE = range(20000, 32000)
LOG_TAIL_LINES = 15


class EmbeddedServiceError(KosmoError):
    """An embedded service did not start; the message ends with the tail of its log."""

    code = "embedded_service"


@record
class Account:
    """The user a child runs as, where it may not be root."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Whom a service runs as if we are root: `nobody`; None if we are not root and it runs as we do."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def private_directory(path: Path) -> Path:
    """Return the directory for the demo's data, made if need be; raises ``Invalid`` if it may be prepared.

    Files in it say what is started, so nobody else may have written there, nor be able to swap a directory
    on the way. Its name stands in settings of the services, where a line break would begin another setting.
    """
    if not str(path).isprintable() or '"' in str(path):
        raise Invalid(f"{str(path)!r}: a data directory has a name that can be printed, without quotes")
    try:
        path = path.expanduser().resolve()
        path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        for step in (path, *path.parents):
            found = step.stat()
            if found.st_uid not in (0, os.geteuid()):
                raise Invalid(f"{step} belongs to somebody else: choose a data directory of your own")
            sticky = found.st_mode & stat.S_ISVTX and step != path
            if found.st_mode & stat.S_IWOTH and not sticky:
                raise Invalid(f"{step} can be written by everybody: choose a data directory of your own")
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise Invalid(f"{path} cannot be written: choose another data directory")
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Invalid(f"{path} cannot be the data directory: {why}") from error
    return path


def prepare_data_dir(path: Path, account: Account | None) -> None:
    """Create the data directory of a service that runs as `account`, and see that it gets there.

    Nothing but a directory created here changes its mode: one that closes the way is reported instead.
    """
    if not path.exists():
        # Passed through by the service, listed by nobody but us.
        path.mkdir(mode=0o711 if account else 0o700, parents=True)
    if account:
        for step in (path, *path.parents):
            if not others_may(0o1, step):
                raise EmbeddedServiceError(
                    "started by root, embedded services run as user nobody, and nobody cannot pass through "
                    f"{step}: choose a data directory elsewhere"
                )


def own_directory(path: Path, account: Account | None) -> None:
    """Create a directory the service may write to, if it is not there yet."""
    path.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(path, account.uid, account.gid)


def others_may(right: int, path: Path) -> bool:
    """Whether users other than owner and group have `right` (4 read, 2 write, 1 execute) on `path`."""
    return path.stat().st_mode & right == right


def spawn(
    program: Sequence[str],
    *,
    log: Path,
    death_signal: signal.Signals,
    environment: Mapping[str, str],
    account: Account | None = None,
) -> subprocess.Popen[bytes]:
    """Start `program` (an absolute path and its arguments) with its output appended to `log`."""
    uid, gid = (account.uid, account.gid) if account else (tied_exec.KEEP_IDENTITY,) * 2
    ties = [str(number) for number in (int(death_signal), os.getpid(), uid, gid)]
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  fixed programs, no shell
            [sys.executable, "-I", "-S", tied_exec.__file__, *ties, *program],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd="/",
            # A Ctrl-C in the terminal is for us alone: we stop our children in order.
            start_new_session=True,
        )


async def start_listening(
    name: str,
    start: Callable[[int], subprocess.Popen[bytes]],
    is_ready: Callable[[subprocess.Popen[bytes]], bool],
    *,
    log: Path,
    port: int | None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server on `port` and wait until it is ready; returns it with its port.

    Without `port` a free one is chosen, and another if somebody takes it first.
    """
    for _ in range(1 if port else START_ATTEMPTS):
        candidate = port or free_port()
        log_start = log_size(log)
        process = start(candidate)
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                if is_ready(process):
                    return process, candidate
                await asyncio.sleep(POLL_SECONDS)
        except BaseException:
            kill_tree(process)
            raise
        kill_tree(process)
        if b"address already in use" not in log_since(log, log_start).lower():
            break
    raise EmbeddedServiceError(f"{name} did not start; the end of {log}:\n{tail(log)}")


def log_size(log: Path) -> int:
    """How long `log` is so far."""
    return log.stat().st_size if log.exists() else 0


def log_since(log: Path, start: int) -> bytes:
    """What `log` holds after the first `start` bytes."""
    with log.open("rb") as lines:
        lines.seek(start)
        return lines.read()


async def exited(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether `process` ends within `seconds`; reaps it if so."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


async def stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals, seconds: float) -> None:
    """Ask `process` to end, and end it after `seconds`; one already gone is only reaped."""
    process.send_signal(signal.SIGCONT)  # one that is frozen could not hear the rest
    process.send_signal(stop_signal)
    if not await exited(process, seconds):
        kill_tree(process)


def family(pid: int) -> list[int]:
    """The children of `pid`, by /proc; empty where there is none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        if int(fields[1]) == pid:
            found.append(int(entry.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether `pid` still runs; one that ended and was not reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def signal_tree(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """Signal `process`, then its children."""
    process.send_signal(what)
    _signal(family(process.pid), what)


def _signal(pids: Iterable[int], what: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL `process` and its children, and return when all are gone."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGSTOP)  # so that it starts no child while we collect them
    children = family(process.pid)
    _signal((*children, process.pid), signal.SIGKILL)
    process.wait(KILL_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while any(is_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def free_port() -> int:
    """A loopback TCP port nobody listens on at this moment; the caller retries if it is taken meanwhile."""
    for _ in range(PORT_ATTEMPTS):
        port = random.choice(PORT_RANGE)  # noqa: S311  spreads parallel callers, hides nothing
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmbeddedServiceError(f"no free port among {PORT_ATTEMPTS} tried from {PORT_RANGE}")


def tail(log: Path) -> str:
    """The last lines of `log`, indented for an error message."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "  (no log was written)"
    return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:]) or "  (its log is empty)"


@contextmanager
def temporary_directory(prefix: str, within: str | None = None) -> Iterator[Path]:
    """A directory of ours, removed afterwards, that an unprivileged child of root may pass through.

    ``within`` names where it is made, in place of the system's directory for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as name:
        path = Path(name)
        if os.geteuid() == 0:
            path.chmod(0o711)
        yield path
