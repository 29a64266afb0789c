"""Crash points: what the daemon does to anything outside its process, named as the other side knows it.

A crash between two such effects is the same crash wherever in the code it happens. So a point is a row
written, a commit, an HTTP request or answer, or a packet to the broker. Its name is what crosses the border:
a table, a topic, a route. It names no function or module, so a rename in the package changes no point. Since
the border is watched (``tests.crash.daemon``), nobody has to remember a label for a new effect.

``points.txt`` keeps the points that the paths pass. After a change of what is written or sent on them:

    KOSMO_CRASH_RECORD=1 python -m pytest -p no:xdist tests/crash/test_crash_points.py
"""

import ast
import re
from pathlib import Path

import kosmo_billing_daemon

ROOT = Path(kosmo_billing_daemon.__file__).parent
SCHEMA = ROOT / "store" / "migrations" / "0001_initial.sql"
ACCESS = Path("config/mosquitto/acl")
TABLE = Path(__file__).with_name("points.txt")

_WRITE = re.compile(
    r"\b(INSERT) INTO (\w+)|(?<!FOR )(?<!DO )(?<!KEY )\b(UPDATE) (?!ON |OR )([a-z]\w*)|\b(DELETE) FROM (\w+)"
    r"|\b(SELECT) (raise_versions|repeat_documents|queue_users|setval|pg_notify)\b"
)

_BY_HAND = "an operator's command, which sees it fail"
_REQUEST = "one transaction, whose request sees it fail"
_AGAIN = "done again by the next round, which finds it as it was"
_CLEANS = "removes what is past its time; the next round removes the rest"
_FAILURE = "after a failure of something else, in a transaction as on the undisturbed path"
_RISES = "raises versions; a repeat only raises them further"
_ELSEWHERE = "killed in a test of its own"

UNPASSED = {
    "adopted_rows": _ELSEWHERE,
    "adopted_users": _ELSEWHERE,
    "adoptions": _ELSEWHERE,
    "attention_cases": _FAILURE,
    "attachments": _CLEANS,
    "audit_log": _BY_HAND,
    "console_logins": _REQUEST,
    "console_sessions": _REQUEST,
    "delete auto_renewals": _BY_HAND,
    "delete btcpay_invoices": _CLEANS,
    "delete events": _CLEANS,
    "delete idempotency_keys": _CLEANS,
    "delete inquiries": _AGAIN,
    "delete leases": _CLEANS,
    "delete usage_days": _CLEANS,
    "delete usage_events": _CLEANS,
    "delete usage_quarantine": _CLEANS,
    "delete webhook_deliveries": _CLEANS,
    "entitlements": "written by triggers in the transaction of their cause; cleaned as the others",
    "erased_users": _BY_HAND,
    "extended_users": _ELSEWHERE,
    "extensions": _ELSEWHERE,
    "figures": _AGAIN,
    "hook_answers": _ELSEWHERE,
    "hook_deliveries": _ELSEWHERE,
    "hooks": _BY_HAND,
    "insert auto_renewals": _REQUEST,
    "kosmo_billing_migrations": "before there is any path",
    "ledger_days": _AGAIN,
    "lease_files": "with the grant of a lease, in its transaction",
    "node_additions": _REQUEST,
    "parked_reports": _FAILURE,
    "pseudonyms": _BY_HAND,
    "publish time-answers": "changes nothing; who asked asks again",
    "queue_users": _CLEANS,
    "raise_versions": _BY_HAND,
    "recounts": _AGAIN,
    "refunds": _BY_HAND,
    "renewal_links": "a hash, with the reminder that needs it or alone; a repeat inserts nothing",
    "repeat_documents": _RISES,
    "reporter_cases": _BY_HAND,
    "setval": _RISES,
    "takings": _AGAIN,
    "top_ups": _AGAIN,
    "update lookups": _AGAIN,
    "update usage_days": _BY_HAND,
    "update outbox": "when the broker is slow with a part of a row; what stays is published again",
    "pg_notify": "without it the next round finds what waits",
    "whitelisted_nodes": _REQUEST,
}
"""Effects, or tables with all theirs, that no path has but by chance: why no crash there loses anything."""


def is_excused(point: str) -> bool:
    effect = point.removeprefix("commit of ")
    return effect in UNPASSED or written_to(effect) in UNPASSED


def written_to(effect: str) -> str | None:
    """Return the table, or the function of SQL, of an effect in the database."""
    verb, _, name = effect.partition(" ")
    return name if verb in ("insert", "update", "delete", "select") else None


def written(sql: str) -> list[str]:
    """What a statement writes, in its order, each once: ``insert ledger``."""
    found = (" ".join(part for part in match.groups() if part).lower() for match in _WRITE.finditer(sql))
    return list(dict.fromkeys(found))


def published(topic: str) -> str:
    """Return the kind of a topic: its level below the prefix."""
    return topic.split("/")[3]


def every_write() -> set[str]:
    """What any statement in the store of the package writes."""
    trees = (ast.parse(file.read_text()) for file in (ROOT / "store").rglob("*.py"))
    constants = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {write for each in constants if isinstance(each.value, str) for write in written(each.value)}


def every_table() -> set[str]:
    return set(re.findall(r"^CREATE (?:UNLOGGED )?TABLE (\w+)", SCHEMA.read_text(), re.MULTILINE))


def every_publication() -> set[str]:
    """What the daemon may publish at all, by the broker's access list."""
    block = ACCESS.read_text().partition("\nuser kosmo-billing\n")[2].partition("\n\n")[0]
    return {
        f"publish {published(topic)}"
        for topic in re.findall(r"^topic (?:read)?write (\S+)", block, re.MULTILINE)
    }


def load_table() -> set[str]:
    return set(TABLE.read_text().splitlines())
