"""``hook``: events sent to endpoints of your own, signed, in order, at least once."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kosmo_billing_daemon.admin.explaining import when
from kosmo_billing_daemon.admin.hooks import HookActions
from kosmo_billing_daemon.cli.frame import EX_FAILED, AsJson, EnvFile, own_path
from kosmo_billing_daemon.cli.opened import OpenedServices, by, run_opened
from kosmo_billing_daemon.cli.rendering import command, print_done, print_rows
from kosmo_billing_daemon.domain.hooks import without_query
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.hooks import Hook, ListedHook

Number = Annotated[int, typer.Argument(metavar="HOOK", help="Its number, as hook list shows it.")]
Why = Annotated[str, typer.Option("--reason", help="Why, in one line; kept with your name.")]


def add(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where to send, such as https://example.org/hook.")
    ],
    events: Annotated[
        str,
        typer.Option(
            help="Which events, with commas; a name ends with * for all that begin so: subscription.*"
        ),
    ],
    *,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            callback=own_path,
            help="TOML file with the short texts to send instead of JSON; - reads standard input.",
        ),
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Allow addresses of private networks, and http.")
    ] = False,
    reason: Why = "hook added",
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Add an endpoint. Its secret is printed once; receivers verify with any Standard Webhooks library."""
    patterns = [pattern.strip() for pattern in events.split(",") if pattern.strip()]
    if not patterns:
        raise Invalid("which events? such as --events subscription.expiring,invoice.needs_attention")
    texts = None if text is None else _read_texts(text)

    async def work(at: OpenedServices) -> Hook:
        actions = HookActions(pool=at.pool, clock=utc_now)
        return await actions.add(url, patterns, texts=texts, allow_private=allow_private, by=by(reason))

    hook = run_opened(env_file, work)
    print_done(
        {"hook": hook.id, "url": hook.url, "events": hook.events, "secret": hook.secret},
        f"hook {hook.id} added",
        f"secret: {hook.secret}",
        "it is not shown again; give it to the receiver",
        f"try it: {command('hook', 'test', str(hook.id))}",
        as_json=as_json,
    )


def list_(as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """List the hooks: the last answer, how many events wait, and since when one is failing or off."""
    found = run_opened(env_file, lambda at: HookActions(pool=at.pool, clock=utc_now).load_all())
    rows = [
        (
            str(listed.hook.id),
            without_query(listed.hook.url),
            ",".join(listed.hook.events),
            _state(listed.hook),
            str(listed.waiting),
            "-" if listed.answer is None else f"{when(listed.answered_at)} {listed.answer}",
        )
        for listed in found
    ]
    columns = ("HOOK", "URL", "EVENTS", "STATE", "WAITING", "LAST ANSWER")
    print_rows([_hook_json(listed) for listed in found], columns, rows, as_json=as_json)


def try_(hook: Number, as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """Send a test event now, and show the answer; exit code 1 if it was not accepted."""
    answer = run_opened(env_file, lambda at: HookActions(pool=at.pool, clock=utc_now).test(hook))
    said = f"{'accepted' if answer.is_accepted else 'not accepted'}: {answer.words}"
    document = {"hook": hook, "accepted": answer.is_accepted, "answer": answer.words}
    print_done(document, said, as_json=as_json)
    if not answer.is_accepted:
        sys.exit(EX_FAILED)


def replay(
    hook: Number,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"],
            help="From when on, in UTC; by default since it was switched off.",
        ),
    ] = None,
    reason: Why = "hook replayed",
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Switch a hook on again and send what happened since then; ids are the same as the first time."""
    at_utc = None if since is None else since.replace(tzinfo=UTC)

    added = run_opened(
        env_file, lambda at: HookActions(pool=at.pool, clock=utc_now).replay(hook, at_utc, by(reason))
    )
    said = f"hook {hook} is on; {added} event{'' if added == 1 else 's'} queued"
    print_done({"hook": hook, "queued": added}, said, as_json=as_json)


def remove(
    hook: Number, reason: Why = "hook removed", as_json: AsJson = False, env_file: EnvFile = None
) -> None:
    """Remove a hook. What waits for it is not sent any more."""
    run_opened(env_file, lambda at: HookActions(pool=at.pool, clock=utc_now).remove(hook, by(reason)))
    print_done({"hook": hook, "removed": True}, f"hook {hook} removed", as_json=as_json)


def _read_texts(path: Path) -> str:
    try:
        with open(0 if str(path) == "-" else os.fspath(path), "rb", closefd=str(path) != "-") as file:
            return file.read(65_536).decode()
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise Invalid(f"{path} is not UTF-8 text") from None


def _state(hook: Hook) -> str:
    if hook.off_since is not None:
        return f"off since {when(hook.off_since)}: {hook.off_because}"
    if hook.failing_since is not None:
        return f"failing since {when(hook.failing_since)}, next try {when(hook.next_try_at)}"
    return "on"


def _hook_json(listed: ListedHook) -> dict[str, Any]:
    hook = listed.hook
    return {
        "hook": hook.id,
        "url": without_query(hook.url),
        "events": hook.events,
        "texts": hook.texts is not None,
        "allow_private": hook.allow_private,
        "added_at": hook.added_at,
        "state": "off" if hook.off_since else "failing" if hook.failing_since else "on",
        "failing_since": hook.failing_since,
        "failures": hook.failures,
        "next_try_at": hook.next_try_at,
        "off_since": hook.off_since,
        "off_because": hook.off_because,
        "waiting": listed.waiting,
        "answered_at": listed.answered_at,
        "answer": listed.answer,
    }


app = typer.Typer(help="Events sent to endpoints of your own.", no_args_is_help=True)
app.command()(add)
app.command("list")(list_)
app.command("test")(try_)
app.command()(replay)
app.command()(remove)
