"""Node.js with the packages that an example names, for gateways in other languages."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from typing import NoReturn

import pytest

INSTALL_WITHIN = 120.0  # seconds
INSTALL = ("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")


def node_modules(package: Path) -> Path:
    """The modules of a package.json, of exactly the versions it names; installed once per machine.

    Fails where Node.js, or the network for the first installation, is missing.
    """
    wanted: dict[str, str] = json.loads(package.read_text())["dependencies"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kosmo-billing-tests"
    installed = cache / "-".join(["node", *(f"{name}-{version}" for name, version in wanted.items())])
    if shutil.which("node") is None or shutil.which("npm") is None:
        _missing("Node.js with npm is not installed")
    if not installed.exists():
        cache.mkdir(parents=True, exist_ok=True)
        directory = Path(mkdtemp(dir=cache))
        shutil.copy(package, directory)
        try:
            _install(directory)
            if not installed.exists():  # or somebody else was quicker
                directory.rename(installed)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    return installed / "node_modules"


def _install(directory: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603  our own words
            INSTALL, cwd=directory, capture_output=True, text=True, timeout=INSTALL_WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        _missing("npm did not install in time")
    else:
        if done.returncode:
            _missing(f"npm could not install: {done.stderr[-500:]}")


def _missing(why: str) -> NoReturn:
    pytest.fail(f"{why}; tests/run installs it")
