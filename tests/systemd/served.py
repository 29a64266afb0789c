"""``serve`` as systemd starts it: the listening socket as descriptor 3, and somebody who hears its notes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

DEADLINE = 20.0

# systemd names the process that may take the sockets; after exec it is this one. It ignores no signal on its
# behalf, as a nohup before the tests would.
_AS_SYSTEMD = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
handed = [int(number) for number in os.environ["LISTENING"].split()]
for number, descriptor in enumerate(handed):
    os.dup2(descriptor, 3 + number)
names = ":".join(["kosmo-billing.socket", "admin"][: len(handed)])
os.environ |= {"LISTEN_FDS": str(len(handed)), "LISTEN_FDNAMES": names}
os.environ |= {"LISTEN_PID": str(os.getpid()), "WATCHDOG_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "kosmo_billing_daemon", "serve"])
"""


class Manager:
    """Holds the listening socket and hears every note, as systemd does; runs one ``serve`` at a time."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        *,
        uvloop: bool,
        admin: socket.socket | None = None,
    ) -> None:
        self.notes: list[str] = []
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._handed = tuple(one.fileno() for one in (self.listening, admin) if one is not None)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setblocking(False)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._hearing: asyncio.Task[None] | None = None
        shadow = directory / "without-uvloop"
        if not uvloop:
            shadow.mkdir()
            (shadow / "uvloop.py").write_text("raise ImportError\n")
        self._settings = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join([str(shadow), *(path for path in sys.path if path)]),
            "NOTIFY_SOCKET": str(directory / "notify"),
            "LISTENING": " ".join(map(str, self._handed)),
            **settings,
        }

    async def __aenter__(self) -> Self:
        self._notify.bind(self._settings["NOTIFY_SOCKET"])
        self._hearing = asyncio.create_task(self._hear())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)
        self._notify.close()
        self.listening.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    async def start(self) -> None:
        """Start it and return when it says that it is ready."""
        heard = len(self.notes)
        self._launch()
        await self.until(lambda: "READY=1" in self.notes[heard:], "ready")

    def _launch(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter
                [sys.executable, "-c", _AS_SYSTEMD],
                env=self._settings,
                pass_fds=self._handed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end and return its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        return await asyncio.to_thread(process.wait, DEADLINE)

    async def until(self, fact: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not fact():
            assert self._process is None or self._process.poll() is None, self.log
            assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}\n{self.notes}\n{self.log}"
            await asyncio.sleep(0.01)

    async def _hear(self) -> None:
        while True:
            note = await asyncio.get_running_loop().sock_recv(self._notify, 4096)
            self.notes += note.decode().splitlines()
