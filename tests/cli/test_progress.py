"""How far a long command is: in words where no bar can be drawn, and for whoever interrupts it."""

import contextlib
import os
import pty

import pytest

from kosmo_billing_daemon.cli.progress import LongWork, long_work


def test_share_and_time_left_are_said_as_far_as_they_are_known() -> None:
    work = LongWork(None)
    assert work.said == "starting: 0 s"
    work.begin("reading")
    work.done(1_200)
    assert work.said == "reading: 1,200 so far, 0 s"
    work.begin("extending", 4_000)
    assert work.said == "extending: 0 of 4,000 (0 %), 0 s so far"
    work.done(4_000)
    assert work.said == "extending: 4,000 of 4,000 (100 %), about 0 s left"


def test_whoever_interrupts_reads_what_is_done_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(KeyboardInterrupt), long_work() as work:
        work.begin("extending", 10)
        work.done(5)
        raise KeyboardInterrupt
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("interrupted. extending: 5 of 10 (50 %), about 0 s left;")
    assert err.endswith("run the same command again to continue\n")


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        with long_work() as work:
            work.begin("extending", 10)
            work.done(5)
        terminal.flush()
    shown = ""
    with contextlib.suppress(OSError), os.fdopen(ours, encoding="utf-8") as screen:  # EIO: nobody has it open
        for part in screen:
            shown += part
    assert "extending" in shown
    assert "5/10" in shown
    assert "left" in shown
