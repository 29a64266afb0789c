import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kosmo_billing_daemon.link import Broker, LinkLost, connect
from tests.link.brokers import at, collect, held
from tests.support.mosquitto import Mosquitto


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1; its key lies beside it."""
    path = tmp_path / "server.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=broker"
    )
    subprocess.run(  # noqa: S603  our own words
        [
            *command.split(),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            path.with_suffix(".key"),
            "-out",
            path,
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
async def mosquitto(certificate: Path) -> AsyncIterator[Mosquitto]:
    files = [f"certfile {certificate}", f"keyfile {certificate.with_suffix('.key')}"]
    async with Mosquitto(lines=files) as broker:
        yield broker


def trusting(mosquitto: Mosquitto, certificate: Path) -> Broker:
    return at(mosquitto, tls=ssl.create_default_context(cafile=str(certificate)), connect_timeout=2)


async def test_messages_pass_through_tls(mosquitto: Mosquitto, certificate: Path) -> None:
    async with connect(trusting(mosquitto, certificate)) as link:
        await link.subscribe(["t"])
        await asyncio.gather(*(link.publish("t", b"x" * 3000) for _ in range(200)))
        assert {len(m.payload) for m in await collect(link, 200)} == {3000}


async def test_unknown_authority_is_a_lost_link(mosquitto: Mosquitto, certificate: Path) -> None:
    stranger = replace(trusting(mosquitto, certificate), tls=ssl.create_default_context())
    with pytest.raises(LinkLost, match="certificate"):
        async with connect(stranger):
            pass


async def test_plain_client_on_a_tls_port_is_a_lost_link(mosquitto: Mosquitto, certificate: Path) -> None:
    with pytest.raises(LinkLost):
        async with connect(replace(trusting(mosquitto, certificate), tls=None)):
            pass


async def test_failed_handshakes_leave_nothing_behind(mosquitto: Mosquitto, certificate: Path) -> None:
    impatient = replace(trusting(mosquitto, certificate), connect_timeout=0.05)
    mosquitto.freeze()
    before = held()
    for _ in range(20):
        with pytest.raises(LinkLost):
            async with connect(impatient):
                pass
    for _ in range(20):
        opening = asyncio.create_task(connect(replace(impatient, connect_timeout=5)).__aenter__())
        await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.wait({opening})
    assert held() == before
    mosquitto.thaw()


async def test_killed_broker_is_noticed_through_tls(mosquitto: Mosquitto, certificate: Path) -> None:
    async with connect(trusting(mosquitto, certificate)) as link:
        mosquitto.freeze()
        sent = link.send("t", b"x")
        mosquitto.kill()
        async with asyncio.timeout(1):
            with pytest.raises(LinkLost):
                await sent
