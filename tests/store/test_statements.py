"""Every SQL statement of the store is one that the migrated schema understands."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

from kosmo_billing_daemon import store
from tests.store.conftest import Connector

CALLS = {"execute", "fetch", "fetchrow", "fetchval", "executemany", "cursor", "copy_records_to_table"}
# The first two send what they are given, the others write SQL for tables that they find.
WRITTEN_ELSEWHERE = {"postgres", "combining", "old_moves", "old_tables", "old_views"}
MODULES = [
    name
    for _, name, is_package in pkgutil.iter_modules(store.__path__)
    if not is_package and name not in WRITTEN_ELSEWHERE
]


def statements(module: ModuleType) -> Iterator[tuple[str, str]]:
    """What is sent to a connection: a constant of the module, one of two, or a text where it is sent."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and _name(node.func) in {*CALLS, "Statement"}:
            sent = node.args[0]
            for each in (sent.body, sent.orelse) if isinstance(sent, ast.IfExp) else (sent,):
                place = f"{each.lineno}:{each.col_offset}"
                yield place, eval(ast.unparse(each), vars(module))  # noqa: S307  our own source


def _name(called: ast.expr) -> str:
    if isinstance(called, ast.Attribute):
        return called.attr if ast.unparse(called.value) in {"connection", "session"} else ""
    return getattr(called, "id", "")


@pytest.mark.parametrize("name", MODULES)
async def test_every_statement_can_be_prepared(connect: Connector, name: str) -> None:
    module = importlib.import_module(f"{store.__name__}.{name}")
    connection = await connect()
    for place, sql in statements(module):
        try:
            await connection.prepare(sql)
        except Exception as error:  # noqa: BLE001  the line is what helps
            pytest.fail(f"{name}.py:{place}: {error}")


def test_statements_are_found() -> None:
    found = {
        name: len(list(statements(importlib.import_module(f"{store.__name__}.{name}")))) for name in MODULES
    }
    assert found["subscriptions"] >= 8
    assert found["invoices"] >= 13
    assert sum(found.values()) >= 45
