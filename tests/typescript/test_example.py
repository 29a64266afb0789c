"""The TypeScript example compiles strictly, and its hook goes on and stops as it says."""

import asyncio
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.node import node_modules

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "config" / "examples" / "typescript"
OPTIONS = ("--strict", "--noEmitOnError", "--noUnusedLocals", "--target", "es2022", "--module", "es2022")
RETRY_AFTER = 1  # second; the header knows no less


@pytest.fixture(scope="module")
def tsc() -> Path:
    return node_modules(HERE / "package.json") / "typescript" / "bin" / "tsc"


async def run(*arguments: str | Path, within: float) -> str:
    """Run node to its end; returns what it wrote."""
    process = await asyncio.create_subprocess_exec(
        "node", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(within):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode()
    return told.decode()


@dataclass
class Answers:
    """What the server answers, one after the other; ``asked`` is who asked when, and what they had read."""

    left: list[tuple[int, dict[str, str], str]]
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def next(self, request: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        self.asked.append((request.headers["Authorization"], request.headers.get("Last-Event-ID")))
        status, headers, body = self.left.pop(0)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        await response.write(body.encode())
        if headers.get("X-Breaks"):
            assert request.transport is not None
            request.transport.abort()
        return response


def stream(body: str, **headers: str) -> tuple[int, dict[str, str], str]:
    return 200, {"Content-Type": "text/event-stream", **headers}, body


def event(version: int) -> str:
    return f"id: {version}\nevent: entitlement\ndata: {json.dumps({'version': version})}\n\n"


async def test_the_hook_compiles_strictly_goes_on_after_outages_and_stops_when_refused(
    tmp_path: Path, tsc: Path
) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.copy(HERE / "page.mjs", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "react").symlink_to(HERE / "react")
    names = sorted(path.name for path in EXAMPLE.glob("*.ts"))
    await run(
        *(tsc, *OPTIONS, "--moduleResolution", "bundler", "--lib", "es2022,dom,dom.iterable"),
        *(tmp_path / name for name in names),
        within=50,
    )

    answers = Answers(
        [
            stream("retry: 50\n\n: hello\n\n" + event(7)),  # and it ends
            (503, {"Retry-After": str(RETRY_AFTER)}, "<html>"),
            (429, {}, ""),
            (502, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, ""),
            stream(event(8) + event(9)[:-5], **{"X-Breaks": "yes"}),  # in the middle of an event
            stream(event(10)),
            (401, {}, ""),
            # another login
            stream("retry: 50\n\n" + event(3)),
            (403, {}, ""),
        ]
    )
    application = web.Application()
    application.router.add_get("/api/v1/billing/subscription/events", answers.next)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        # It ends by itself: a hook that still waited or asked would keep node alive.
        told = await run(tmp_path / "page.mjs", origin, "ann", "bob", within=20)
    finally:
        await runner.cleanup()

    assert [json.loads(line) for line in told.splitlines()] == [
        ["ann", None, None],
        ["ann", 7, None],
        ["ann", 8, None],
        ["ann", 10, None],
        ["ann", 10, 401],
        ["bob", None, None],  # nobody sees what another user may do
        ["bob", 3, None],
        ["bob", 3, 403],
    ]
    ann, bob = "Bearer ann", "Bearer bob"
    read = [(ann, None), *[(ann, "7")] * 4, (ann, "8"), (ann, "10"), (bob, None), (bob, "3")]
    assert (answers.asked, answers.left) == (read, [])
    assert answers.times[2] - answers.times[1] >= RETRY_AFTER
