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
from types import MappingProxyType

from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.children import EmbeddedServiceError
from kosmo_billing_daemon.demo.embedded import HOST, EmbeddedServer
from kosmo_billing_daemon.link import Protocol

# Debian keeps servers out of an ordinary user's PATH.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
ENVIRONMENT = MappingProxyType({"PATH": os.defpath, "LC_ALL": "C.UTF-8"})  # nothing of the caller's
MOSQUITTO_READY = b" running"  # "mosquitto version 2.0.11 running", written when it listens
AMQTT_READY = b"the broker is ready"


class BrokerProgram(StrEnum):
    """Which program serves."""

    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"


class EmbeddedBroker(EmbeddedServer):
    """One broker; `kind` forces the program, otherwise Mosquitto if there is one.

    Stopped, Mosquitto writes its sessions and retained messages to disk first. Killed, it loses what it
    acknowledged since its last save, every 60 s. `extra` are further lines of Mosquitto's configuration;
    amqtt knows none.
    """

    name = "the broker"
    stop_signal = signal.SIGTERM
    stop_seconds = 10.0

    def __init__(
        self,
        data_dir: Path,
        *,
        kind: str | None = None,
        port: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        installed = BrokerProgram.MOSQUITTO if find_mosquitto() else BrokerProgram.AMQTT
        self.kind = BrokerProgram(kind or installed)
        self._extra = tuple(extra)
        account = children.unprivileged_account() if self.kind is BrokerProgram.MOSQUITTO else None
        super().__init__(data_dir, "broker.log", port, account)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def protocol(self) -> Protocol:
        """The newest MQTT version it speaks."""
        return Protocol.V5 if self.kind is BrokerProgram.MOSQUITTO else Protocol.V311

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
        return self._spawn(ENVIRONMENT, program, "-c", str(configuration))

    def _amqtt(self, port: int) -> subprocess.Popen[bytes]:
        environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        module = "kosmo_billing_daemon.demo.amqtt_broker"
        return self._spawn(environment, sys.executable, "-m", module, "--port", str(port))


def find_mosquitto() -> str | None:
    """The path of the installed Mosquitto, if any."""
    return shutil.which("mosquitto", path=SEARCH_PATH)
