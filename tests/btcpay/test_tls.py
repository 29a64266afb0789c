"""The client over TLS: only certificates of the system's authorities are believed."""

import shlex
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.btcpay.errors import BtcpayAway, CreationUnknown
from kosmo_billing_daemon.domain.plans import BUILT_IN
from tests.btcpay.servers import client_of


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "server.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=btcpay"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {folder}/key.pem -out {made}"
    )
    subprocess.run(shlex.split(command), check=True, capture_output=True)  # noqa: S603  our own words
    return made


@pytest.fixture
async def url(certificate: Path) -> AsyncIterator[str]:
    async def info(_: web.Request) -> web.Response:
        return web.json_response({"version": "2.4.1", "fullySynched": True})

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.parent / "key.pem")
    application = web.Application()
    application.router.add_get("/api/v1/server/info", info)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_an_unknown_authority_is_not_believed(url: str) -> None:
    async with client_of(url) as client:
        with pytest.raises(BtcpayAway, match="certificate verify failed") as caught:
            await client.create_invoice(uuid4(), BUILT_IN.plans[0])
    assert not isinstance(caught.value, CreationUnknown)


async def test_an_authority_added_to_the_system_is_believed(
    url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with client_of(url) as client:
        assert (await client.server_info()).version == "2.4.1"
