"""A broker of our own on loopback: Mosquitto where it is installed, else amqtt.

Anonymous, because it listens on loopback only and lives as long as the demo or the test. No process outlives
us, and as root Mosquitto runs as `nobody`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.children import EmbeddedServiceError
from kosmo_billing_daemon.link import Protocol

HOST = "127.0.0.1"
STOP_SECONDS = 10.0
# Debian keeps servers out of an ordinary user's PATH.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
MOSQUITTO_READY = b" running"  # "mosquitto version 2.0.11 running", written when it listens
AMQTT_READY = b"the broker is ready"


class BrokerProgram(StrEnum):
    """Which program serves."""

    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"


class EmbeddedBroker:
    """One broker, a child of this process; `kind` forces the program, otherwise Mosquitto if there is one.

    Without `port` a free one is chosen at the first start and kept, so `url` survives a restart.
    `extra` are further lines of Mosquitto's configuration; amqtt knows none.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        kind: str | None = None,
        port: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / "broker.log"
        self.kind = (
            BrokerProgram(kind)
            if kind
            else BrokerProgram.MOSQUITTO
            if find_mosquitto()
            else BrokerProgram.AMQTT
        )
        self._port = port
        self._extra = tuple(extra)
        self._account = children.unprivileged_account() if self.kind is BrokerProgram.MOSQUITTO else None
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The TCP port on loopback; known once started."""
        if self._port is None:
            raise EmbeddedServiceError("the broker was not started yet")
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def protocol(self) -> Protocol:
        """The newest MQTT version it speaks."""
        return Protocol.V5 if self.kind is BrokerProgram.MOSQUITTO else Protocol.V311

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    async def start(self) -> None:
        """Start the broker and return when it accepts connections."""
        if self.pid is not None:
            return
        children.prepare_data_dir(self.data_dir, self._account)
        log_start = children.log_size(self.log)
        marker = MOSQUITTO_READY if self.kind is BrokerProgram.MOSQUITTO else AMQTT_READY
        self._process, self._port = await children.start_listening(
            self.kind,
            self._mosquitto if self.kind is BrokerProgram.MOSQUITTO else self._amqtt,
            lambda _: marker in children.log_since(self.log, log_start),
            log=self.log,
            port=self._port,
        )

    async def stop(self) -> None:
        """Stop the broker; Mosquitto writes its sessions and retained messages to disk first."""
        if self._process is not None:
            await children.stop(self._process, signal.SIGTERM, STOP_SECONDS)
            self._process = None

    async def restart(self) -> None:
        """Stop and start again on the same port."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """SIGKILL the broker: what it acknowledged since its last save, every 60 s, is lost."""
        if self._process is not None:
            children.kill_tree(self._process)
            self._process = None

    def freeze(self) -> None:
        """Stop the broker in its tracks: connections stay open and nothing answers."""
        if self._process is not None:
            children.signal_tree(self._process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        if self._process is not None:
            children.signal_tree(self._process, signal.SIGCONT)

    def _mosquitto(self, port: int) -> subprocess.Popen[bytes]:
        program = find_mosquitto()
        if program is None:
            raise EmbeddedServiceError("mosquitto is not installed")
        store = self.data_dir / "store"
        children.own_directory(store, self._account)
        configuration = self.data_dir / "mosquitto.conf"
        lines = (
            f"listener {port} {HOST}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {store}/",
            "autosave_interval 60",
            "set_tcp_nodelay true",  # else bursts wait 40 ms for Nagle
            "max_queued_messages 100000",  # the default truncates wildcard subscriptions at 1000
            "max_inflight_messages 100",
            "max_packet_size 131072",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            "log_timestamp_format %Y-%m-%dT%H:%M:%S",
            *self._extra,
        )
        configuration.write_text("".join(f"{line}\n" for line in lines))
        configuration.chmod(0o644)
        return self._spawn(program, "-c", str(configuration))

    def _amqtt(self, port: int) -> subprocess.Popen[bytes]:
        return self._spawn(
            sys.executable, "-m", "kosmo_billing_daemon.demo.amqtt_broker", "--port", str(port)
        )

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        return children.spawn(
            command,
            log=self.log,
            death_signal=signal.SIGTERM,
            environment={
                "PATH": os.defpath,
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            account=self._account,
        )


def find_mosquitto() -> str | None:
    """The path of the installed Mosquitto, if any."""
    return shutil.which("mosquitto", path=SEARCH_PATH)
