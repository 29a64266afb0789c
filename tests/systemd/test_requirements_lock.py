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

# The least version without a known advisory, and the newest of those that made it so, as copies of PyPA's
# (to 2024), GitHub's and the projects' advisories (to autumn 2026) tell; for others none was found.
# Where its service is reached, `pip-audit -r config/requirements.lock --no-deps --disable-pip` knows more.
SAFE_FROM = {
    "aiohttp": ("3.14.3", "CVE-2026-69244"),
    "asyncpg": ("0.21.0", "CVE-2020-17446"),
    "certifi": ("2024.7.4", "CVE-2024-39689"),
    "cryptography": ("50.0.0", "CVE-2026-69247"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "httpx": ("0.23.0", "CVE-2021-41945"),
    "idna": ("3.15", "CVE-2026-45409"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "markdown-it-py": ("2.2.0", "CVE-2023-26303"),
    "pydantic": ("2.4.0", "CVE-2024-3772"),
    "pydantic-settings": ("2.14.2", "GHSA-4xgf-cpjx-pc3j"),
    "pygments": ("2.20.0", "CVE-2026-4539"),
    "pyjwt": ("2.13.0", "CVE-2026-48523"),
    "python-dotenv": ("1.2.2", "CVE-2026-28684"),
}


def locked() -> dict[str, Version]:
    return {found["name"]: Version(found["version"]) for found in ENTRY.finditer(LOCK)}


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(told) for told in project["dependencies"]]


def test_every_dependency_is_locked_at_a_version_it_allows() -> None:
    versions = locked()
    for requirement in required():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is missing: see config/README.md on how the lock file is made"
        assert requirement.specifier.contains(versions[name]), f"{requirement}, locked at {versions[name]}"


def test_no_version_with_a_known_advisory_is_locked() -> None:
    versions = locked()
    assert SAFE_FROM.keys() <= versions.keys(), "what is not locked needs no entry"
    for name, (version, advisory) in SAFE_FROM.items():
        assert versions[name] >= Version(version), f"{name} {versions[name]}: {advisory}"


def test_no_version_with_a_known_advisory_is_asked_for() -> None:
    """Where no lock file is used, an old version that is there already must not satisfy us."""
    for requirement in required():
        version, advisory = SAFE_FROM.get(canonicalize_name(requirement.name), ("0", ""))
        (floor,) = (Version(asked.version) for asked in requirement.specifier if asked.operator == ">=")
        assert floor >= Version(version), f"{requirement}: {advisory}"


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
