"""`make compat`: the fast part of the suite with the oldest jax that is supported and the newest.

`python -m tests.soak.compat PYTHON [VERSION...]` makes an environment for each version under
build/compat and leaves what it found in RESULTS.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from .__main__ import ROOT, write_row

OLDEST = "0.10.0"
FAST = (
    "tests/artifacts", "tests/model/test_forward.py", "tests/model/test_cache.py",
    "tests/model/test_sharding.py", "tests/export/test_lowering.py",
    "tests/export/test_programs.py", "tests/export/test_goldens.py", "tests/runtime/test_model.py",
    "tests/runtime/test_generate.py", "tests/runtime/test_score.py",
    "tests/runtime/test_samples.py", "tests/runtime/test_preflight.py",
)  # fmt: skip


def newest(python: str) -> str:
    """The newest jax that pip finds for this Python."""
    done = subprocess.run(
        [python, "-m", "pip", "index", "versions", "jax"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return re.findall(r"jax \(([^)]+)\)", done.stdout)[0]


def environment(python: str, version: str) -> Path:
    """An environment with this jax and everything the tests need; its Python."""
    folder = ROOT / "build" / "compat" / version
    if not (folder / ".installed").exists():
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        pins = [f"jax=={version}", f"jaxlib=={version}"]
        subprocess.run(
            [folder / "bin/python", "-m", "pip", "install", "--quiet", "-e", ".[test]", *pins],
            check=True, cwd=ROOT,
        )  # fmt: skip
        (folder / ".installed").touch()
    return folder / "bin" / "python"


def run_suite(python: Path, version: str) -> str:
    """Run the fast part; what pytest says at the end. Raises SystemExit when it fails."""
    began = time.monotonic()
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *FAST],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\nerror: jax {version}: {said}")
    counts = re.sub(r" in [0-9.]+s.*", "", said)
    used = f"jax {version}, jaxlib {version}"
    write_row(
        f"compat {version}", f"fast part of the suite: {counts}", time.monotonic() - began, used
    )
    return f"{used}: {counts}"


def main() -> None:
    """Run the suite with the versions named, or the oldest and the newest."""
    python, versions = sys.argv[1], sys.argv[2:]
    for version in dict.fromkeys(versions or (OLDEST, newest(python))):
        print(run_suite(environment(python, version), version), flush=True)


if __name__ == "__main__":
    main()
