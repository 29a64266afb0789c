"""Whatever is imported comes with what pyproject.toml asks for, not with what an old environment has."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = ("kosmo_billing_daemon", "tests")


def asked(texts: list[str], extras: set[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            yield requirement


def installed_for(project: dict[str, object]) -> set[str]:
    """Return the distributions that an empty environment has after our own install, with every extra."""
    match project:
        case {"dependencies": list(main), "optional-dependencies": dict(extras)}:
            waiting = list(asked([*main, *(text for extra in extras.values() for text in extra)], set()))
        case _:
            raise AssertionError(project)
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        one = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if one in found:
            continue
        found.add(one)
        try:
            waiting += asked(requires(requirement.name) or [], requirement.extras)
        except PackageNotFoundError:
            continue  # an extra that the tests do not install
    return {name for name, _ in found}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Import(names=names):
                yield from (name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


def test_what_is_imported_comes_with_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    available, known = packages_distributions(), installed_for(project)
    assert {"aiohttp", "yarl", "cryptography"} <= known
    foreign = {
        f"{path.relative_to(ROOT)}: {module}"
        for room in OURS
        for path in (ROOT / room).rglob("*.py")
        for module in imported(path)
        if module not in {*OURS, *sys.stdlib_module_names}
        and not known & {canonicalize_name(name) for name in available.get(module, [module])}
    }
    assert not foreign
