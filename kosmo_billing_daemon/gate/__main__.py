"""``python -m kosmo_billing_daemon.gate salvage FILE [--into STATE]``: messages from a file set aside.

Prints the messages that are not known to be counted, a JSON object each; ``held`` are those of which nobody
knows whether they passed. With ``--into`` they are written into the state file of a gate that is not running,
which reports them when it starts, or resolves them as it does with holds.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from kosmo_billing_daemon.errors import KosmoError
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.rows import MessageStage, Row
from kosmo_billing_daemon.gate.salvage import salvage
from kosmo_billing_daemon.gate.state import StateFile


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kosmo_billing_daemon.gate")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("salvage", help="list the messages of a state file that were not counted")
    command.add_argument("file", type=Path, help="a state file that no gate has open, e.g. one set aside")
    command.add_argument("--into", type=Path, metavar="STATE", help="write them into this state file instead")
    asked = parser.parse_args()
    try:
        found = salvage(asked.file)
        rows = found.unsent + found.held
        if asked.into is not None:
            print(f"{_write(asked.into, rows)} of {len(rows)} messages written into {asked.into}")  # noqa: T201  a command
            return 0
    except (OSError, KosmoError) as error:
        print(f"salvage: {error}", file=sys.stderr)  # noqa: T201  a command
        return 1
    for row in rows:
        print(json.dumps(_message(row)))  # noqa: T201  a command
    return 0


def _write(path: Path, rows: list[Row]) -> int:
    state = StateFile(path)
    try:
        journal = Journal(state)
        with state.transaction():
            return sum(journal.append(row) > 0 for row in rows)
    finally:
        state.close()


def _message(row: Row) -> dict[str, object]:
    return {
        "user_id": str(UUID(int=row.user)),
        "node_id": row.node,
        "message_id": row.message_id,
        "count": row.number,
        "sent_at": datetime.fromtimestamp(row.sent_at, UTC).isoformat(),
        "held": row.stage is MessageStage.HELD,
    }


if __name__ == "__main__":
    sys.exit(main())
