"""Compiled programs that libgemma3 keeps: those this user made, and no others."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gemma3_export.artifacts.compiled import CompiledStore, fingerprint, user_key

from ..runtime.toy_bundle import BOS, Toy, make_toy_bundle
from ..runtime.toy_model import reference_greedy
from .library import build, call, serve

PROMPT = [BOS, 17, 18, 40]
TOKENS = reference_greedy(PROMPT, 3)


@dataclass(frozen=True)
class Ran:
    """What a process had: programs compiled, loaded and written, and what it logged."""

    compiled: int
    loaded: int
    written: int
    remarks: list[str]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("b") / "toy", Toy(batch=(1,), prefill=(4,)))


@pytest.fixture(scope="module")
def compiled(original: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle with compiled programs in it, and the cache folder of the user who made them."""
    folder = tmp_path_factory.mktemp("made")
    bundle = Path(shutil.copytree(original, folder / "toy"))
    assert run(bundle, folder / "user") == Ran(2, 0, 2, [])
    return bundle, folder / "user"


@pytest.fixture
def copied(compiled: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both, to be spoiled."""
    bundle, user = compiled
    return (
        Path(shutil.copytree(bundle, tmp_path / "toy")),
        Path(shutil.copytree(user, tmp_path / "user")),
    )


def run(bundle: Path, user: Path, **options: Any) -> Ran:
    """Generate three tokens, which are right, in a process of the user with that cache folder."""
    replies = serve(
        build("tests") / "libgemma3.so",
        call("open", bundle=str(bundle), mesh="1x1", **options),
        call("generate", [PROMPT], 3), call("stats"), call("remarks"),
        XDG_CACHE_HOME=str(user),
    )  # fmt: skip
    assert replies.value(1)[0]["tokens"] == TOKENS
    programs = replies.value(2)["programs"]
    return Ran(
        programs["compiled"], programs["loaded"], programs["written"], replies.value(3)
    )  # fmt: skip


def folder_of(place: Path) -> Path:
    """The folder of the only fingerprint in a place."""
    (folder,) = place.iterdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_next_process_of_the_user_loads_them(compiled: tuple[Path, Path]):
    assert run(*compiled) == Ran(0, 2, 0, [])
    bundle, user = compiled
    assert not (user / "gemma3-export" / "compiled").exists()
    report = serve(
        build("tests") / "libgemma3.so", call("check", bundle=str(bundle), mesh="1x1"),
        XDG_CACHE_HOME=str(user),
    ).value(0)  # fmt: skip
    assert report["compiled"]["programs"] == 2


def test_those_of_another_user_are_left_alone_and_made_anew_elsewhere(
    copied: tuple[Path, Path], tmp_path: Path
):
    """As with a bundle that came with machine code in it: none of it is run."""
    bundle, _ = copied
    folder, other = folder_of(bundle / "compiled"), tmp_path / "other"
    before = contents(folder)
    remark = (
        f"the compiled programs in {folder} were not made by this user: compiling instead"
    )  # fmt: skip
    assert run(bundle, other) == Ran(2, 0, 2, [remark])
    assert contents(folder) == before
    assert run(bundle, other) == Ran(0, 2, 0, [])
    kept = folder_of(other / "gemma3-export" / "compiled")
    assert kept.name == folder.name
    assert len(list(kept.glob("*.xla"))) == 2


def test_a_file_that_changed_is_not_loaded_said_once_and_replaced(copied: tuple[Path, Path]):
    bundle, user = copied
    folder = folder_of(bundle / "compiled")
    for file in folder.glob("*.xla"):
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    ran = run(bundle, user)
    assert (ran.compiled, ran.loaded, ran.written, len(ran.remarks)) == (2, 0, 2, 1)
    assert ran.remarks[0].endswith(".xla is damaged: compiling instead")
    assert run(bundle, user) == Ran(0, 2, 0, [])


def test_an_index_cannot_be_made_to_vouch_for_other_code(copied: tuple[Path, Path]):
    bundle, user = copied
    folder = folder_of(bundle / "compiled")
    index = json.loads((folder / "index.json").read_text())
    for name, entry in index["entries"].items():
        evil = (folder / name).read_bytes()[:-1] + b"!"
        (folder / name).write_bytes(evil)
        entry["sha256"] = hashlib.sha256(evil).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))
    remark = f"{folder / 'index.json'} is damaged: compiling instead"
    assert run(bundle, user) == Ran(2, 0, 2, [remark])
    assert run(bundle, user) == Ran(0, 2, 0, [])


def test_those_of_another_machine_or_plugin_are_not_looked_at(copied: tuple[Path, Path]):
    bundle, user = copied
    folder = folder_of(bundle / "compiled")
    folder.rename(folder.with_name("0123"))
    remark = (
        f"the compiled programs in {bundle / 'compiled'} are for another plugin, machine or "
        "options: compiling instead"
    )
    assert run(bundle, user) == Ran(2, 0, 2, [remark])


def test_those_of_another_machine_under_our_name_are_not_loaded(copied: tuple[Path, Path]):
    """The code of an index covers the fingerprint."""
    bundle, user = copied
    place, key = bundle / "compiled", user_key(user / "gemma3-export")
    assert key is not None
    folder = folder_of(place)
    identity = json.loads((folder / "index.json").read_text())["identity"]
    other = CompiledStore([place], identity | {"cpu": "another"}, key)
    for file in folder.glob("*.xla"):
        assert other.write(file.name, file.read_bytes())
    shutil.rmtree(folder)
    (place / other.fingerprint).rename(folder)
    remark = f"{folder / 'index.json'} is damaged: compiling instead"
    assert run(bundle, user) == Ran(2, 0, 2, [remark])


@pytest.mark.parametrize(("mode", "content"), [(0o644, None), (0o600, b"short")])
def test_without_a_key_of_ones_own_none_are_loaded_or_kept(
    copied: tuple[Path, Path], mode: int, content: bytes | None
):
    """As in Python: `user_key` of artifacts/compiled.py gives nothing for such a file."""
    bundle, user = copied
    key = user / "gemma3-export" / "key"
    if content is not None:
        key.write_bytes(content)
    key.chmod(mode)
    assert user_key(key.parent) is None
    before = contents(folder_of(bundle / "compiled"))
    ran = run(bundle, user)
    assert (ran.compiled, ran.loaded, ran.written, len(ran.remarks)) == (2, 0, 0, 1)
    assert contents(folder_of(bundle / "compiled")) == before


def test_without_a_place_for_the_key_none_are_kept(original: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    bundle = Path(shutil.copytree(original, tmp_path / "toy"))
    ran = run(bundle, tmp_path / "file")
    assert (ran.compiled, ran.loaded, ran.written, len(ran.remarks)) == (2, 0, 0, 1)
    assert "compiled programs cannot be kept: no key can be made in" in ran.remarks[0]
    assert not (bundle / "compiled").exists()


def test_key_folder_and_index_are_those_of_the_python_runtime(copied: tuple[Path, Path]):
    bundle, user = copied
    key = user_key(user / "gemma3-export")
    assert key is not None
    assert (user / "gemma3-export" / "key").stat().st_mode & 0o777 == 0o600
    folder = folder_of(bundle / "compiled")
    index = json.loads((folder / "index.json").read_text())
    assert index["identity"]["host"] == "libgemma3"
    assert fingerprint(index["identity"]) == folder.name
    store = CompiledStore([bundle / "compiled"], index["identity"], key)
    names = sorted(path.name for path in folder.glob("*.xla"))
    assert sorted(index["entries"]) == names
    for name in names:
        assert store.read(name) == (folder / name).read_bytes()
    # What Python adds to a folder libgemma3 goes on from.
    assert store.write("more.bin", b"more")
    (folder / names[0]).unlink()
    assert run(bundle, user).written == 1
    assert CompiledStore([bundle / "compiled"], index["identity"], key).read("more.bin") == b"more"


def test_a_link_out_of_the_bundle_is_not_written_through(original: Path, tmp_path: Path):
    bundle = Path(shutil.copytree(original, tmp_path / "toy"))
    (tmp_path / "precious").mkdir()
    (bundle / "compiled").symlink_to(tmp_path / "precious")
    assert run(bundle, tmp_path / "user") == Ran(2, 0, 2, [])
    assert not list((tmp_path / "precious").iterdir())
    assert len(list((tmp_path / "user").rglob("*.xla"))) == 2


def test_a_place_that_the_caller_names_is_the_only_one(copied: tuple[Path, Path], tmp_path: Path):
    bundle, user = copied
    (tmp_path / "disk").mkdir()
    (tmp_path / "kept").symlink_to(tmp_path / "disk")
    assert run(bundle, user, cache_dir=str(tmp_path / "kept")) == Ran(2, 0, 2, [])
    assert len(list((tmp_path / "disk").rglob("*.xla"))) == 2
    assert run(bundle, user, cache_dir=str(tmp_path / "kept")) == Ran(0, 2, 0, [])
