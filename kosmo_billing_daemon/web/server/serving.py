"""The server that carries an application, on sockets it is given or makes."""

import logging
import socket
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http import HttpProcessingError

from kosmo_billing_daemon.web.server.admission import Admission, Runner

KEEPALIVE_SECONDS = 75.0
"""Longer than common proxies keep theirs, so that they close first; a head has no more time either."""
LINGER_SECONDS = 2  # so that a client that still sends a refused body can read why; aiohttp waits 10
SHUTDOWN_SECONDS = 10  # for requests in flight: longer than one creation at BTCPay usually takes


async def serve(
    app: web.Application,
    *,
    host: str,
    port: int,
    sockets: Sequence[socket.socket] = (),
    keepalive_seconds: float = KEEPALIVE_SECONDS,
    admission: Admission | None = None,
) -> tuple[web.AppRunner, int]:
    """Listen on ``sockets``, or else on ``host`` and ``port`` (0 takes a free one); raises ``OSError``.

    A connection that brings no whole head of a request within ``keepalive_seconds`` is closed.
    Returns the runner, which ``draining.drain`` ends, and the port (0 where only
    unix sockets are listened on).
    """
    log = logging.getLogger(f"{__name__}.protocol")
    log.addFilter(_is_ours)
    logging.getLogger("asyncio").addFilter(_is_no_shortage)
    runner = Runner(
        app,
        admission or Admission(),
        access_log=None,
        logger=log,
        keepalive_timeout=keepalive_seconds,
        lingering_time=LINGER_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
        # A signature is over the bytes as they were sent; and nothing may grow on being read.
        auto_decompress=False,
    )
    await runner.setup()
    try:
        if sockets:
            for inherited in sockets:
                await web.SockSite(runner, inherited).start()
        else:
            await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner, _port(runner)


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out requests that are no HTTP: aiohttp logs a traceback for each, and anybody can send many."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _is_no_shortage(record: logging.LogRecord) -> bool:
    """Leave out the shortage that ``descriptors`` reports: asyncio logs it a hundred times a second."""
    return not record.getMessage().startswith("socket.accept() out of system resource")


def _port(runner: web.AppRunner) -> int:
    return next((int(address[1]) for address in runner.addresses if isinstance(address, tuple)), 0)
