"""Processes of ours without the half second of imports: forked from one that has imported everything.

A forked process runs the same program from its `__main__` on, with arguments, environment, directory and
streams of its own, and ends as any process: exit code, signals, warnings about what it left open. Only the
start of the interpreter and the reading of our modules are missing; tests of those start the real thing.

`python -m tests.support.fork_server CONTROL` is the server. One message on the socket CONTROL asks for one
process; its number comes back at once, and its exit code at its end.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import walk_packages

PACKAGE = "kosmo_billing_daemon"
_LONGEST_REQUEST = 128 * 1024  # within the default buffer of a socket
_NUMBER = struct.Struct("i")


class ForkedProcess:
    """What tests use of `subprocess.Popen`, for a process that somebody else is the parent of."""

    def __init__(self, life: int) -> None:
        self._life: int | None = life
        self.returncode: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code; raises `subprocess.TimeoutExpired`."""
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        if self._life is not None:
            ended = select.poll()
            ended.register(self._life, select.POLLIN)
            if ended.poll(None if seconds is None else seconds * 1000):
                self.returncode = self._read()
                os.close(self._life)
                self._life = None
        return self.returncode

    def _read(self) -> int:
        assert self._life is not None
        told = os.read(self._life, _NUMBER.size)
        assert told, "the fork server has died"
        (number,) = _NUMBER.unpack(told)
        return int(number)


class ForkServer:
    """Starts processes that all have the environment that an interpreter reads at its start in common."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._common = _read_at_start(environment)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter
                [sys.executable, "-m", __spec__.name, str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def can_start(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with this environment may begin as a copy of the server."""
        return _read_at_start(environment) == self._common

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        streams: tuple[int, int, int],
        directory: str,
    ) -> ForkedProcess:
        """Start `python -m program`; `streams` become its standard input, output and error."""
        wanted = json.dumps([program, list(arguments), dict(environment), directory])
        mine, theirs = os.pipe()
        try:
            socket.send_fds(self._control, [wanted.encode()], [*streams, theirs])
        finally:
            os.close(theirs)
        return ForkedProcess(mine)

    def close(self) -> None:
        """End the server, and with it whatever it started."""
        self._control.close()
        self._process.wait()


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """What the linker, the C library and the interpreter read before anything of ours runs."""
    early = ("LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "PYTHON")
    return {name: value for name, value in environment.items() if name.startswith(early)}


def _until_forked(control: int) -> tuple[str, list[str], dict[str, str], str]:
    """Fork at each request and return in the child, which holds nothing but its own streams."""
    running: dict[int, tuple[int, int]] = {}  # by descriptor of the process: its number, and who waits for it
    awaited = select.poll()
    awaited.register(control, select.POLLIN)
    while True:
        for ready, _ in awaited.poll():
            if ready != control:
                awaited.unregister(ready)
                pid, life = running.pop(ready)
                _, status = os.waitpid(pid, 0)
                os.close(ready)
                _tell(life, os.waitstatus_to_exitcode(status))
                os.close(life)
                continue
            with socket.socket(fileno=os.dup(control)) as asked:
                message, descriptors, *_ = socket.recv_fds(asked, _LONGEST_REQUEST, 4)
            if not message:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                sys.exit()
            *streams, life = descriptors
            pid = os.fork()
            if pid == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                program, arguments, environment, directory = json.loads(message)
                return program, arguments, environment, directory
            for stream in streams:
                os.close(stream)
            _tell(life, pid)
            process = os.pidfd_open(pid)
            running[process] = (pid, life)
            awaited.register(process, select.POLLIN)


def _tell(life: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked has ended
        os.write(life, _NUMBER.pack(number))


def _import_everything() -> None:
    """Import the package but the demo, and what it imports only when it is needed."""
    package = import_module(PACKAGE)
    for module in walk_packages(package.__path__, f"{PACKAGE}."):
        if not module.name.endswith("__main__") and not module.name.startswith(f"{PACKAGE}.demo"):
            import_module(module.name)
    for lazy in ("uvloop", "jinja2"):
        import_module(lazy)


def _main(control: int) -> None:
    _import_everything()
    gc.collect()
    gc.freeze()  # what is here already stays shared, and no collection of a child looks at it
    program, arguments, environment, directory = _until_forked(control)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(directory)
    sys.argv[1:] = arguments
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
