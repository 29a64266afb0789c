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
