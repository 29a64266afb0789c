"""``watch``: a live, readable tail of our topics.

The rule it keeps: watching never disturbs. A broker with ``use_username_as_clientid`` would cut the daemon
off if we came under its account, so an account of its own is asked for.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from kosmo_billing_daemon.assembly.connections import broker_of
from kosmo_billing_daemon.cli.frame import (
    NAMES_A_USER,
    EnvFile,
    own_path,
    read_password,
    run,
    stopped_by_signals,
)
from kosmo_billing_daemon.cli.opened import load, opened
from kosmo_billing_daemon.cli.rendering import aside, console, plain, printable
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid, Unavailable
from kosmo_billing_daemon.link import Broker, LinkLost, Message, connect
from kosmo_billing_daemon.runtime.backoff import Backoff
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.settings import Settings

_SHOWN = ("status", "plan_type", "valid_until", "messages_used", "messages_limit", "quota_state", "version")
_WORDS = 400  # characters of what is no document of ours


def watch(
    *,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help=f"Only what is about one. {NAMES_A_USER}")
    ] = None,
    username: Annotated[
        str | None,
        typer.Option(envvar="WATCH_USERNAME", help="An account of the broker that may read our topics."),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", callback=own_path, help="Its password (- reads it here); else WATCH_PASSWORD."
        ),
    ] = None,
    retained: Annotated[bool, typer.Option(help="Begin with what is retained now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
    env_file: EnvFile = None,
) -> None:
    """Show what crosses the topics as it happens, until Ctrl-C."""
    loaded = load(env_file)
    broker = _account(loaded, username, password_file)
    topics = Topics(loaded.mqtt.prefix)
    user_id = None if user is None else run(_resolve(user, env_file))
    out = console()

    def show(message: Message) -> None:
        if message.retain and not retained:
            return
        document = _document(message.payload)
        if user_id is not None and not _is_about(message.topic, document, topics, user_id):
            return
        if as_json:
            told = {"at": utc_now(), "topic": message.topic, "retained": message.retain, "payload": document}
            typer.echo(json.dumps(plain(told)))
        else:
            at = utc_now()
            out.print(_line(at, message, document, topics), soft_wrap=True)

    async def work() -> None:
        stop = asyncio.Event()
        with stopped_by_signals(stop):
            tail = asyncio.create_task(_tail(broker, topics, show))
            asked = asyncio.create_task(stop.wait())
            await asyncio.wait({tail, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            tail.cancel()
            ended = await asyncio.gather(tail, return_exceptions=True)
            if isinstance(ended[0], Exception):
                raise ended[0]

    run(work())


def _account(loaded: Settings, username: str | None, password_file: Path | None) -> Broker:
    broker = broker_of(loaded.mqtt)
    if username is None and broker.username is not None:
        raise Invalid(
            "watching needs an account of its own, or the broker could cut the daemon off:"
            " set WATCH_USERNAME and WATCH_PASSWORD to one that may read our topics"
        )
    password = os.environ.get("WATCH_PASSWORD")
    if password_file is not None:
        password = read_password(password_file)
    # A clean session under a client id of its own: nothing is kept for us while we are away.
    client_id = f"{loaded.mqtt.client_id}-watch-{os.getpid()}"
    return replace(
        broker, username=username, password=password, client_id=client_id, clean=True, session_expiry=0
    )


async def _tail(broker: Broker, topics: Topics, show: Callable[[Message], None]) -> None:
    """Show everything, over every outage of the broker."""
    backoff, notes = Backoff(0.2, 5.0), aside()
    while True:
        try:
            async with connect(broker) as link:
                await link.subscribe([f"{topics.prefix}/#"])
                notes.print(
                    Text(f"watching {topics.prefix}/# on {broker.host} port {broker.port}", style="dim")
                )
                backoff.succeeded()
                while True:
                    for message in await link.receive():
                        link.acknowledge(message)
                        show(message)
        except LinkLost as error:
            notes.print(Text(f"{printable(error.message)}; trying again", style="yellow"))
            await asyncio.sleep(backoff.failed())


async def _resolve(name: str, env_file: Path | None) -> UserId:
    """Ask the database whom a name means; while it is away, a UUID is taken for a user's."""
    try:
        async with opened(env_file) as at:
            return await at.user(name)
    except Unavailable:
        with contextlib.suppress(ValueError):
            return UserId(UUID(name))
        raise


def _document(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload[:_WORDS].decode("utf-8", "backslashreplace")


def _is_about(topic: str, document: Any, topics: Topics, user: UUID) -> bool:
    if topics.entitlement_user(topic) == user:
        return True
    if not isinstance(document, dict):
        return False
    events = document.get("events")
    named = (
        [event.get("user_id") for event in events if isinstance(event, dict)]
        if isinstance(events, list)
        else []
    )
    return str(user) in (document.get("subject"), *named)


def _line(at: datetime, message: Message, document: Any, topics: Topics) -> Text:
    short = message.topic.removeprefix(f"{topics.prefix}/")
    kind, _, rest = short.partition("/")
    said: str
    if not isinstance(document, dict):
        said = _printable(str(document)) or "(empty)"
    elif kind == "entitlements":
        said = "  ".join(f"{name}={document.get(name)}" for name in _SHOWN)
    elif kind == "events":
        said = f"{document.get('subject')}  {_printable(json.dumps(document.get('data')))}"
    elif kind == "usage":
        events = document.get("events")
        count = len(events) if isinstance(events, list) else "?"
        said = f"report {document.get('report_id')} with {count} messages"
    else:
        said = json.dumps(document)
    styles = {"entitlements": "green", "events": "cyan", "usage": "magenta", "usage-acks": "magenta"}
    return Text.assemble(
        (f"{at:%H:%M:%S}", "dim"),
        " ",
        (f"{kind:<12}", styles.get(kind, "yellow")),
        f" {_printable(rest)}  " if rest else "",
        _printable(said),
        (" (retained)", "dim") if message.retain else "",
    )


def _printable(text: str) -> str:
    """Keep what others sent from steering the terminal."""
    return printable(text[:_WORDS])
