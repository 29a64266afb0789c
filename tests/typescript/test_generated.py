"""The TypeScript types shipped as examples are those of the documents."""

import re

import pytest

from tests.typescript.generate import FILES, TARGET


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_what_is_made_now(name: str) -> None:
    """After a change: python -m tests.typescript.generate."""
    assert (TARGET / name).read_text("utf-8") == FILES[name]()


@pytest.mark.parametrize("name", FILES)
def test_every_type_that_is_used_is_there_once(name: str) -> None:
    text = re.sub(r'/\*\*.*?\*/|//.*|"[^"]*"', "", FILES[name](), flags=re.DOTALL)
    declared = re.findall(r"export (?:interface|type|const) (\w+)", text)
    assert len(set(declared)) == len(declared)
    used = set(re.findall(r"\b[A-Z]\w+\b", text)) - {"Record"}
    assert used <= set(declared)
    assert text.count("{") == text.count("}")


def test_the_hook_uses_fields_that_the_api_has() -> None:
    hook = (TARGET / "useEntitlement.ts").read_text("utf-8")
    (imported,) = re.findall(r'import type \{ (\w+) \} from "./api"', hook)
    assert f"export interface {imported} " in FILES["api.ts"]()
    assert "/api/v1/billing/subscription/events" in hook
