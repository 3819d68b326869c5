"""Where plugins are looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .library import environment


@pytest.mark.parametrize("entry", ["bin", ".", ""])
def test_plugins_are_not_looked_for_in_the_current_folder(native: Path, tmp_path: Path, entry: str):
    """`entry` of PATH with a python3 in it would make an environment of what lies beside it."""
    for folder in ("", "bin"):
        (tmp_path / "current" / folder / "python3").mkdir(parents=True)
    for prefix in (tmp_path / "current", tmp_path):
        packages = prefix / "lib" / "python3.99" / "site-packages" / "xla_plugins" / "xla_cpu_pjrt"
        packages.mkdir(parents=True)
        (packages / "xla_cpu_pjrt.so").write_text("planted")
    found = (
        "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); path = ctypes.c_char_p()\n"
        "lib.gemma3_find_plugin(b'cpu', ctypes.byref(path), None); print(path.value)"
    )
    changes = {"PATH": entry, "HOME": "", "CONDA_PREFIX": ".", "VIRTUAL_ENV": "../current"}
    done = subprocess.run(
        [sys.executable, "-c", found, native / "libgemma3.so"], capture_output=True, text=True,
        check=True, cwd=tmp_path / "current", env={**environment(), **changes},
    )  # fmt: skip
    assert "python3.99" not in done.stdout
