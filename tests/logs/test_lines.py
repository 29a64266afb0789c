import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from kosmo_billing_daemon.runtime.logs import Format, Level, configure, fields

log = logging.getLogger("kosmo_billing_daemon.services.settlement")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leaves logging as it was found."""
    root, ours = logging.getLogger(), logging.getLogger("kosmo_billing_daemon")
    before = root.handlers[:], root.level, ours.level
    yield
    for handler in root.handlers[:]:
        if handler not in before[0]:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(capture=False)


def _lines(format: Format = Format.TEXT, level: Level = Level.INFO) -> io.StringIO:  # noqa: A002  as in configure
    stream = io.StringIO()
    configure(format, level, stream, environ={})
    return stream


def test_a_line_has_time_level_part_fact_and_fields() -> None:
    stream = _lines()
    log.info("invoice settled", extra=fields(invoice="inv1", user="u 1", request=None, count=3))
    time, rest = stream.getvalue().split(" ", 1)
    assert len(time) == len("12:01:02")
    assert rest == 'INFO    settlement  invoice settled  invoice=inv1 user="u 1" count=3\n'


def test_ours_are_written_from_the_level_and_those_of_libraries_from_warning() -> None:
    stream = _lines(level=Level.DEBUG)
    log.debug("ours")
    logging.getLogger("aiohttp.access").info("theirs")
    logging.getLogger("aiohttp.access").warning("their warning")
    assert [line.split(maxsplit=3)[1:] for line in stream.getvalue().splitlines()] == [
        ["DEBUG", "settlement", "ours"],
        ["WARNING", "aiohttp.access", "their warning"],
    ]
    configure(Format.TEXT, Level.ERROR, stream, environ={})
    log.warning("not severe enough")
    assert "not severe enough" not in stream.getvalue()


def test_to_configure_again_replaces_what_was_there() -> None:
    first, second = _lines(), _lines()
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\n12:00:00 ERROR x", '"a\\\\n12:00:00 ERROR x"'),
        ("a\r\t\0b", "a\\\\r\\\\t\\\\x00b"),
        ("\x1b[31mred", "\\\\x1b[31mred"),
        ("\x9b31m\u2028\u202e", "\\\\x9b31m\\\\u2028\\\\u202e"),
        ("back\\slash", "back\\\\\\\\slash"),
        ('say "hi"', '"say \\\\"hi\\\\""'),
        ("", '""'),
        ("ünï😀", "ünï😀"),
    ],
)
def test_no_value_breaks_out_of_its_line(value: str, shown: str) -> None:
    shown = shown.replace("\\\\", "\\")
    stream = _lines()
    log.info("fact", extra=fields(value=value))
    assert stream.getvalue().endswith(f"  fact  value={shown}\n")
    log.info("%s", value)
    assert stream.getvalue().count("\n") == 2


def test_a_value_that_is_no_unicode_is_shown_all_the_same() -> None:
    stream = _lines()
    log.info("fact", extra=fields(value="caf\udce9"))
    assert stream.getvalue().endswith("value=caf\\\\udce9\n")


def test_a_traceback_is_indented_and_cannot_pass_for_a_record() -> None:
    stream = _lines()
    try:
        raise ValueError("bad\n12:00:00 INFO    settlement  invoice settled")
    except ValueError:
        log.exception("a batch failed", extra=fields(batch=7))
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("a batch failed  batch=7")
    assert others
    assert all(line.startswith("    ") for line in others)


def test_json_is_one_object_per_record_and_a_field_replaces_none_of_ours() -> None:
    stream = _lines(Format.JSON)
    log.warning(
        "fact\n%s", "told", extra=fields(invoice="a\u2028b", count=2, done=True, message="forged", level="x")
    )
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "part": "settlement",
        "message": "fact\ntold",
        "invoice": "a\u2028b",
        "count": 2,
        "done": True,
    }
    assert second["failure"].endswith("ValueError: bad")


def test_a_record_that_cannot_be_told_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("nothing to show")

    stream = _lines()
    log.info("fact", extra=fields(value=Broken()))
    log.info("next")
    assert stream.getvalue().count("\n") == 1
    assert "nothing to show" in capsys.readouterr().err


def test_warnings_of_the_interpreter_become_records() -> None:
    stream = _lines()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    assert "WARNING py.warnings" in stream.getvalue()


def test_a_closed_stream_ends_nothing() -> None:
    stream = _lines()
    stream.close()
    log.info("nobody reads this")


def test_a_reader_that_stalls_loses_lines_and_is_told_how_many() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(reading, "rb") as reader, open(writing, "w") as stream:  # noqa: PTH123  descriptors, not paths
        configure(Format.TEXT, Level.INFO, stream, environ={})
        for number in range(2000):  # far more than the 64 KiB of a pipe
            log.info("line %d %s", number, "x" * 100)
        told = reader.read()
        assert told is not None
        written = told.count(b"\n")
        assert 0 < written < 2000
        log.info("read again")
        end = reader.read()
        assert end is not None
        dropped, last = end.decode().splitlines()
        assert dropped.endswith(f"because their reader stalled  count={2000 - written}")
        assert last.endswith("read again")


def test_without_a_journal_lines_are_text(tmp_path: Path) -> None:
    stream = io.StringIO()
    configure(Format.JOURNAL, Level.INFO, stream, environ={}, journal_socket=str(tmp_path / "missing"))
    log.info("fact")
    assert stream.getvalue().endswith("INFO    settlement  fact\n")
