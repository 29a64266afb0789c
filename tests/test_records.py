"""Records are values: they compare and hash by their fields, and mypy lets nobody change one."""

from dataclasses import replace
from pathlib import Path

from mypy import api

from kosmo_billing_daemon.runtime.records import record

ROOT = Path(__file__).parents[1]

CHANGES = """
from dataclasses import replace
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.invoices import Case, Invoice

def change(price: Price, case: Case, invoice: Invoice) -> None:
    price.currency = "EUR"
    case.detail = ""
    invoice.checkout_url = None
    replace(invoice, checkout_url=None)
    replace(invoice, checkout_url=1)
"""


@record
class Place:
    name: str
    height: int = 0


@record(kw_only=True)
class Way:
    start: Place
    end: Place


def test_records_compare_and_hash_by_their_fields() -> None:
    ways = {Way(start=Place("a"), end=Place("b", 2)), Way(start=Place("a", 0), end=Place("b", height=2))}
    assert len(ways) == 1
    assert ways != {Way(start=Place("b"), end=Place("a"))}
    assert replace(Place("a"), height=1) == Place("a", 1)
    assert not hasattr(Place("a"), "__dict__")


def test_mypy_refuses_every_change_of_a_record(tmp_path: Path) -> None:
    changing = tmp_path / "changing.py"
    changing.write_text(CHANGES)
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    said, _, _ = api.run([*config, str(changing)])
    lines = CHANGES.splitlines()
    refused = {lines[int(line.split(":")[1]) - 1].strip() for line in said.splitlines() if " error: " in line}
    assert refused == {line.strip() for line in lines if " = " in line or "=1" in line}, said
