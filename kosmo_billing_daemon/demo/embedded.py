"""A server of our own as a child of this process: how it is stopped, killed, frozen and started again."""

import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.children import Account, EmbeddedServiceError

HOST = "127.0.0.1"


class EmbeddedServer(ABC):
    """Without `port` a free one is chosen at the first start and kept, so `url` survives a restart."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    stop_seconds: ClassVar[float]

    def __init__(self, data_dir: Path, log: str, port: int | None, account: Account | None) -> None:
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / log
        self._port = port
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The TCP port on loopback; known once started."""
        if self._port is None:
            raise EmbeddedServiceError(f"{self.name} was not started yet")
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @abstractmethod
    async def start(self) -> None:
        """Start the server and return when it accepts connections."""

    def _spawn(self, environment: Mapping[str, str], *command: str) -> subprocess.Popen[bytes]:
        return children.spawn(
            command,
            log=self.log,
            death_signal=self.stop_signal,
            environment=environment,
            account=self._account,
        )

    async def stop(self) -> None:
        """Stop it in an orderly way; it is killed if that takes too long."""
        if self._process is not None:
            self.thaw()
            await children.stop(self._process, self.stop_signal, self.stop_seconds)
            self._process = None

    async def restart(self) -> None:
        """Stop and start again on the same port."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """SIGKILL the server and its children, as a crash would."""
        if self._process is not None:
            children.kill_tree(self._process)
            self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers."""
        if self._process is not None:
            children.signal_tree(self._process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on; without effect on a running one."""
        if self._process is not None:
            children.signal_tree(self._process, signal.SIGCONT)
