"""One fact per line: readable on a terminal, JSON by setting, fields of their own in the journal.

A record is a past-tense fact and its fields: ``log.info("invoice settled", extra=fields(invoice=number))``.
Values from outside cannot begin a line of their own, colour a terminal or add a journal field: control
characters are escaped. A reader that stalls never stalls the daemon: what it does not take is dropped,
and the next record is preceded by one that says how many were.
"""

import array
import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import select
import socket
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any, TextIO

JOURNAL_SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "kosmo-billing"
_PACKAGE = "kosmo_billing_daemon"


class Format(StrEnum):
    """How records are written."""

    AUTO = "auto"  # journal if systemd reads our stderr for it, else text
    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


class Level(StrEnum):
    """From which severity on our own records are written; those of libraries start at warning."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def fields(**values: object) -> dict[str, Any]:
    """Make the ``extra`` of a record; fields that are ``None`` are left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def configure(
    format: Format = Format.AUTO,  # noqa: A002  the operator's word, LOG_FORMAT
    level: Level = Level.INFO,
    stream: TextIO | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    journal_socket: str = JOURNAL_SOCKET,
) -> None:
    """Send all records to ``stream`` (default stderr) or to the journal; a repeat replaces the first."""
    stream = sys.stderr if stream is None else stream
    environ = os.environ if environ is None else environ
    wants_journal = format is Format.JOURNAL or (format is Format.AUTO and _is_journal(stream, environ))
    handler: _Handler
    if wants_journal and _reachable(journal_socket):
        handler = _JournalHandler(journal_socket)
    else:
        handler = _StreamHandler(stream, _json_line if format is Format.JSON else _text_line)
    root = logging.getLogger()
    for former in root.handlers[:]:
        if isinstance(former, _Handler):
            root.removeHandler(former)
            former.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_PACKAGE).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # What no line shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether systemd says that what is written to ``stream`` ends in the journal."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file at all (io.UnsupportedOperation is both)
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    given = getattr(record, "fields", None)
    return dict(given) if isinstance(given, Mapping) else {}


@cache
def _part(name: str) -> str:
    """Name the part of the daemon, or the library, whose logger this is."""
    is_ours = name == _PACKAGE or name.startswith(_PACKAGE + ".")
    return name.removeprefix(_PACKAGE + ".").rpartition(".")[2] if is_ours else name


def _failure(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[1] is not None:
        return "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
    return None


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", ord("\\"): "\\\\"}
# Line separators of Unicode, and the marks that let text show in another order than it has.
_ESCAPES |= {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def escaped(text: str) -> str:
    """Make control characters visible, so that a value stays within its line."""
    if text.isprintable() and "\\" not in text:  # none of those to escape is printable, but for one
        return text
    return text.encode("utf-8", "backslashreplace").decode().translate(_ESCAPES)


def _text_line(record: logging.LogRecord) -> str:
    """``12:01:02 INFO    settlement  invoice settled  invoice=... user=...``, times in UTC."""
    return (
        f"{_moment(int(record.created))} {record.levelname:<7} {escaped(_part(record.name))}  {_told(record)}"
    )


@lru_cache(maxsize=1)
def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%H:%M:%S")


def _told(record: logging.LogRecord) -> str:
    """The fact, its fields and its traceback, whose lines are indented: none can pass for a record."""
    text = escaped(record.getMessage())
    if given := _fields(record):
        text += "  " + " ".join(f"{escaped(str(name))}={_word(value)}" for name, value in given.items())
    if failure := _failure(record):
        text += "".join("\n    " + escaped(line) for line in failure.split("\n"))
    return text


_AMBIGUOUS = re.compile('[ "=]')


def _word(value: object) -> str:
    text = escaped(str(value))
    return '"' + text.replace('"', '\\"') + '"' if not text or _AMBIGUOUS.search(text) else text


def _json_line(record: logging.LogRecord) -> str:
    """One object; a field never replaces one of ours."""
    entry: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "part": _part(record.name),
        "message": record.getMessage(),
    }
    if failure := _failure(record):
        entry["failure"] = failure
    for name, value in _fields(record).items():
        entry.setdefault(str(name), value if isinstance(value, bool | int) else str(value))
    return json.dumps(entry)  # in ASCII, where every control character is escaped


class _Handler(logging.Handler, ABC):
    """Drops and counts what cannot be written now."""

    _dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                told = {"fields": {"count": self._dropped}}
                self._write(logging.makeLogRecord(_DROPPED | told))
                self._dropped = 0
            self._write(record)
        except OSError:
            self._dropped += 1
        except Exception:  # noqa: BLE001  as logging does: a record that cannot be told ends nothing
            self.handleError(record)

    @abstractmethod
    def _write(self, record: logging.LogRecord) -> None:
        """Write at once; raises ``OSError`` if that is not possible."""


_DROPPED: dict[str, object] = {
    "name": f"{_PACKAGE}.logs",
    "msg": "log records dropped, because their reader stalled",
    "levelno": logging.WARNING,
    "levelname": "WARNING",
}


class _StreamHandler(_Handler):
    """Lines to a terminal, a file, or a pipe; waits a moment for its reader, once per stall."""

    def __init__(self, stream: TextIO, line: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._stream = stream
        self._line = line
        self._poll: select.poll | None = None
        with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor never stalls
            descriptor = stream.fileno()
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLOUT)

    def _write(self, record: logging.LogRecord) -> None:
        # A writable pipe takes 4096 bytes without waiting: every line of ours but long tracebacks.
        if self._poll is not None and not self._poll.poll(0 if self._dropped else 100):
            raise BlockingIOError
        if not self._stream.closed:
            self._stream.write(self._line(record) + "\n")
            self._stream.flush()


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def _reachable(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(path) == 0


class _JournalHandler(_Handler):
    """The native protocol of journald: fields ``KOSMO_*`` can be matched by ``journalctl``."""

    def __init__(self, path: str) -> None:
        super().__init__()
        # Not connected: a restarted journal is found again by its path.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = path

    def _write(self, record: logging.LogRecord) -> None:
        entry = _journal_entry(record)
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_as_file(entry)

    def _send_as_file(self, entry: bytes) -> None:
        """Hand over a sealed memory file: what journald asks for when a datagram cannot hold the entry."""
        descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(descriptor, "wb", closefd=True) as file:
            file.write(entry)
            file.flush()
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            self._socket.sendmsg([], rights, 0, self._path)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _journal_entry(record: logging.LogRecord) -> bytes:
    parts = {
        "MESSAGE": _told(record),
        "PRIORITY": str(next((priority for level, priority in _PRIORITIES if record.levelno >= level), 7)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "KOSMO_PART": _part(record.name),
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
    }
    for name, value in _fields(record).items():
        # 64 characters of A-Z, 0-9 and _ are what journald takes as a name.
        parts.setdefault("KOSMO_" + re.sub(r"[^A-Z0-9_]", "_", str(name).upper())[:58], str(value))
    return b"".join(_journal_field(name, value) for name, value in parts.items())


def _journal_field(name: str, value: str) -> bytes:
    """``NAME=value``, or with a length in front where a line break could end the value early."""
    told = value.encode("utf-8", "backslashreplace")
    if b"\n" in told:
        return name.encode() + b"\n" + len(told).to_bytes(8, "little") + told + b"\n"
    return name.encode() + b"=" + told + b"\n"
