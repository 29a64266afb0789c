"""A clustered broker that is not Mosquitto: aedes on two nodes that share a Redis (MQTT 3.1.1)."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from tests.support.mosquitto import eventually, free_port
from tests.support.node import node_modules

HERE = Path(__file__).parent


class AedesNode:
    """One node; what it has it shares with the others of its cluster."""

    host = "127.0.0.1"

    def __init__(self, cluster: "AedesCluster", name: str) -> None:
        self.name = name
        self.port = free_port()
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        program = ["node", str(HERE / "node.cjs"), str(self._cluster.modules), str(self._cluster.socket)]
        self._process = self._cluster.launch([*program, str(self.port), self.name], self.name)
        await eventually(lambda: "listening" in self._cluster.log(self.name), self.name)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            (self._cluster.directory / f"{self.name}.log").unlink()


class AedesCluster:
    """Two nodes and their Redis, which keeps everything in memory alone."""

    def __init__(self) -> None:
        self.modules = node_modules(HERE / "package.json")
        self._folder = TemporaryDirectory(prefix="aedes-", ignore_cleanup_errors=True)
        self.directory = Path(self._folder.name)
        self.socket = self.directory / "redis.sock"
        self.one, self.two = AedesNode(self, "one"), AedesNode(self, "two")
        self._redis: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        redis = shutil.which("redis-server")
        assert redis is not None, "redis-server is missing; tests/run installs it"
        self._redis = self.launch(
            [redis, "--port", "0", "--unixsocket", str(self.socket), "--save", ""], "redis"
        )
        try:
            await eventually(self.socket.exists, "redis")
            await asyncio.gather(self.one.start(), self.two.start())
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def forget(self) -> None:
        """Lose everything: both nodes die, and the Redis with them comes back empty."""
        for node in (self.one, self.two):
            node.kill()
        client = shutil.which("redis-cli")
        assert client is not None
        done = await asyncio.create_subprocess_exec(
            client, "-s", str(self.socket), "FLUSHALL", stdout=subprocess.DEVNULL
        )
        assert await done.wait() == 0
        await asyncio.gather(self.one.start(), self.two.start())

    def launch(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  our own words
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}
            )

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def _end(self) -> None:
        for node in (self.one, self.two):
            node.kill()
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait()
        self._folder.cleanup()
