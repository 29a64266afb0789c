"""The samples for nginx and Caddy name the user, pass events at once, and hide what is not public."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web

from kosmo_billing_daemon.contract.paths import API
from tests.web.conftest import HOOK, Service

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"
DAEMON, SITE, NAME = "127.0.0.1:8004", "127.0.0.1:3000", "billing.example.org"


def nginx(folder: Path, sample: str) -> tuple[list[str], str]:
    program = shutil.which("nginx", path=os.defpath + ":/usr/sbin")
    assert program is not None
    socket = folder / "proxy.sock"
    sample = sample.replace("listen 80;", f"listen unix:{socket};")
    paths = "".join(
        f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths}\n{sample}\n}}\n"
    )
    return [program, "-c", str(config), "-p", str(folder), "-e", "stderr"], str(socket)


def caddy(folder: Path, sample: str) -> tuple[list[str], str]:
    program = shutil.which("caddy")
    assert program is not None
    socket = folder / "proxy.sock"
    sample = sample.replace(f"{NAME} {{", f"http://{NAME} {{\n\tbind unix/{socket}")
    config = folder / "Caddyfile"
    config.write_text("{\n\tadmin off\n}\n" + sample)
    return [program, "run", "--adapter", "caddyfile", "--config", str(config)], str(socket)


@asynccontextmanager
async def site(user: UUID) -> AsyncIterator[str]:
    """The front end that knows a session by its cookie."""

    async def whoami(request: web.Request) -> web.Response:
        if request.cookies.get("session") != "mine":
            return web.Response(status=401)
        return web.Response(headers={"X-User-ID": str(user)})

    app = web.Application()
    app.router.add_get("/whoami", whoami)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("sample", "prepare"), [("nginx.conf", nginx), ("Caddyfile", caddy)])
async def test_the_sample_names_the_user_and_passes_events_and_nothing_else(
    service: Service,
    user: UUID,
    tmp_path: Path,
    sample: str,
    prepare: Callable[[Path, str], tuple[list[str], str]],
) -> None:
    text = (EXAMPLES / sample).read_text()
    async with site(user) as address:
        told = text.replace(DAEMON, service.url.removeprefix("http://")).replace(SITE, address)
        command, socket = prepare(tmp_path, told)
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        log = (tmp_path / "log").open("wb")
        proxy = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
        try:
            async with asyncio.timeout(15):
                while not os.path.exists(socket):  # noqa: PTH110, ASYNC240 - a look at memory
                    assert proxy.returncode is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.02)
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as visitor:
                await _visit(service, visitor, user)
        finally:
            log.close()
            if proxy.returncode is None:
                proxy.terminate()
            await proxy.wait()


async def _visit(service: Service, visitor: aiohttp.ClientSession, user: UUID) -> None:
    base = f"http://{NAME}"

    async def status(path: str, **more: str) -> int:
        async with visitor.get(base + path, headers=more) as answer:
            return answer.status

    assert await status(f"{API}/subscription") == 401
    assert await status(f"{API}/subscription", **{"X-User-ID": str(uuid4())}) == 401
    assert await status(f"{API}/plans") == 200
    assert await status(f"{API}/docs/docs.js") == 200
    assert [await status(path) == 200 for path in ("/health/ready", "/metrics")] == [False, False]
    async with visitor.post(base + API + HOOK, data=b"{}") as unsigned:
        assert unsigned.status == 403  # from the daemon itself: the signature is missing

    mine = {"Cookie": "session=mine", "X-User-ID": str(uuid4())}
    async with visitor.get(f"{base}{API}/subscription", headers=mine) as answer:
        assert (answer.status, (await answer.json())["user_id"]) == (200, str(user))
    browser = {**mine, "Origin": base, "Content-Type": "application/json"}
    async with visitor.put(f"{base}{API}/nodes/!a1b2c3d4", headers=browser, data=b"{}") as added:
        assert added.status == 201, await added.text()

    async with visitor.get(f"{base}{API}/subscription/events", headers=mine) as stream:
        async with asyncio.timeout(10):
            assert stream.content_type == "text/event-stream"
            assert b"retry" in await stream.content.readuntil(b"\n\n")
            assert str(user).encode() in await stream.content.readuntil(b"\n\n")
            await service.subscribe(user, "wanderer")
            while b'"plan_type":"wanderer"' not in await stream.content.readuntil(b"\n\n"):
                pass
