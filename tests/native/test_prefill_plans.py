"""libgemma3 and the Python runtime take prompts in by the same chunks."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from gemma3_export.artifacts.chunks import plan_prefill

from .library import ROOT

NATIVE = ROOT / "runtime" / "native"
SOURCES = NATIVE / "src"
KNOWN = [{32}, {512}, {32, 512}, {32, 128, 512}, {8, 64, 256, 2048}, {7, 100}, {1}, {31, 32, 33}]


def requests() -> list[tuple[int, set[int]]]:
    """(length, sizes): every length around the boundaries, and seeded ones of any size."""
    draw = random.Random(11)
    near = [(length, sizes) for sizes in KNOWN for length in range(700)]
    far = [(draw.randint(700, 40_000), draw.choice(KNOWN)) for _ in range(40)]
    odd = [
        (draw.randint(0, 900), {draw.randint(1, 300) for _ in range(draw.randint(1, 5))})
        for _ in range(400)
    ]
    return near + far + odd


def test_both_runtimes_plan_the_same_chunks(tmp_path: Path):
    program = tmp_path / "prefill_plans"
    source = Path(__file__).with_name("prefill_plans.cc")
    includes = [f"-I{SOURCES}", f"-I{NATIVE / 'include'}"]
    subprocess.run(
        ["c++", "-std=c++20", "-O1", *includes, source, SOURCES / "grid.cc", "-o", program],
        check=True,
    )
    asked = requests()
    lines = "".join(f"{length} {' '.join(map(str, sizes))}\n" for length, sizes in asked)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    got = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert got == [plan_prefill(length, sizes) for length, sizes in asked]
