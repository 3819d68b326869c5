"""What the build does so that a mistake is hard to make use of, read out of the files it gives."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest
from gemma3_export.artifacts.kernels import TARGETS

FILES = ("host/gemma3-host", "libgemma3.so", "kernels/libgemma3_kernels.so")


def readelf(*arguments: str | Path) -> str:
    done = subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", FILES)
def test_files_are_hardened(native: Path, name: str):
    path = native / name
    segments, dynamic = readelf("-l", path), readelf("-d", path)
    assert "GNU_RELRO" in segments
    assert re.search(r"\(FLAGS_1\).*\bNOW\b|\(BIND_NOW\)", dynamic)
    (stack,) = re.findall(r"GNU_STACK .*", segments)
    assert " RW " in stack
    assert "(TEXTREL)" not in dynamic
    header = readelf("-h", path)
    assert re.search(r"Type:\s+DYN", header)
    if name == "host/gemma3-host":
        assert re.search(r"\(FLAGS_1\).*\bPIE\b", dynamic)
    symbols = readelf("--dyn-syms", path)
    assert "__stack_chk_fail" in symbols
    if name != "kernels/libgemma3_kernels.so":  # which calls nothing that can be fortified
        assert re.search(r"\b__\w+_chk\b(?<!__stack_chk)", symbols)


def test_functions_can_be_entered_at_their_beginning_only(native: Path):
    """Indirect branches land on endbr64 (x86 alone has it); see -fcf-protection."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", native / "kernels" / "libgemma3_kernels.so"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for target in TARGETS:
        first = listing.split(f"<{target}>:\n")[1].splitlines()[0]
        assert ("endbr64" in first) == (platform.machine() == "x86_64"), first


def test_the_library_of_kernels_exports_its_kernels_their_version_and_nothing_else(native: Path):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", native / "kernels" / "libgemma3_kernels.so"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names == {*TARGETS, "gemma3_kernels_version"}
