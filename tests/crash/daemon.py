"""``python -m tests.crash.daemon serve``: the daemon's own ``main``, watched at its borders.

The borders are the calls through which everything leaves the process: asyncpg's statements, aiohttp's
requests and answers, and the packets of ``link``, in which alone MQTT is spoken.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from aiohttp import ClientResponse, ClientSession, web

from kosmo_billing_daemon.cli import main
from kosmo_billing_daemon.link import Link, Message
from tests.crash.passages import AFTER, BEFORE, passage, passed
from tests.crash.points import published, written

SENT = 0.005  # seconds within which bytes handed to the transport have left the process

Query = Callable[..., Awaitable[Any]]


def watch() -> None:
    """Have every effect pass its point."""
    _watch_statements()
    _watch_requests()
    _watch_answers()
    _watch_publications()
    _watch_connections()


def _watch_statements() -> None:
    begun: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()  # what open transactions have written

    def watched(genuine: Query) -> Query:
        async def call(connection: Any, sql: str, *arguments: Any, **options: Any) -> Any:
            answer = genuine(connection, sql, *arguments, **options)
            points = written(sql)
            if sql.startswith("BEGIN"):
                begun[connection] = []
            elif sql == "COMMIT":
                points = [f"commit of {write}" for write in begun.pop(connection, [])[:1]]
            elif connection in begun:
                begun[connection] += points
            return await passage(answer, *points)

        return call

    for name in ("execute", "fetch", "fetchrow", "fetchval"):
        setattr(asyncpg.Connection, name, watched(getattr(asyncpg.Connection, name)))


def _watch_requests() -> None:
    genuine = ClientSession._request

    async def send(session: ClientSession, method: str, url: Any, **options: Any) -> ClientResponse:
        answer = genuine(session, method, url, **options)
        there = re.search("/stores/[^/]+/(.*)", str(url))
        if method == "GET" or there is None:  # changes nothing there, or goes to a hook
            return await answer
        return await passage(answer, f"{method} {there[1]} at BTCPay")

    ClientSession._request = send  # type: ignore[method-assign, assignment]


def _watch_answers() -> None:
    genuine = web.Response.write_eof

    async def write_eof(response: web.Response, data: bytes = b"") -> None:
        request: Any = response._req
        if request is None or request.method == "GET":
            return await genuine(response, data)
        return await passage(genuine(response, data), f"answer to {request.method} {request.path}")

    web.Response.write_eof = write_eof  # type: ignore[method-assign, assignment]


def _watch_publications() -> None:
    hand_over, acknowledge = Link.hand_over, Link.acknowledge

    def watched_hand_over(
        link: Link, topic: str, payload: bytes, told: Callable[[Exception | None], None], **options: Any
    ) -> None:
        point = f"publish {published(topic)}"

        def answered(error: Exception | None) -> None:
            passed(AFTER, point)  # the broker has answered and nobody knows it yet
            told(error)

        passed(BEFORE, point)
        hand_over(link, topic, payload, answered, **options)

    def watched_acknowledge(link: Link, message: Message) -> None:
        point = f"ack of {published(message.topic)}"
        passed(BEFORE, point)
        acknowledge(link, message)
        asyncio.get_running_loop().call_later(SENT, passed, AFTER, point)

    Link.hand_over, Link.acknowledge = watched_hand_over, watched_acknowledge  # type: ignore[assignment, method-assign]


def _watch_connections() -> None:
    enter, leave, subscribe = Link.__aenter__, Link.__aexit__, Link.subscribe

    async def watched_enter(link: Link) -> Link:
        return await passage(enter(link), "connect to the broker")

    async def watched_leave(link: Link, *error: Any) -> None:
        await passage(leave(link, *error), "leave the broker")

    async def watched_subscribe(link: Link, filters: Any, qos: int = 1) -> None:
        await passage(subscribe(link, filters, qos), "subscribe")

    Link.__aenter__, Link.__aexit__, Link.subscribe = watched_enter, watched_leave, watched_subscribe  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    watch()
    main()
