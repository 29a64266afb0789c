"""An exception from a rule about security says why it is none."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCEPTION = re.compile(r"# noqa: (?P<rules>[A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*)(?P<reason>.*)")


def test_every_exception_from_a_security_rule_has_its_reason() -> None:
    files = [*ROOT.glob("kosmo_billing_daemon/**/*.py"), *ROOT.glob("tests/**/*.py")]
    bare = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if (found := EXCEPTION.search(line)) is not None
        and re.search(r"\bS[0-9]", found["rules"])
        and not re.search(r"[a-z]{3}", found["reason"])
    ]
    assert bare == []
