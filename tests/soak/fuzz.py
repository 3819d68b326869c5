"""Coverage-guided fuzzing of one reader: `python -m tests.soak.fuzz TARGET -runs=N -seed=S DIR`.

libFuzzer ends the process when an input crashes, takes more than 5 s, or takes the process 500 MB
beyond what it held before the first input (inputs are small, so twice their size is nothing).
"""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path

import atheris

from .mutate import mutate

with atheris.instrument_imports(include=["gemma3_export"]):
    from gemma3_export.artifacts.memory import peak_rss_bytes

    from .targets import TARGETS, survives

_MOST_MB = 500
_MOST_S = 5


def main() -> None:
    """Run the target named first; the other arguments are libFuzzer's."""
    name, arguments = sys.argv[1], sys.argv[2:]
    logging.disable()  # what is damaged is logged, a thousand times over
    target = TARGETS[name]()
    corpus = Path(arguments[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        survives(target, seed)
        (corpus / f"seed-{number}").write_bytes(seed)
    longest = 2 * max(map(len, target.seeds))
    limit = peak_rss_bytes() // 2**20 + _MOST_MB
    flags = [f"-rss_limit_mb={limit}", f"-timeout={_MOST_S}", f"-max_len={longest}"]

    def test_one_input(data: bytes) -> None:
        survives(target, data)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, most)
        return mutate(data, rng)[:most]

    atheris.Setup([sys.argv[0], *flags, *arguments], test_one_input, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
