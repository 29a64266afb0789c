"""Fuzz one target for a while: ``python -m tests.fuzz TARGET --seconds N``.

With atheris (the extra `fuzz`) coverage guides the search; without it payloads are damaged blindly. An input
that breaks a promise is written beside its traceback, and ``--input FILE`` tries it again.
"""

import argparse
import importlib.util
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from tempfile import gettempdir

from tests.fuzz.mutations import mutated

Target = Callable[[bytes], None]
LONGEST_INPUT = 64 * 1024


def _guided(target: Target, seeds: list[bytes], arguments: argparse.Namespace) -> int:
    """Hand over to libFuzzer, which prints executions and coverage and ends the process by itself."""
    import atheris  # noqa: PLC0415  an optional extra

    corpus = arguments.directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return mutated(data, random)[:most]

    options = [
        f"-max_total_time={arguments.seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-seed={arguments.seed or 1}",
        f"-artifact_prefix={arguments.directory}/",
        "-timeout=10",
        "-rss_limit_mb=1500",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target, custom_mutator=mutator)
    atheris.Fuzz()
    return 0


def _blind(target: Target, seeds: list[bytes], arguments: argparse.Namespace) -> int:
    random = Random(arguments.seed)
    ends = time.monotonic() + arguments.seconds
    executions, slowest = 0, 0.0
    while (began := time.monotonic()) < ends:
        data = mutated(random.choice(seeds), random)
        try:
            target(data)
        except Exception:  # noqa: BLE001  whatever it is, it is the finding
            traceback.print_exc()
            arguments.directory.mkdir(parents=True, exist_ok=True)
            found = arguments.directory / f"crash-{arguments.target}-{executions}"
            found.write_bytes(data)
            print(f"broken by {found}")
            return 1
        executions += 1
        slowest = max(slowest, time.monotonic() - began)
    print(f"{arguments.target}: {executions} executions, the slowest took {slowest * 1000:.0f} ms")
    return 0


def _targets(*, instrumented: bool) -> tuple[dict[str, Target], dict[str, list[bytes]]]:
    """Import the targets, with atheris's counters in our code if wanted."""
    if instrumented:
        import atheris  # noqa: PLC0415  an optional extra

        with atheris.instrument_imports(include=["kosmo_billing_daemon"]):
            from tests.fuzz import targets  # noqa: PLC0415  what is imported before stays without counters
    else:
        from tests.fuzz import targets  # noqa: PLC0415  as above
    from tests.fuzz.corpus import CORPORA  # noqa: PLC0415  it imports our code too

    return targets.TARGETS, CORPORA


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split(".")[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the same seed damages in the same way")
    parser.add_argument("--blind", action="store_true", help="without atheris, even where it is installed")
    parser.add_argument(
        "--directory", type=Path, default=Path(gettempdir(), "kosmo-fuzz"), help="of inputs kept and found"
    )
    parser.add_argument("--input", type=Path, help="try this file only")
    arguments = parser.parse_args(words)
    guided = not arguments.blind and not arguments.input and importlib.util.find_spec("atheris") is not None
    known, corpora = _targets(instrumented=guided)
    if arguments.target not in known:
        parser.error(f"no target {arguments.target!r}; there are {', '.join(known)}")
    target, seeds = known[arguments.target], corpora[arguments.target]
    arguments.directory = arguments.directory / arguments.target
    if arguments.input:
        target(arguments.input.read_bytes())
        return 0
    return _guided(target, seeds, arguments) if guided else _blind(target, seeds, arguments)


if __name__ == "__main__":
    logging.disable()  # what is refused is told each time
    sys.exit(main(sys.argv[1:]))
