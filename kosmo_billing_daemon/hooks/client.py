"""One POST to one endpoint, and what came of it.

The rule it keeps: ten seconds, whatever the endpoint does; no redirect is followed, no cookie kept, nothing
unpacked, and no more of an answer read than people are shown.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Self

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.hooks.addresses import socket_maker
from kosmo_billing_daemon.runtime.records import record

ANSWER_WITHIN: Final = 10.0  # seconds
MOST_BYTES: Final = 64 * 1024
_SHOWN_BYTES: Final = 200
_KEEP_ALIVE: Final = 30.0  # seconds


@record(kw_only=True)
class HookAnswer:
    """What an endpoint answered, in words; ``status`` is missing where it did not."""

    status: int | None
    words: str
    retry_after: timedelta | None = None

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class HookClient:
    """Sends to any endpoint; holds its connections between ``async with``."""

    def __init__(self, *, within: float = ANSWER_WITHIN) -> None:
        self._within = within
        self._sessions: dict[bool, ClientSession] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def send(
        self, url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool
    ) -> HookAnswer:
        """POST and return the answer, or why there was none; raises nothing but bugs."""
        try:
            async with (
                asyncio.timeout(self._within),
                self._session(allow_private=allow_private).post(
                    url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return await _read(response)
        except TimeoutError:
            return HookAnswer(status=None, words=f"no answer within {self._within:.0f} s")
        except ClientConnectorError as error:
            why = error.os_error.strerror or str(error.os_error)
            return HookAnswer(status=None, words=_printable(f"cannot connect: {why}"))
        except (ClientError, OSError, ValueError) as error:
            return HookAnswer(status=None, words=_printable(str(error) or type(error).__name__))

    def _session(self, *, allow_private: bool) -> ClientSession:
        """Return the session for such addresses, made when it is first needed."""
        session = self._sessions.get(allow_private)
        if session is None:
            connector = TCPConnector(
                limit=0,
                ssl=ssl.create_default_context(),
                resolver=_Resolver(),
                use_dns_cache=False,
                keepalive_timeout=_KEEP_ALIVE,
                socket_factory=socket_maker(allow_private=allow_private),
            )
            self._sessions[allow_private] = session = ClientSession(
                connector=connector,
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
                headers={"User-Agent": f"kosmo-billing-daemon/{__version__}", "Accept-Encoding": "identity"},
            )
        return session


async def _read(response: ClientResponse) -> HookAnswer:
    """Return the status and the beginning of the body; a longer body costs the connection."""
    shown = b""
    while len(shown) <= _SHOWN_BYTES and (chunk := await response.content.read(_SHOWN_BYTES + 1)):
        shown += chunk
    if len(shown) > _SHOWN_BYTES:
        response.close()
    words = f"{response.status} {response.reason or ''}".rstrip()
    text = _printable(shown[:_SHOWN_BYTES].decode(errors="replace"))
    if 300 <= response.status < 400:
        text = "redirects are not followed; add the hook with its final address"
    return HookAnswer(
        status=response.status,
        words=f"{words}: {text}" if text else words,
        retry_after=_retry_after(response),
    )


def _retry_after(response: ClientResponse) -> timedelta | None:
    told = response.headers.get("Retry-After", "")
    return timedelta(seconds=int(told)) if told.isascii() and told.isdigit() and len(told) < 7 else None


def _printable(text: str) -> str:
    kept = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(kept.split())[:_SHOWN_BYTES]


class _Resolver(AbstractResolver):
    """Looks names up in a thread for each: one whose servers are silent holds up no other lookup."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def settle(result: list[Any] | None, error: OSError | None) -> None:
            if found.done():  # the time for the whole exchange was over
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(result or [])

        def look_up() -> None:
            result, error = None, None
            try:
                result = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
            except OSError as met:
                error = met
            except UnicodeError as met:
                error = OSError(f"{host} is no name of a host: {met}")
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                return  # the loop was closed meanwhile

        # A daemon thread, which the end of the process does not wait for.
        threading.Thread(target=look_up, name=f"lookup {time.monotonic():.0f}", daemon=True).start()
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in await found
        ]

    async def close(self) -> None:
        """Nothing is held."""
