"""A gateway as a process that a test may kill at any moment: it records a list of messages and reports them.

Run as a program (`python -m tests.support.gateway NAME PORT STATE MESSAGES RECORDED`). MESSAGES has one JSON
object per line. The number of a line is written to RECORDED after `record` returned, so that the next start
goes on there; the message in between may be recorded twice, under the same id. It ends by itself when
everything is acknowledged.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker
from tests.support.daemon import environment

PACE = 20  # messages between two breaths


class GatewayProcess:
    """One gateway over all its lives; its files are in ``directory``."""

    def __init__(self, directory: Path, name: str, port: int) -> None:
        self.name = name
        self.state = directory / f"{name}.db"
        self.messages = directory / f"{name}.messages"
        self._recorded = directory / f"{name}.recorded"
        self._log = directory / f"{name}.log"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def recorded(self) -> int:
        return _last(self._recorded)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself, which is right only when everything is acknowledged."""
        if self._process is None or self._process.poll() is None:
            return False
        assert self._process.returncode == 0, self.log
        return True

    def launch(self) -> None:
        assert self._process is None, "already running"
        arguments = [self.name, str(self._port), *map(str, (self.state, self.messages, self._recorded))]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter
                [sys.executable, "-m", "tests.support.gateway", *arguments],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def _last(path: Path) -> int:
    """The last number in a file; a line that a kill cut short does not count."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return int(lines[-1]) if lines else 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


async def _main(name: str, port: str, state: str, messages: str, recorded: str) -> None:
    lines = _lines(Path(messages))
    broker = Broker(host="127.0.0.1", port=int(port), client_id=name)
    noted = os.open(recorded, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        async with Gate(broker, Path(state), reporter=name, ack_timeout=3.0) as gate:
            for number in range(_last(Path(recorded)), len(lines)):
                message = json.loads(lines[number])
                gate.record(
                    message["user_id"],
                    message["node_id"],
                    message["message_id"],
                    sent_at=datetime.fromisoformat(message["sent_at"]),
                )
                os.write(noted, b"%d\n" % (number + 1))
                if number % PACE == 0:
                    await asyncio.sleep(0.02)
            while gate.status.unacknowledged:  # noqa: ASYNC110  the gate has no event for it
                await asyncio.sleep(0.02)
    finally:
        os.close(noted)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
