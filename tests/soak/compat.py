"""`make compat`: the fast part of the suite with the oldest and the newest of what it stands on.

`python -m tests.soak.compat PYTHON NEWEST_PYTHON` makes environments under build/compat and leaves
what it found in RESULTS.md: with the oldest jax that is supported and everything else as new as can
be, with the newest jax, and with the lowest version of every package that pyproject.toml allows.
The newest goes with NEWEST_PYTHON (which jax is the newest depends on Python: 0.10 is the last for
3.11), the others with PYTHON. What fails with one does not keep the others from running.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from .__main__ import ROOT, write_row

OLDEST = "0.10.0"
LOWEST = "lowest"
"""The leg whose packages are all as old as pyproject.toml lets them be."""


def newest(python: str) -> str:
    """The newest jax that pip finds for this Python."""
    done = subprocess.run(
        [python, "-m", "pip", "index", "versions", "jax"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return re.findall(r"jax \(([^)]+)\)", done.stdout)[0]


def environment(python: str, version: str) -> Path:
    """An environment with this jax, or LOWEST, and what these tests need; its Python."""
    folder = ROOT / "build" / "compat" / version
    inside = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        install = [inside, "-m", "pip", "install", "--quiet"]
        pins = [f"jax=={version}", f"jaxlib=={version}"]
        if version == LOWEST:  # pip has no such resolution
            subprocess.run([*install, "uv"], check=True)
            lowest = ["--quiet", "--resolution", "lowest-direct", "--python", inside]
            install, pins = [folder / "bin" / "uv", "pip", "install", *lowest], []
        subprocess.run([*install, "-e", ".[suite]", *pins], check=True, cwd=ROOT)
        (folder / ".installed").touch()
    return inside


_VERSIONS = """
import importlib.metadata, platform
names = ("jax", "jaxlib", "flax", "numpy", "ml_dtypes", "gguf", "sentencepiece", "click", "rich")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names), end="")
print(f", Python {platform.python_version()}")
"""


def run_suite(python: Path, version: str) -> str:
    """Run the fast part and keep its counts in RESULTS.md.

    Returns what is wrong in one line, nothing when all is well.
    """
    began = time.monotonic()
    command = (python, "-m", "tests.fast", "-q")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    if done.returncode:
        print(done.stdout[-20_000:], done.stderr[-2000:])
        return f"error: {version}: {said}"
    counts = re.sub(r" in [0-9.]+s.*", "", said)
    used = subprocess.run([python, "-c", _VERSIONS], check=True, capture_output=True, text=True)
    result = f"fast part of the suite: {counts}"
    write_row(f"compat {version}", result, time.monotonic() - began, used.stdout.strip())
    print(f"{version}: {counts}", flush=True)
    return ""


def main() -> None:
    """Run the suite with the oldest jax, the newest, and the lowest of everything."""
    python, newest_python = sys.argv[1:]
    runs = {OLDEST: python, newest(newest_python): newest_python, LOWEST: python}
    wrong = [run_suite(environment(who, version), version) for version, who in runs.items()]
    if any(wrong):
        sys.exit("\n".join(filter(None, wrong)))


if __name__ == "__main__":
    main()
