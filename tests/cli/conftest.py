"""The command line as an operator runs it: real processes, and everything they print searched for secrets."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.runtime.clock import utc_now
from tests.demo.btcpay.conftest import HandClock
from tests.mqtt.shipped import PASSWORD, ShippedMosquitto
from tests.services.conftest import Shop, user
from tests.support.daemon import KEY, STORE, WEBHOOK_SECRET, command, environment, run_process
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, world_around

__all__ = ["user"]

SECRETS = (KEY, WEBHOOK_SECRET, PASSWORD, "password-of-the-database")


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.out)


@dataclass
class Cli:
    """Runs commands with one installation's settings."""

    settings: dict[str, str]
    printed: list[str] = field(default_factory=list)

    async def __call__(self, *arguments: str, **more: str) -> Result:
        """Run ``kosmo-billing`` and wait for its end."""
        result = Result(*await run_process(*arguments, settings={**self.settings, **more}))
        self.printed += [result.out, result.err]
        assert "Traceback" not in result.err, result.err
        assert "ResourceWarning" not in result.err, result.err
        return result

    async def begin(self, *arguments: str, **more: str) -> asyncio.subprocess.Process:
        """Start a command and leave it running."""
        return await asyncio.create_subprocess_exec(
            *command(*arguments),
            env=environment(**{**self.settings, **more}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
        )

    async def typed(self, line: str) -> Result:
        """Run a command as the program itself suggested it."""
        program, *arguments = shlex.split(line)
        assert program == "kosmo-billing"
        return await self(*arguments)

    def assert_no_secret(self) -> None:
        for text in self.printed:
            for secret in SECRETS:
                assert secret not in text, f"a secret was printed:\n{text}"


Make = Callable[..., Cli]


@pytest.fixture
def make_cli(database_url: str) -> Iterator[Make]:
    """Makes command lines; what they printed is searched for secrets at the end."""
    made: list[Cli] = []

    def make(**settings: str) -> Cli:
        cli = Cli(
            {
                "BTCPAY_URL": "http://127.0.0.1:9",
                "BTCPAY_API_KEY": KEY,
                "BTCPAY_STORE_ID": STORE,
                "WEBHOOK_SECRET": WEBHOOK_SECRET,
                "DATABASE_URL": database_url,
                "MQTT_HOST": "127.0.0.1",
                "MQTT_PORT": "9",
                **settings,
            }
        )
        made.append(cli)
        return cli

    yield make
    for cli in made:
        cli.assert_no_secret()


@pytest.fixture
def cli(make_cli: Make) -> Cli:
    """The command line of an installation whose BTCPay and broker are away."""
    return make_cli()


@pytest.fixture
def clock() -> HandClock:
    """Starts ten days ago, so that what a test lets happen lies behind the commands."""
    return HandClock(utc_now() - timedelta(days=10))


@pytest.fixture
async def shop(database_url: str, clock: HandClock) -> AsyncIterator[Shop]:
    """A shop in the same database, on a clock moved by hand."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(
            Simulator(store_id=STORE, api_key=KEY, clock=clock, retry_waits=(0.01,) * 8)
        )
        opened = await stack.enter_async_context(Shop(simulator, clock, database_url))
        await opened.start()
        yield opened


@pytest.fixture
async def broker() -> AsyncIterator[ShippedMosquitto]:
    """The broker that an operator gets with the shipped files."""
    async with ShippedMosquitto() as mosquitto:
        yield mosquitto


@pytest.fixture
async def open_broker() -> AsyncIterator[Mosquitto]:
    """A broker that lets everybody do everything."""
    async with Mosquitto() as mosquitto:
        yield mosquitto


@pytest.fixture
async def world(tmp_path: Path, database_url: str, broker: ShippedMosquitto) -> AsyncIterator[World]:
    """An installation with the shipped broker; the watching subscriber is its operator."""
    identity = {"username": "operator", "password": PASSWORD}
    async with world_around(tmp_path, database_url, broker, identity) as made:
        made.more = {"MQTT_USERNAME": "kosmo-billing", "MQTT_PASSWORD": PASSWORD}
        yield made


@pytest.fixture
def at_world(make_cli: Make, world: World) -> Cli:
    """The command line of that installation."""
    return make_cli(
        BTCPAY_URL=world.simulator.url,
        MQTT_HOST=world.broker.host,
        MQTT_PORT=str(world.broker.port),
        MQTT_USERNAME="kosmo-billing",
        MQTT_PASSWORD=PASSWORD,
    )
