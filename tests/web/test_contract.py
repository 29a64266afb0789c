"""The API against its own document, tried by a program that knows nothing else of it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from kosmo_billing_daemon.contract.paths import API
from tests.web.conftest import Service

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
USER = "11111111-1111-1111-1111-111111111111"


@pytest.mark.parametrize(
    "examples", [5, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])]
)
async def test_the_api_does_what_its_document_says_whatever_comes_in(
    service: Service, tmp_path: Path, examples: int
) -> None:
    """Every boundary that the document draws, then this many random examples for each operation and link."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"),
        *(f"{service.url}{API}/openapi.json", "--checks", "all"),
        # A stream has no end to wait for; it has tests of its own.
        *("--exclude-operation-id", "watchSubscription"),
        *("--header", f"X-User-ID: {USER}", "--max-examples", str(examples), "--request-timeout", "10"),
        *("--generation-deterministic", "--no-color"),
        *("--continue-on-failure", "--warnings", "off"),
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode()
