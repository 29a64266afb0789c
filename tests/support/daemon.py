"""The daemon as a real process, as systemd would start it: settings in the environment, log on a file."""

import asyncio
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

from kosmo_billing_daemon.contract.paths import WEBHOOK
from tests.support.fork_server import ForkedProcess, ForkServer
from tests.support.mosquitto import Mosquitto

DEADLINE = 20.0
PROGRAM = "kosmo_billing_daemon"
STORE = "StoreOne"
KEY = "a1" * 20
WEBHOOK_SECRET = "webhook-secret-of-the-tests"
_LISTENING = re.compile(r"listening on \S+ port (\d+)")


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process of ours: nothing of the caller's but what Python needs."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        # Unclosed resources and coroutines that nobody awaited show up in the log.
        "PYTHONWARNINGS": "always::ResourceWarning,always::RuntimeWarning",
        **settings,
    }


def command(*arguments: str, program: str = PROGRAM) -> list[str]:
    return [sys.executable, "-m", program, *arguments]


Process = subprocess.Popen[bytes] | ForkedProcess


def start_process(
    *arguments: str,
    settings: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
    program: str = PROGRAM,
) -> Process:
    """Start a program of ours, as a copy of one that has imported it unless its environment forbids that."""
    whole = environment(**settings)
    if not _fork_server().can_start(whole):
        return subprocess.Popen(  # noqa: S603  our own interpreter
            command(*arguments, program=program),
            env=whole,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd="/",
        )
    with Path(os.devnull).open("rb") as nothing:
        streams = (nothing.fileno(), stdout.fileno(), stderr.fileno())
        return _fork_server().start(program, arguments, whole, streams=streams, directory="/")


async def run_process(
    *arguments: str, settings: Mapping[str, str], seconds: float = 45.0
) -> tuple[int, str, str]:
    """Run a program of ours to its end; returns its exit code, and what it wrote to its two outputs."""
    with TemporaryFile() as out, TemporaryFile() as err:
        process = start_process(*arguments, settings=settings, stdout=out, stderr=err)
        try:
            code = await asyncio.to_thread(process.wait, seconds)
        finally:
            process.kill()
        return code, _content(out), _content(err)


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@functools.cache
def _fork_server() -> ForkServer:
    return ForkServer(environment())


def settings_for(*, database_url: str, broker: Mosquitto, btcpay_url: str, **more: str) -> dict[str, str]:
    """What an operator would write for these services."""
    return {
        "BTCPAY_URL": btcpay_url,
        "BTCPAY_API_KEY": KEY,
        "BTCPAY_STORE_ID": STORE,
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "DATABASE_URL": database_url,
        "MQTT_HOST": broker.host,
        "MQTT_PORT": str(broker.port),
        "PORT": "0",
        "LOG_FORMAT": "text",
        **more,
    }


class DaemonProcess:
    """One ``kosmo-billing serve``; the port it chooses at its first start is kept."""

    program = PROGRAM

    def __init__(self, directory: Path, settings: Mapping[str, str], name: str = "daemon") -> None:
        self.name = name
        self.leaves_in_order = True  # everything it opened must be closed at its end
        self._settings = {"INSTANCE_NAME": name, **settings}
        self._log = directory / f"{name}.log"
        self._port = 0
        self._process: Process | None = None
        self._log_from = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.remove()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def webhook_url(self) -> str:
        return f"{self.url}{WEBHOOK}"

    @property
    def log(self) -> str:
        """Everything it has logged, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        assert self._process is None, "already running"
        self._log_from = len(self.log)
        settings = {**self._settings, "PORT": str(self._port or self._settings["PORT"])}
        with self._log.open("ab") as log:
            self._process = start_process(
                "serve", settings=settings, stdout=log, stderr=log, program=self.program
            )

    async def start(self, seconds: float = DEADLINE) -> None:
        """Start it and return when it listens."""
        self.launch()
        deadline = time.monotonic() + seconds
        while (found := _LISTENING.search(self.log, self._log_from)) is None:
            assert self._running().poll() is None, f"{self.name} ended at once:\n{self.log}"
            assert time.monotonic() < deadline, f"{self.name} does not listen:\n{self.log}"
            await asyncio.sleep(0.01)
        self._port = int(found.group(1))

    def kill(self) -> None:
        """SIGKILL."""
        process = self._running()
        process.kill()
        process.wait(DEADLINE)
        self._process = None

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    async def ended(self, seconds: float = DEADLINE) -> int:
        """Wait for its end and return its exit code."""
        code = await asyncio.to_thread(self._running().wait, seconds)
        self._process = None
        return code

    async def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = DEADLINE) -> int:
        """Ask it to end; returns its exit code."""
        self.send(number)
        return await self.ended(seconds)

    def remove(self) -> None:
        """End it if it still runs."""
        if self._process is not None:
            self.kill()

    def _running(self) -> Process:
        assert self._process is not None, f"{self.name} is not running"
        return self._process
