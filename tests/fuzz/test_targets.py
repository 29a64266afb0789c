"""Every target keeps its promises for damaged payloads, and would notice if they were broken."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.builders import ENTITLEMENT
from tests.fuzz.__main__ import main
from tests.fuzz.corpus import CORPORA
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS

EXAMPLES = {"webhook": 150, "usage": 150, "btcpay": 150, "gate": 80, "settings": 30}


@pytest.mark.parametrize("name", TARGETS)
def test_no_damaged_payload_breaks_a_promise(name: str) -> None:
    damaged = st.builds(
        lambda seed, number: mutated(seed, Random(number)),
        st.sampled_from(CORPORA[name]),
        st.integers(0, 2**32),
    )

    @given(damaged | st.binary(max_size=64))
    @settings(
        max_examples=EXAMPLES[name],
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    def hold(data: bytes) -> None:
        TARGETS[name](data)

    hold()


@pytest.mark.parametrize("name", TARGETS)
def test_undamaged_payloads_keep_them_too(name: str) -> None:
    for seed in CORPORA[name]:
        TARGETS[name](seed)


def test_the_same_random_numbers_give_the_same_damage() -> None:
    seed = json.dumps(ENTITLEMENT).encode()
    found = [[mutated(seed, Random(number)) for number in range(50)] for _ in range(2)]
    assert found[0] == found[1]
    assert len(set(found[0])) > 40


def _fuzz(directory: Path, *words: str) -> int:
    return main([*words, "--seconds", "1", "--blind", "--directory", str(directory)])


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _fuzz(tmp_path, "webhook") == 0
    assert "executions" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


def test_what_breaks_a_promise_is_kept_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes) -> None:
        assert b"\0" not in data

    monkeypatch.setitem(TARGETS, "broken", broken)
    monkeypatch.setitem(CORPORA, "broken", CORPORA["gate"])
    assert _fuzz(tmp_path, "broken") == 1
    [found] = (tmp_path / "broken").iterdir()
    with pytest.raises(AssertionError):
        _fuzz(tmp_path, "broken", "--input", str(found))


def test_an_unknown_target_is_told_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        _fuzz(tmp_path, "nothing")
    told = capsys.readouterr().err
    assert all(name in told for name in TARGETS)
