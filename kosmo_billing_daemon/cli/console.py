"""``console``: a one-time login link, and a port on this machine that leads to the console's socket."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from kosmo_billing_daemon.admin.access import LINK_LASTS, ConsoleAccess
from kosmo_billing_daemon.cli.frame import EnvFile, caller, run, stopped_by_signals
from kosmo_billing_daemon.cli.opened import by, load, opened
from kosmo_billing_daemon.contract.paths import ADMIN
from kosmo_billing_daemon.errors import Conflict, Unavailable
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.settings import AdminAddress

PORT: Final = 8005
_HOST: Final = "127.0.0.1"
_CHUNK: Final = 64 * 1024


def console(
    name: Annotated[
        str | None, typer.Option("--as", help="Whose name actions carry; otherwise the calling account.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, help=f"Port to open on 127.0.0.1; otherwise {PORT}, or a free one."
        ),
    ] = None,
    env_file: EnvFile = None,
) -> None:
    """Open the operator's console: prints a one-time login link, and serves it until Ctrl-C."""
    run(_console(name, port, env_file))


async def _console(name: str | None, port: int | None, env_file: Path | None) -> None:
    address = load(env_file).admin_listen
    if address is None:
        raise Conflict("the console is off: ADMIN_LISTEN is empty", code="console_off")
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        # First of all, so that a link is made only where it can be used.
        place = await stack.enter_async_context(_forwarding(address, port)) if address.path else str(address)
        async with opened(env_file) as at:
            who = _named(name)
            token = await ConsoleAccess(pool=at.pool, clock=utc_now).invite(who)
        _tell(f"http://{place}{ADMIN}/login?token={token}", who, place.rpartition(":")[2])
        if not address.path:
            return
        typer.echo("\nCtrl-C closes the port. Sessions that are open stay valid; log out to end one.")
        with stopped_by_signals(stop):
            await stop.wait()


def _named(name: str | None) -> str:
    """Return whose name actions carry: under sudo always with the account, which nobody chooses."""
    account = by("opens the console").who
    if name is None or name.strip() == account:
        return account
    return name if caller() is None else f"{name.strip()} ({account})"


def _tell(link: str, who: str, port: str) -> None:
    minutes = int(LINK_LASTS.total_seconds() // 60)
    typer.echo(f"Open this once, within {minutes} minutes; what you do is recorded as {who}:\n\n  {link}")
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if connection or caller() is not None:  # sudo drops the variable
        account = caller() or os.environ.get("USER", "you")
        server = connection[2] if len(connection) == 4 else socket.gethostname()
        typer.echo(
            f"\nFrom another machine, first run there:\n\n  ssh -L {port}:{_HOST}:{port} {account}@{server}"
        )


@contextlib.asynccontextmanager
async def _forwarding(address: AdminAddress, port: int | None) -> AsyncIterator[str]:
    """Open a port on loopback that leads to the socket; raises ``Unavailable`` where nobody listens on it."""
    await _probe(address.path)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inward, outward = await asyncio.open_unix_connection(address.path)
        except OSError:  # the daemon restarts; the browser says so
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, outward))
                group.create_task(_copy(inward, writer))
        finally:
            for end in (outward, writer):
                end.close()

    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(forward(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await _listen(accepted, port)
    try:
        yield f"{_HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()  # and no waiting for browsers, which keep connections
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(
    accepted: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], port: int | None
) -> asyncio.Server:
    wanted = PORT if port is None else port
    try:
        return await asyncio.start_server(accepted, _HOST, wanted)
    except OSError as error:
        if port is None:
            return await asyncio.start_server(accepted, _HOST, 0)
        raise Unavailable(
            f"cannot listen on {_HOST} port {wanted}: {error.strerror}; choose another with --port"
        ) from error


async def _probe(path: str) -> None:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        how = "is the daemon running, and is ADMIN_LISTEN the same for it?"
        if isinstance(error, PermissionError):
            how = "run this with sudo"
        raise Unavailable(
            f"the console's socket {path} cannot be reached: {error.strerror}; {how}"
        ) from error
    writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until its end; a side that is gone ends the other too."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
