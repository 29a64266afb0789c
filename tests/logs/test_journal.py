import array
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kosmo_billing_daemon.runtime.logs import Format, Level, configure, fields

log = logging.getLogger("kosmo_billing_daemon.services.settlement")


class Journal:
    """The receiving end of journald's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(str(path))

    def entry(self) -> dict[str, str]:
        """Receive one entry, from the datagram or from the file handed over with it."""
        received, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _, _, handed_over in ancillary:
            (descriptor,) = array.array("i", handed_over)
            with os.fdopen(descriptor, "rb") as file:
                assert received == b""
                with pytest.raises(PermissionError):
                    os.ftruncate(descriptor, 0)  # sealed, or journald refuses it
                file.seek(0)
                received = file.read()
        return _parsed(received)


def _parsed(entry: bytes) -> dict[str, str]:
    """Read journald's native protocol."""
    found: dict[str, str] = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        assert name.decode() not in found
        found[name.decode()], entry = value.decode(), rest
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal that our records go to."""
    root, ours = logging.getLogger(), logging.getLogger("kosmo_billing_daemon")
    before = root.handlers[:], root.level, ours.level
    journal = Journal(tmp_path / "journal")
    with (tmp_path / "stderr").open("w") as stderr:
        status = os.fstat(stderr.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        configure(Format.AUTO, Level.DEBUG, stderr, environ=environ, journal_socket=str(journal.path))
        yield journal
        for handler in root.handlers[:]:
            if handler not in before[0]:
                root.removeHandler(handler)
                handler.close()
    journal.socket.close()
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(capture=False)


def test_an_entry_has_fields_of_its_own(journal: Journal) -> None:
    log.info("invoice settled", extra=fields(invoice="inv1", user="u1", request_id="r1"))
    entry = journal.entry()
    assert entry.pop("CODE_FILE").endswith("test_journal.py")
    assert int(entry.pop("CODE_LINE")) > 0
    assert entry.pop("CODE_FUNC") == "test_an_entry_has_fields_of_its_own"
    assert entry == {
        "MESSAGE": "invoice settled  invoice=inv1 user=u1 request_id=r1",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "kosmo-billing",
        "KOSMO_PART": "settlement",
        "KOSMO_INVOICE": "inv1",
        "KOSMO_USER": "u1",
        "KOSMO_REQUEST_ID": "r1",
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", "7"), ("INFO", "6"), ("WARNING", "4"), ("ERROR", "3"), ("CRITICAL", "2")],
)
def test_severity_is_told_as_syslog_counts_it(journal: Journal, level: str, priority: str) -> None:
    log.log(logging.getLevelNamesMapping()[level], "fact")
    assert journal.entry()["PRIORITY"] == priority


def test_no_value_adds_a_field(journal: Journal) -> None:
    log.info("a\nPRIORITY=0", extra=fields(user="u\nMESSAGE=forged\n", part="forged", **{"odd name=": "x"}))
    entry = journal.entry()
    assert entry["PRIORITY"] == "6"
    assert entry["MESSAGE"].startswith("a\\nPRIORITY=0  user=")
    assert entry["KOSMO_USER"] == "u\nMESSAGE=forged\n"
    assert entry["KOSMO_PART"] == "settlement"
    assert entry["KOSMO_ODD_NAME_"] == "x"


def test_an_entry_too_long_for_a_datagram_is_handed_over_as_a_file(journal: Journal) -> None:
    log.info("long", extra=fields(invoice="x" * 1_000_000))
    assert journal.entry()["KOSMO_INVOICE"] == "x" * 1_000_000


def test_a_traceback_stays_in_the_message(journal: Journal) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("a batch failed")
    assert journal.entry()["MESSAGE"].endswith("\n    ValueError: bad")


def test_a_full_journal_is_not_waited_for_and_the_loss_is_told(journal: Journal) -> None:
    for number in range(1000):
        log.info("line %d", number)
    taken = 0
    journal.socket.setblocking(False)
    while True:
        try:
            journal.entry()
        except BlockingIOError:
            break
        taken += 1
    assert 0 < taken < 1000
    journal.socket.settimeout(5)
    log.info("read again")
    assert journal.entry()["KOSMO_COUNT"] == str(1000 - taken)
    assert journal.entry()["MESSAGE"] == "read again"


def test_a_journal_that_was_restarted_is_found_again(journal: Journal) -> None:
    journal.socket.close()
    journal.path.unlink()
    log.info("lost")
    again = Journal(journal.path)
    try:
        log.info("found")
        assert again.entry()["KOSMO_COUNT"] == "1"
        assert again.entry()["MESSAGE"] == "found"
    finally:
        again.socket.close()


def test_a_stream_that_is_not_the_journals_gets_lines(journal: Journal, tmp_path: Path) -> None:
    with (tmp_path / "redirected").open("w+") as stream:
        environ = {"JOURNAL_STREAM": "1:1"}
        configure(Format.AUTO, Level.INFO, stream, environ=environ, journal_socket=str(journal.path))
        log.info("fact")
        configure(Format.AUTO, Level.INFO, stream, environ={}, journal_socket=str(journal.path))
        log.info("fact")
        stream.seek(0)
        assert stream.read().count("INFO    settlement  fact\n") == 2
