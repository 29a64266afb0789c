"""All benchmarks against the goals, one table and JSON: `python -m tests.bench.run`, or `tests/bench/run`.

The real daemon as a process, PostgreSQL with fsync and synchronous commits, Mosquitto, and a BTCPay that
answers at once, driven from this process. Goals are told, not asserted: the exit code is 0 unless a
benchmark broke.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import load
from tests.bench.figures import Figure, Row, rows, table
from tests.bench.rig import run

ALL = (
    "demo",
    "settlement",
    "usage",
    "creation",
    "publishing",
    "expiry",
    "gate",
    "leases",
    "console",
    "growth",
    "footprint",
)
NAMES = tuple(name for name in ALL if importlib.util.find_spec(f"tests.bench.{name}"))
LOAD = "load"


def figures(name: str, arguments: argparse.Namespace) -> list[Figure]:
    """What one benchmark found."""
    if name == LOAD:
        return run(load.measure(arguments.load_minutes or 10))
    found: list[Figure] = run(
        importlib.import_module(f"tests.bench.{name}").measure(arguments.rounds, quick=arguments.quick)
    )
    return found


def document(found: dict[str, list[Row]], broken: list[str], arguments: argparse.Namespace) -> str:
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
    }
    return json.dumps(
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "rounds": arguments.rounds,
            "quick": arguments.quick,
            "broken": broken,
            "rows": [row.document() | {"benchmark": name} for name, each in found.items() for row in each],
        },
        indent=2,
        ensure_ascii=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", action="append", choices=(*NAMES, LOAD))
    parser.add_argument("--rounds", type=int, default=3, help="the table shows their median (default: 3)")
    parser.add_argument("--quick", action="store_true", help="less work per round: to try the benchmarks")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument(
        "--load-minutes", type=float, default=0, metavar="N", help="add N minutes at half the most"
    )
    arguments = parser.parse_args()
    names = arguments.only or [*NAMES, *([LOAD] if arguments.load_minutes else [])]
    found: dict[str, list[Row]] = {}
    broken: list[str] = []
    for name in names:
        began = time.monotonic()
        try:
            found[name] = rows(figures(name, arguments))
        except Exception:  # noqa: BLE001  the others are wanted all the same
            traceback.print_exc()
            broken.append(name)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(table([row for each in found.values() for row in each]))
    if arguments.json:
        arguments.json.write_text(document(found, broken, arguments) + "\n")
    for name in broken:
        print(f"{name} broke, see above", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
