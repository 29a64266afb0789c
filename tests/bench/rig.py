"""The demo's parts for a benchmark, each in a process of its own: PostgreSQL with fsync on, broker, BTCPay
simulator and `kosmo-billing serve`, driven from this process over real sockets."""

import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kosmo_billing_daemon.demo.broker import EmbeddedBroker
from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres

STORE, KEY, SECRET = "BenchStore", "b" * 40, "bench-secret"
PREFIX = "/api/v1/billing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """Where everything is."""

    api: str
    btcpay: str
    broker: EmbeddedBroker
    postgres: EmbeddedPostgres
    pid: int

    @property
    def broker_address(self) -> tuple[str, int]:
        parts = urlsplit(self.broker.url)
        return parts.hostname or "127.0.0.1", parts.port or 1883


@asynccontextmanager
async def rig(**environment: str) -> AsyncIterator[Rig]:
    """Everything up; `environment` goes to the daemon beside what it needs."""
    with temporary_directory("kosmo-bench-") as directory:
        async with (
            EmbeddedPostgres(Path(directory) / "postgres") as postgres,
            EmbeddedBroker(Path(directory) / "broker") as broker,
            _program("kosmo_billing_daemon.demo.btcpay", "--store-id", STORE, "--api-key", KEY) as simulator,
        ):
            btcpay = json.loads(await _line(simulator, b"{"))["url"]
            parts = urlsplit(broker.url)
            settings = {
                "BTCPAY_URL": btcpay,
                "BTCPAY_API_KEY": KEY,
                "BTCPAY_STORE_ID": STORE,
                "WEBHOOK_SECRET": SECRET,
                "DATABASE_URL": postgres.url,
                "MQTT_HOST": parts.hostname or "",
                "MQTT_PORT": str(parts.port),
                "MQTT_PROTOCOL": str(broker.protocol),
                "PORT": "0",
                "LOG_FORMAT": "text",
            }
            async with _program("kosmo_billing_daemon", "serve", **(settings | environment)) as daemon:
                said = (await _line(daemon, b"listening on")).decode()
                api = f"http://127.0.0.1:{said.rpartition(' ')[2].strip()}"
                await _line(daemon, b"connected to the broker")
                drain = asyncio.create_task(_drain(daemon))
                yield Rig(api=api, btcpay=btcpay, broker=broker, postgres=postgres, pid=daemon.pid)
                drain.cancel()


@asynccontextmanager
async def _program(
    module: str, *arguments: str, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], **settings},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _line(process: asyncio.subprocess.Process, wanted: bytes) -> bytes:
    """Return the next line that contains `wanted`."""
    assert process.stdout is not None
    seen = b""
    async with asyncio.timeout(30):
        while line := await process.stdout.readline():
            if wanted in line:
                return line
            seen += line
    raise RuntimeError(f"the process ended: {seen.decode()}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if b" INFO " not in line:
            sys.stderr.buffer.write(line)


def percentiles(seconds: Sequence[float]) -> str:
    """Format the median and the 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:6.1f} ms   p99 {cuts[98] * 1000:6.1f} ms"
