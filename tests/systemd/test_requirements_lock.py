"""The lock file is what packages are built from: complete, checked by hash, and bound to no place."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "config" / "requirements.lock").read_text()
ENTRY = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?: ; (?P<marker>[^\\\n]+?))? \\$", re.MULTILINE
)


def test_every_dependency_is_locked_at_a_version_it_allows() -> None:
    locked = {found["name"]: Version(found["version"]) for found in ENTRY.finditer(LOCK)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is missing: see the README on how the lock file is made"
        assert requirement.specifier.contains(locked[name]), f"{requirement}, locked at {locked[name]}"


def test_nothing_but_versions_and_hashes_is_in_it() -> None:
    strangers = [
        line
        for line in LOCK.splitlines()
        if not ENTRY.fullmatch(line) and not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line)
    ]
    assert strangers == []
    assert "://" not in LOCK


def test_each_version_has_a_hash_and_several_where_wheels_differ() -> None:
    blocks = re.split(r"(?=^[a-z0-9-]+==)", LOCK, flags=re.MULTILINE)[1:]
    hashes = {block.partition("==")[0]: block.count("--hash=") for block in blocks}
    assert min(hashes.values()) >= 1
    for name in ("aiohttp", "asyncpg", "pydantic-core", "uvloop", "yarl"):
        assert hashes[name] > 4, f"{name}: two interpreters on two machines, and the source"


def test_which_versions_are_taken_does_not_depend_on_the_interpreter() -> None:
    """pip judges markers by the interpreter it runs on, and packages are built for others too."""
    markers = {found["marker"] for found in ENTRY.finditer(LOCK) if found["marker"]}
    assert not [marker for marker in markers if "python_version" in marker or "python_full_version" in marker]
