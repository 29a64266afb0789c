"""``kosmo-billing``: thin commands; each parses, makes one call, and renders.

Reading order: commands (where each is found), frame (exit codes, options, how a command runs), serving,
playing; then what operators use: opened (their surroundings), rendering and explaining (how results look),
and one module a command.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Annotated, TextIO

import typer

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.cli.commands import Commands
from kosmo_billing_daemon.cli.frame import EX_FAILED, EX_UNAVAILABLE, EX_USAGE, fail, fail_with_problems
from kosmo_billing_daemon.errors import KosmoError, Misconfigured, Unavailable

HELP = """Sells KosmoConnect plans through BTCPay Server and tells gateways over MQTT what users may do.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 69 a dependency is unreachable, 78 bad settings.
"""

app = typer.Typer(
    name="kosmo-billing",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=lambda asked: _version(asked=asked), is_eager=True)
    ] = False,
) -> None:
    """Say nothing; options belong to commands."""


def main() -> None:
    """Run a command; whatever an operator can cause ends in one clear message and its exit code.

    Only a bug of ours ends in a traceback.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as long as we were loading it just ended us
    _prepare_streams()
    if any(not _is_text(word) for word in sys.argv[1:]):
        fail("an argument is not UTF-8 text", EX_USAGE)
    with _told():
        try:
            app(prog_name="kosmo-billing")
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell errors that are not ours to fix in one message."""
    try:
        yield
    except Misconfigured as error:
        fail_with_problems(error)
    except Unavailable as error:
        fail(error.message, EX_UNAVAILABLE)
    except KosmoError as error:
        fail(error.message, EX_FAILED)
    except BrokenPipeError:
        # The reader of our output has gone. Nothing may be flushed at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EX_FAILED)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        _give_up_output(error)
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}", EX_FAILED)
    except Exception as error:
        from kosmo_billing_daemon.store.errors import described  # noqa: PLC0415 - only for an error

        if (told := described(error)) is None:
            raise
        fail(told, EX_FAILED)


def _give_up_output(error: OSError) -> None:
    """Drop what cannot be written (a full disk behind standard output), or Python would try it again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        error.filename = error.filename or "standard output"


def _prepare_streams() -> None:
    """Let every text be printed wherever it goes: what a terminal has no character for becomes ``?``."""
    sys.stdout, sys.stderr = _open_stream(sys.stdout), _open_stream(sys.stderr)


def _open_stream(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed by whoever started us
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - as long as the process
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return stream


def _is_text(word: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in word)
