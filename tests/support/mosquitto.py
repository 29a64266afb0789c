"""A real mosquitto on a free port of its own, which a test may kill, freeze, restart and reconfigure."""

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

DEADLINE = 15.0
PORTS = (20_000, 32_000)  # below Linux's ephemeral range, so no outgoing connection takes it during a restart
ATTEMPTS = 20


class Mosquitto:
    """One broker; `async with` starts it and removes everything afterwards.

    With `users` (name to password) nobody is anonymous; `acl` is the text of its acl_file; `lines` go
    below the listener.
    """

    def __init__(
        self,
        *,
        persistence: bool = False,
        autosave_interval: int = 1800,
        acl: str | None = None,
        users: Mapping[str, str] | None = None,
        max_queued_messages: int | None = None,
        max_inflight_messages: int | None = None,
        lines: Sequence[str] = (),
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._persistence = persistence
        self._autosave_interval = autosave_interval
        self._acl = acl
        self._users = dict(users or {})
        self._max_queued_messages = max_queued_messages
        self._max_inflight_messages = max_inflight_messages
        self._lines = tuple(lines)
        self._directory = TemporaryDirectory(prefix="mosquitto-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def directory(self) -> Path:
        """Where its files are; `mosquitto.db` appears here when it saves."""
        return Path(self._directory.name)

    @property
    def log(self) -> str:
        """Everything it has logged, over all its starts."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self) -> None:
        """Start it and return when it answers; the port stays the same from the first start on."""
        assert self._process is None, "already running"
        program = _program("mosquitto")
        chosen_before = self.port
        for _ in range(ATTEMPTS):
            self.port = chosen_before or free_port()
            self._write_files()
            log_from = len(self.log)
            self._process = self._spawn(program)
            if await self._ready(log_from):
                return
            self._process = None
            if "Address already in use" not in self.log[log_from:]:
                break
        raise RuntimeError(f"mosquitto did not start:\n{self.log[-2000:]}")

    def kill(self) -> None:
        """SIGKILL: nothing is saved."""
        self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM: it saves and disconnects everybody."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, DEADLINE)
        self._process = None

    async def restart(self) -> None:
        """Stop it and start it again on the same port."""
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """SIGSTOP: the kernel still takes connections, nobody answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    async def reload(self, *, acl: str | None = None, users: Mapping[str, str] | None = None) -> None:
        """SIGHUP, after replacing the access list or the users if given; returns when it has read them."""
        if acl is not None:
            assert self._acl is not None, "started without an access list"
            self._acl = acl
        if users is not None:
            assert self._users, "started without users"
            self._users = dict(users)
        self._write_files()
        reloads = self.log.count("Reloading config")
        self._running().send_signal(signal.SIGHUP)
        await eventually(lambda: self.log.count("Reloading config") > reloads, "reload")

    async def save(self) -> None:
        """SIGUSR1: write the persistent state now; returns when it is on disk."""
        saves = self.log.count("Saving in-memory database")
        self._running().send_signal(signal.SIGUSR1)
        await eventually(lambda: self.log.count("Saving in-memory database") > saves, "save")
        await eventually(lambda: not (self.directory / "mosquitto.db.new").exists(), "save")

    def wipe(self) -> None:
        """Remove its saved state; it must not be running."""
        assert self._process is None, "still running"
        (self.directory / "mosquitto.db").unlink(missing_ok=True)

    def remove(self) -> None:
        """End it if it runs and remove its files."""
        if self._process is not None:
            self._end(signal.SIGKILL)
        self._directory.cleanup()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not running"
        return self._process

    def _end(self, number: signal.Signals) -> None:
        process = self._running()
        process.send_signal(number)
        process.wait(DEADLINE)
        self._process = None

    def _spawn(self, program: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  our own words
                [program, "-c", str(self.directory / "mosquitto.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )

    async def _ready(self, log_from: int) -> bool:
        """Whether it came up: its own word first, so that a stranger on the port is not taken for it."""
        process = self._running()
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return False
            if " running" in self.log[log_from:]:
                _, writer = await asyncio.open_connection(self.host, self.port)
                writer.close()
                await writer.wait_closed()
                return True
            await asyncio.sleep(0.01)
        process.kill()
        process.wait(DEADLINE)
        return False

    def _write_files(self) -> None:
        directory = self.directory
        config = [
            "log_dest stderr",
            *(f"log_type {kind}" for kind in ("error", "warning", "notice", "information")),
            f"persistence {'true' if self._persistence else 'false'}",
            f"persistence_location {directory}/",
            f"autosave_interval {self._autosave_interval}",
            "set_tcp_nodelay true",  # otherwise PUBACKs of a burst wait 40 ms for the kernel
            f"allow_anonymous {'false' if self._users else 'true'}",
        ]
        if os.geteuid() == 0:
            config.append("user root")  # it would become `mosquitto`, which may not write here
        if self._max_queued_messages is not None:
            config.append(f"max_queued_messages {self._max_queued_messages}")
        if self._max_inflight_messages is not None:
            config.append(f"max_inflight_messages {self._max_inflight_messages}")
        if self._acl is not None:
            _write_private(directory / "acl", self._acl + "\n")
            config.append(f"acl_file {directory / 'acl'}")
        if self._users:
            passwords = directory / "passwords"
            _write_private(passwords, "".join(f"{name}:{word}\n" for name, word in self._users.items()))
            subprocess.run(  # noqa: S603  our own words
                [_program("mosquitto_passwd"), "-U", str(passwords)], check=True, capture_output=True
            )
            config.append(f"password_file {passwords}")
        config += [f"listener {self.port} {self.host}", *self._lines]
        _write_private(directory / "mosquitto.conf", "\n".join(config) + "\n")


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError(f"{name} is missing: install Mosquitto (Debian: apt install mosquitto)")
    return found


def free_port() -> int:
    """A port nobody listens on at the moment; a clash between here and there is met by another attempt."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


async def eventually(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.01)
