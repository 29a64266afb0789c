"""Nobody loses or wins anything, whatever happens to the parts, in any order.

People buy plans and packs, pay in every way, spend credit, and have it renew their plans. The operator
grants, ends plans for credit, decides cases, refunds here and in BTCPay's pages, and restarts the daemons
with another catalogue, also in another currency.

``KOSMO_WALK_SECONDS=1200 KOSMO_WALK_SEED=7 python -m pytest -p no:xdist -q -s -m soak tests/walk`` walks for
long; it prints one line of JSON at its end. Without a seed a fresh one is taken and printed.

Seen failing within seven rounds each: with nothing carried over (R2), settling by hand that gives nothing
(R6) or does not last, late payments fulfilled for ever (R6), rights left to what was marked invalid (R8),
mismatches accepted (R9), closed cases opened again, each look fulfilling once more without R1's constraint,
no reconciliation, nothing published again after the broker's loss, and one event in fifty marked and
not sent. Passed seven rounds and more, so others must watch these: users not locked (with R1's constraint and
without), events marked just before they are sent.
"""

import json
import os
import secrets
import time
from pathlib import Path
from random import Random

import pytest

from tests.walk.town import town_around
from tests.walk.walk import Walk

_SECONDS = float(os.environ.get("KOSMO_WALK_SECONDS", "1200"))
_FIXED = 7


def _fresh() -> int:
    return int(os.environ.get("KOSMO_WALK_SEED", "0")) or secrets.randbelow(1_000_000)


@pytest.mark.timeout(300)
async def test_a_short_walk(tmp_path: Path) -> None:
    seed = int(os.environ.get("KOSMO_WALK_SEED", _FIXED))
    print(f"KOSMO_WALK_SEED={seed}")
    began = time.monotonic()
    async with town_around(tmp_path, daemons=2, currency="JPY") as town:
        walk = Walk(town, seed, newcomers=6, reports=4, size=200)
        await walk.round(jumps=0)
        await walk.rest([*walk.people, *walk.chatty])
    print(json.dumps(walk.summary(time.monotonic() - began)))


@pytest.mark.soak
@pytest.mark.timeout(_SECONDS + 600)
async def test_a_long_walk(tmp_path: Path) -> None:
    seed = _fresh()
    print(f"KOSMO_WALK_SEED={seed}", flush=True)
    began = time.monotonic()
    chance = Random(seed)
    daemons, credit = chance.choice([2, 3]), chance.random() < 0.75
    async with town_around(tmp_path, daemons, credit=credit) as town:
        walk = Walk(town, seed)
        while time.monotonic() - began < _SECONDS:
            await walk.round()
        await walk.rest([*walk.people, *walk.chatty])
        print(json.dumps(walk.summary(time.monotonic() - began)), flush=True)
