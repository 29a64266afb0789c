"""The gate runs where only aiomqtt is installed."""

import subprocess
import sys

SCRIPT = """
import sys, threading
import kosmo_billing_daemon.gate
heavy = {"aiohttp", "asyncpg", "httpx", "pydantic", "pydantic_settings", "typer", "rich", "uvloop"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}), threading.active_count())
"""


def test_importing_the_gate_loads_nothing_heavy_and_starts_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)  # noqa: S603  our own text
    assert done.stdout.split() == ["[]", "1"]


def test_a_system_without_file_locks_is_told_what_it_needs() -> None:
    script = "import sys; sys.modules['fcntl'] = None; import kosmo_billing_daemon.gate"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603  our own text
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "ImportError: the gate locks its state file with fcntl, which Windows does not have"
    )
