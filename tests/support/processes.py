"""Processes as the operating system sees them, and scripts that start some and are then killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kosmo_billing_daemon.demo.children import family, is_alive

DEADLINE = 20.0


async def eventually(fact: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """Wait until `fact` holds; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


def with_descendants(pid: int) -> list[int]:
    """`pid` and every process below it."""
    return [pid, *(deeper for child in family(pid) for deeper in with_descendants(child))]


def _running(script: str, *arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=cwd, env=environment)  # noqa: S603  our own text


async def killed_parent_leaves_nothing(script: str, *arguments: str, cwd: Path) -> None:
    """Run `script`, which starts a service and prints a line; kill -9 it; everything below it must vanish."""
    with _running(script, *arguments, cwd=cwd) as parent:
        try:
            assert parent.stdout is not None
            first_line = await asyncio.to_thread(parent.stdout.readline)
            assert first_line.strip() == b"started"
            family_pids = with_descendants(parent.pid)
            assert len(family_pids) > 1
        finally:
            parent.send_signal(signal.SIGKILL)
    await eventually(lambda: not any(map(is_alive, family_pids)), f"the end of {family_pids}")
