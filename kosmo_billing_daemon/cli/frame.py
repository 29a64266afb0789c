"""What every command stands in: exit codes, options, the event loop, and signals."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

import typer

from kosmo_billing_daemon.errors import Conflict, Invalid, Misconfigured

T = TypeVar("T")

EX_FAILED = 1
EX_USAGE = 2
EX_UNAVAILABLE = 69
EX_CONFIG = 78

_LONGEST_PASSWORD = 64 * 1024


def caller() -> str | None:
    """Return who ran the installed command with sudo; ``None`` if the process runs with its caller's rights.

    The installed command sets the variable when it hands the service's secrets to us. Then a path that the
    caller gives would be read or written with rights that are not the caller's, so no option takes one.
    """
    return os.environ.get("KOSMO_BILLING_CALLER") or None


def own_path(path: Path | None) -> Path | None:
    """Refuse a path under sudo; ``-`` is standard input, which the caller opened."""
    if path is not None and str(path) != "-" and caller() is not None:
        raise typer.BadParameter("under sudo only the service's own settings and files count")
    return path


EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file", callback=own_path, help="File of KEY=VALUE lines; the environment wins over it."
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
NAMES_A_USER = "A user's UUID, or the id of an order or of BTCPay's invoice."
User = Annotated[str, typer.Argument(metavar="USER", help=NAMES_A_USER)]
Reason = Annotated[
    str,
    typer.Option("--reason", help="Why, in one line; kept with your name.", prompt=False, show_default=False),
]


def read_password(path: Path) -> str:
    """Return the password in a file, or on standard input if the path is ``-``."""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.readline(_LONGEST_PASSWORD).decode().rstrip("\r\n")
        with path.open("rb") as file:
            return file.read(_LONGEST_PASSWORD).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Invalid(f"{path} cannot be read: {why}") from error


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Open a new file, for the caller alone; what fails within the block removes it again."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} exists; name a new file, or remove it first") from None
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def fail(message: str, code: int) -> NoReturn:
    """Print one message and end with ``code``."""
    typer.echo(f"kosmo-billing: {message}", err=True)
    sys.exit(code)


def fail_with_problems(error: Misconfigured) -> NoReturn:
    """Print every problem, what fixes them, and exit 78."""
    count = len(error.problems)
    typer.echo(f"kosmo-billing: {count} problem{'s' if count > 1 else ''} with the settings:", err=True)
    for problem in error.problems:
        typer.echo(f"  - {problem}", err=True)
    if error.advice:
        typer.echo(f"  {error.advice}", err=True)
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
