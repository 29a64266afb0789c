"""What a benchmark runs against, each in a process of its own: PostgreSQL with fsync on, Mosquitto, a BTCPay
that answers at once, and `kosmo-billing serve`; driven from this process over real sockets."""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvloop

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.broker import BrokerProgram, EmbeddedBroker
from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.bench.fake_btcpay import KEY, STORE
from tests.bench.figures import Figure, rows, table
from tests.bench.load_generator import SECRET, Connection, get

START_SECONDS = 180.0  # the first start of a filled database publishes it all
STOP_SECONDS = 15.0
ROOT = Path(__file__).parents[2]
POSTGRES = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",  # no checkpoint in the middle of a measurement
    "checkpoint_timeout": "1h",
    "autovacuum": "off",  # each filling analyses for itself; a vacuum in one round would be noise
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What daemons need, and where to put their logs."""

    directory: Path
    postgres: EmbeddedPostgres
    broker: EmbeddedBroker
    btcpay: str

    @property
    def broker_address(self) -> tuple[str, int]:
        parts = urlsplit(self.broker.url)
        return parts.hostname or "127.0.0.1", parts.port or 1883


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig(Services):
    """The services and one daemon that is ready; ``started`` is how long that took in seconds."""

    database_url: str
    topics: Topics
    api: str
    pid: int
    started: float

    @property
    def webhook_path(self) -> str:
        return f"{API}/webhooks/btcpay"


@asynccontextmanager
async def services(
    btcpay: str = "tests.bench.fake_btcpay", **postgres_settings: str
) -> AsyncIterator[Services]:
    """Everything but daemons; ``btcpay`` is the module that is a BTCPay and prints its port."""
    with temporary_directory("kosmo-bench-") as directory:
        async with (
            EmbeddedPostgres(directory / "postgres", settings=POSTGRES | postgres_settings) as postgres,
            EmbeddedBroker(directory / "broker", kind=BrokerProgram.MOSQUITTO) as broker,
            program(directory, btcpay) as fake,
        ):
            port = int(await fake.said("\n"))
            yield Services(
                directory=directory, postgres=postgres, broker=broker, btcpay=f"http://127.0.0.1:{port}"
            )


@asynccontextmanager
async def daemon(
    where: Services, *, name: str = "daemon", database_url: str | None = None, **environment: str
) -> AsyncIterator[Rig]:
    """A daemon that is ready and speaks to the broker, on a topic prefix of its own name."""
    host, port = where.broker_address
    url = database_url or where.postgres.url
    topics = Topics(f"bench/{name}") if name != "daemon" else Topics()
    settings = {
        "BTCPAY_URL": where.btcpay,
        "BTCPAY_API_KEY": KEY,
        "BTCPAY_STORE_ID": STORE,
        "WEBHOOK_SECRET": SECRET,
        "DATABASE_URL": url,
        "MQTT_HOST": host,
        "MQTT_PORT": str(port),
        "MQTT_PROTOCOL": str(where.broker.protocol),
        "MQTT_PREFIX": topics.prefix,
        "MQTT_CLIENT_ID": f"bench-{name}",
        "PORT": "0",
        "LOG_FORMAT": "text",
    }
    began = time.perf_counter()
    async with program(
        where.directory, "kosmo_billing_daemon", "serve", name=name, **(settings | environment)
    ) as process:
        api = f"http://127.0.0.1:{(await process.said('listening on')).rpartition(' ')[2].strip()}"
        await until_ready(api)
        yield Rig(
            directory=where.directory,
            postgres=where.postgres,
            broker=where.broker,
            btcpay=where.btcpay,
            database_url=url,
            topics=topics,
            api=api,
            pid=process.pid,
            started=time.perf_counter() - began,
        )
    process.complain()


@asynccontextmanager
async def rig(**environment: str) -> AsyncIterator[Rig]:
    """Everything up; `environment` goes to the daemon beside what it needs."""
    async with services() as where, daemon(where, **environment) as parts:
        yield parts


async def until_ready(api: str) -> None:
    """Return when ``/health/ready`` says that the daemon leads and is ready."""
    async with Connection(api) as connection, asyncio.timeout(START_SECONDS):
        while True:
            status, body = await connection.exchange(get("/health/ready"))
            if status == 200 and b'"leads"' in body and b'"connected"' in body:
                return
            await asyncio.sleep(0.002)


@dataclass(frozen=True, slots=True)
class Process:
    """A program of ours and what it has written."""

    pid: int
    log: Path
    is_running: Callable[[], bool]

    async def said(self, words: str) -> str:
        """Return the first line with these words, once it is complete."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                for line in self.log.read_text(errors="replace").splitlines(keepends=True):
                    if words in line and line.endswith("\n"):
                        return line
                if not self.is_running():
                    raise RuntimeError(f"the process ended:\n{children.tail(self.log)}")
                await asyncio.sleep(0.002)

    def complain(self) -> None:
        """Show what it logged above the level of information."""
        for line in self.log.read_text(errors="replace").splitlines():
            if " INFO " not in line:
                print(line, file=sys.stderr)


@asynccontextmanager
async def program(
    directory: Path, module: str, *arguments: str, name: str = "", **environment: str
) -> AsyncIterator[Process]:
    """Run a module as a process that does not outlive us; its output goes to a file."""
    log = directory / f"{name or module}-{time.monotonic_ns()}.log"
    process = children.spawn(
        [sys.executable, "-m", module, *arguments],
        log=log,
        death_signal=signal.SIGTERM,
        environment={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
    )
    try:
        yield Process(process.pid, log, lambda: process.poll() is None)
    finally:
        with suppress(ProcessLookupError):
            await children.stop(process, signal.SIGTERM, STOP_SECONDS)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a benchmark on the same event loop as the daemon's."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def percentiles(seconds: Sequence[float]) -> str:
    """Format the median and the 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:6.1f} ms   p99 {cuts[98] * 1000:6.1f} ms"


def alone(measure: Callable[..., Coroutine[Any, Any, list[Figure]]], description: str | None) -> None:
    """Run one benchmark by itself and print its table."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    print(table(rows(run(measure(arguments.rounds, quick=arguments.quick)))))
