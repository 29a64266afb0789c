"""What every command stands in: exit codes, options, the event loop, and signals."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from kosmo_billing_daemon.errors import Misconfigured

T = TypeVar("T")

EX_FAILED = 1
EX_UNAVAILABLE = 69
EX_CONFIG = 78

EnvFile = Annotated[
    Path | None, typer.Option("--env-file", help="File of KEY=VALUE lines; the environment wins over it.")
]


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Reason = Annotated[
    str,
    typer.Option("--reason", help="Why, in one line; kept with your name.", prompt=False, show_default=False),
]


def fail_with_problems(error: Misconfigured) -> NoReturn:
    """Print every problem and exit 78."""
    count = len(error.problems)
    typer.echo(f"kosmo-billing: {count} problem{'s' if count > 1 else ''} with the settings:", err=True)
    for problem in error.problems:
        typer.echo(f"  - {problem}", err=True)
    sys.exit(EX_CONFIG)


def run(main_task: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is a wheel of it, else on asyncio."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.run(main_task)
    return uvloop.run(main_task)


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` on SIGTERM, SIGINT or the end of the terminal; a SIGINT after that interrupts."""
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        # From a callback of the loop: Python's own handler may raise within a protocol, and uvloop takes what
        # is raised there for an error of that connection alone.
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, asked, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
