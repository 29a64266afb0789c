"""A gateway in JavaScript that was written from the contract's document: what it says is enough to follow."""

import asyncio
import shutil
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker
from tests.daemon.conftest import on_shared_loop
from tests.support.daemon import environment
from tests.support.node import node_modules
from tests.support.world import World, until

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "javascript"
NODE = "!a1b2c3d4"


class Gateway:
    """The example as a process: a line for each message, answered with the reason."""

    def __init__(self, process: asyncio.subprocess.Process, user_id: UUID) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._in, self._out = process.stdin, process.stdout
        self._line = f"{user_id} {NODE}\n".encode()

    async def send(self) -> str:
        self._in.write(self._line)
        async with asyncio.timeout(10):
            return (await self._out.readline()).decode().strip()

    async def send_all(self) -> int:
        """Send until the quota is exhausted, whatever the answer is meanwhile; return how many passed."""
        passed = 0
        async with asyncio.timeout(20):
            while (answer := await self.send()) != "quota_exhausted":
                assert answer in {"ok", "no_lease", "unknown_user"}, answer
                passed += answer == "ok"
                await asyncio.sleep(0.005)
        return passed

    async def end(self) -> None:
        self._in.close()
        async with asyncio.timeout(10):
            assert await self.process.wait() == 0

    async def until_refused(self, reason: str, seconds: float = 20.0) -> int:
        """Send until the answer stays ``reason`` for a while; return how many passed."""
        passed = refused = 0
        async with asyncio.timeout(seconds):
            while refused < 150:
                answer = await self.send()
                assert answer in {"ok", reason, "unknown_user"}, answer
                passed += answer == "ok"
                refused = refused + 1 if answer == reason else 0
                await asyncio.sleep(0.005)  # acks and documents arrive in between, in any order
        return passed


@pytest.fixture(scope="module")
def modules() -> Path:
    return node_modules(EXAMPLE / "package.json")


@on_shared_loop
async def test_a_client_written_from_the_contract_sends_exactly_what_was_bought(
    shared: World, tmp_path: Path, modules: Path
) -> None:
    world = shared
    shutil.copytree(EXAMPLE, tmp_path / "js", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "js" / "node_modules").symlink_to(modules)
    (daemon,) = world.daemons
    user_id = await world.buy(daemon, uuid4(), "wanderer")
    await world.until_published(user_id)
    process = await asyncio.create_subprocess_exec(
        *("node", "gateway.mjs"),
        cwd=tmp_path / "js",
        env=environment(MQTT_URL=f"mqtt://{world.broker.host}:{world.broker.port}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    gateway = Gateway(process, user_id)
    try:
        assert await gateway.until_refused("quota_exhausted") == 50
        await world.buy(daemon, user_id, "wanderer")
        await until(lambda: world.observer.documents[user_id]["messages_limit"] == 50, "the purchase")
        assert await gateway.until_refused("quota_exhausted") == 50
        gateway._in.close()
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    query = "SELECT sum(messages_used) FROM subscriptions WHERE user_id = $1"
    assert await world.value(query, user_id) == 100


@on_shared_loop
async def test_strict_gateways_in_two_languages_send_exactly_what_was_bought_together(
    shared: World, tmp_path: Path, modules: Path
) -> None:
    world = shared
    shutil.copytree(EXAMPLE, tmp_path / "js", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "js" / "node_modules").symlink_to(modules)
    (daemon,) = world.daemons
    user_id = await world.buy(daemon, uuid4(), "wanderer")
    await world.until_published(user_id)
    process = await asyncio.create_subprocess_exec(
        *("node", "strict.mjs"),
        cwd=tmp_path / "js",
        env=environment(MQTT_URL=f"mqtt://{world.broker.host}:{world.broker.port}", MQTT_USERNAME="js"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    at = Broker(host=world.broker.host, port=world.broker.port, client_id="py")
    try:
        async with Gate(at, tmp_path / "py.db", reporter="py", strict=True) as python:
            javascript = Gateway(process, user_id)
            async with asyncio.timeout(20):
                while (answer := await javascript.send()) != "ok":  # documents and leases come meanwhile
                    assert answer in {"unknown_user", "no_lease"}, answer
                    await asyncio.sleep(0.01)

            async def send_all() -> int:
                passed = 0
                async with asyncio.timeout(20):
                    while (reason := python.check(user_id, NODE).reason) is not Reason.QUOTA_EXHAUSTED:
                        with python.hold(user_id, NODE) as hold:
                            passed += hold.allowed
                        assert reason in {Reason.OK, Reason.NO_LEASE, Reason.UNKNOWN_USER}
                        await asyncio.sleep(0.005)
                return passed

            sent = await asyncio.gather(send_all(), javascript.send_all())
            assert min(sent) > 0
            assert 1 + sum(sent) == 50
            await javascript.end()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await world.value("SELECT sum(messages_used) FROM subscriptions WHERE user_id = $1", user_id) == 50
    left = "SELECT coalesce(sum(messages - used), 0)::bigint FROM leases WHERE user_id = $1"
    assert await world.value(left, user_id) == 0
