"""The graph takes texts in by the calls that FORMAT.md asks of every host, images or none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gemma3_export.artifacts.chunks import plan_prefill

SIZES, CACHE = [32, 128, 512], 1024
LENGTHS = [[1], [33], [64], [65], [161], [385], [641], [1024], [100, 7, 64], [5, 40]]
SEES, READS = "prefill_images", "prefill"
# 4 soft tokens from place 70 on, in rows of 170 and 80 tokens.
INDEX = [[place - 70 if 70 <= place < 74 else -1 for place in range(170)], [-1] * 170]


def asked() -> list[dict]:
    texts = [{"sizes": SIZES, "cache": CACHE, "lengths": lengths} for lengths in LENGTHS]
    one, images = {"sizes": [32, 64], "cache": 256, "index": INDEX[:1]}, {"index": INDEX}
    return [
        *texts,
        {"sizes": [7, 100], "cache": 1024, "lengths": [214]},
        {"sizes": [48], "cache": 100, "lengths": [97]},
        one | {"lengths": [170]},
        one | images | {"lengths": [170, 80]},
    ]


@pytest.fixture(scope="module")
def found() -> list[list]:
    """In a process of its own: see conftest.py."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("read_calls.py")],
        input=json.dumps(asked()), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(LENGTHS) + 2))
def test_texts_go_in_by_the_chunks_with_the_least_work(found: list[list], number: int):
    request, calls, done = asked()[number], found[number], 0
    lengths = request["lengths"]
    assert [size for _, size, _, _ in calls] == plan_prefill(max(lengths), request["sizes"])
    for program, size, starts, parts in calls:
        assert program == READS
        assert starts == [min(done, length) for length in lengths]
        assert parts == [min(max(length - done, 0), size) for length in lengths]
        done += size


def test_a_chunk_without_images_goes_through_the_programs_for_texts(found: list[list]):
    # A piece of 64 without an image is less work as 64, one of 42 as 64 too, with images it is.
    assert found[-2] == [[READS, 64, [0], [64]], [SEES, 64, [64], [64]], [READS, 64, [128], [42]]]
    assert found[-1] == [
        [READS, 64, [0, 0], [64, 64]],
        [SEES, 64, [64, 64], [64, 16]],
        [READS, 64, [128, 80], [42, 0]],
    ]
