"""120 damaged bundles, 2,000 in `make soak`: each is refused or runs.

What opens is what the Python reader opens.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import VOCAB
from . import damage
from .library import INTEGRITY, NOT_FOUND, UNKNOWN_VERSION, USAGE, environment
from .sanitizers import address_build, check_clean


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "toy"
    return make_toy_bundle(folder, Toy(batch=(1,), prefill=(4,), caches=(32,)))


def run(kept: Path, folders: list[Path]) -> list[str]:
    """A line for each folder from a native process with the address sanitizer."""
    done = subprocess.run(
        [address_build() / "programs" / "native_fuzz", kept, *folders],
        capture_output=True, text=True, check=False, timeout=600, env=environment(),
    )  # fmt: skip
    check_clean(done)
    return done.stdout.splitlines()


def opens(folder: Path) -> bool:
    try:
        Bundle.open(folder)
    except ArtifactError:
        return False
    return True


@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=pytest.mark.soak)])
def test_damaged_bundles_are_refused_or_run(base: Path, tmp_path: Path, count: int) -> None:
    kept = tmp_path / "compiled"
    (intact,) = run(kept, [base])  # and compiles for all others
    assert intact.startswith("0 0 ")
    folders = [damage.make(base, tmp_path / str(number), number) for number in range(count)]
    with ThreadPoolExecutor(2) as pool:
        lines = list(pool.map(lambda part: run(kept, part), (folders[::2], folders[1::2])))
    for half, found in enumerate(lines):
        mine = folders[half::2]
        assert len(found) == len(mine)
        for folder, line in zip(mine, found, strict=True):
            opened, ran, rest = line.split(" ", 2)
            where = f"{folder.name}: {line}"
            assert (opened == "0") == opens(folder), where
            if ran == "0":
                assert opened == "0", where
                assert all(0 <= int(token) < VOCAB for token in rest.split()), where
                # Only the manifest has no digest: other damage is always found.
                manifest = (folder / "manifest.json").read_bytes()
                assert manifest != (base / "manifest.json").read_bytes(), where
            else:
                assert int(ran) in (1, USAGE, INTEGRITY, UNKNOWN_VERSION, NOT_FOUND), where
                assert rest.strip(), where
