import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts import atomic
from gemma3_export.artifacts.atomic import check_free_space, whole_file
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.artifacts.writer import BundleWriter


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden names included."""
    return sorted(path.name for path in folder.iterdir())


def test_two_writers_of_the_same_contents_give_the_same_bytes(tmp_path: Path, write_tiny: Callable):
    write_tiny(tmp_path / "a")
    write_tiny(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_records_have_the_size_and_digest_of_what_was_written(tmp_path: Path, write_tiny: Callable):
    manifest = write_tiny(tmp_path / "b")
    files = tree(tmp_path / "b")
    assert {record.path for record in manifest.files} == files.keys() - {"manifest.json"}
    for record in manifest.files:
        data = files[record.path]
        assert record.bytes == len(data)
        assert record.sha256 == hashlib.sha256(data).hexdigest()


def test_nothing_but_the_bundle_is_left_beside_it(tmp_path: Path, write_tiny: Callable):
    write_tiny(tmp_path / "b")
    assert names(tmp_path) == ["b"]


def test_folders_above_the_output_are_made(tmp_path: Path, write_tiny: Callable):
    write_tiny(tmp_path / "x/y/b")
    Bundle.open(tmp_path / "x/y/b").verify()


def test_output_appears_only_with_commit(tmp_path: Path, fill: Callable):
    with BundleWriter(tmp_path / "b") as writer:
        manifest = fill(writer)
        assert not (tmp_path / "b").exists()
        assert not (writer.root / "manifest.json").exists()
        writer.commit(manifest)
        assert (tmp_path / "b/manifest.json").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UsageError])
def test_an_exception_leaves_nothing(tmp_path: Path, fill: Callable, error: type[BaseException]):
    def interrupted() -> None:
        with BundleWriter(tmp_path / "b") as writer:
            fill(writer)
            raise error("stop")

    with pytest.raises(error, match="stop"):
        interrupted()
    assert names(tmp_path) == []


def test_leaving_without_commit_leaves_nothing(tmp_path: Path, fill: Callable):
    with BundleWriter(tmp_path / "b") as writer:
        fill(writer)
    assert names(tmp_path) == []


def test_existing_output_is_refused_before_any_work_and_untouched(tmp_path: Path, tiny: Path):
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"tiny exists and is left as it is; .*with force"):
        BundleWriter(tiny).__enter__()
    assert tree(tmp_path) == before


def test_force_replaces_a_bundle(tmp_path: Path, tiny: Path, write_tiny: Callable):
    write_tiny(tiny, force=True, program=b"another program")
    assert (tiny / "programs/1x1/cpu/decode-b2-t1-c16.mlirbc").read_bytes() == b"another program"
    Bundle.open(tiny).verify()
    assert names(tmp_path) == ["tiny"]


def test_force_replaces_a_bundle_where_names_cannot_be_exchanged(
    tmp_path: Path, tiny: Path, write_tiny: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    write_tiny(tiny, force=True, program=b"another program")
    assert (tiny / "programs/1x1/cpu/decode-b2-t1-c16.mlirbc").read_bytes() == b"another program"
    assert names(tmp_path) == ["tiny"]


def test_force_replaces_a_bundle_of_another_version_or_with_damage(
    tiny: Path, write_tiny: Callable
):
    manifest = json.loads((tiny / "manifest.json").read_text())
    (tiny / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    (tiny / "weights/model.safetensors").unlink()
    write_tiny(tiny, force=True)
    Bundle.open(tiny).verify()


def test_force_writes_through_a_link_to_the_bundle(
    tmp_path: Path, tiny: Path, write_tiny: Callable
):
    (tmp_path / "current").symlink_to(tiny)
    write_tiny(tmp_path / "current", force=True, program=b"new")
    assert (tmp_path / "current").is_symlink()
    assert (tiny / "programs/1x1/cpu/decode-b2-t1-c16.mlirbc").read_bytes() == b"new"


def test_force_takes_an_empty_folder(tmp_path: Path, write_tiny: Callable):
    (tmp_path / "b").mkdir()
    write_tiny(tmp_path / "b", force=True)
    Bundle.open(tmp_path / "b").verify()


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": "years of work"},
        {"manifest.json": '{"manifest_version": 3, "name": "an extension of a browser"}'},
        {"manifest.json": "not json", "thesis.txt": "years of work"},
    ],
)
def test_force_never_replaces_a_folder_that_is_not_a_bundle(tmp_path: Path, files: dict[str, str]):
    out = tmp_path / "mine"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="mine is not a bundle, and force replaces nothing else"):
        BundleWriter(out, force=True).__enter__()
    assert tree(tmp_path) == before


def test_force_never_replaces_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match="file is not a bundle"):
        BundleWriter(tmp_path / "file", force=True).__enter__()


def test_failure_with_force_keeps_the_old_bundle(tmp_path: Path, tiny: Path, fill: Callable):
    before = tree(tmp_path)

    def failing() -> None:
        with BundleWriter(tiny, force=True) as writer:
            fill(writer, b"new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        failing()
    assert tree(tmp_path) == before


def test_second_writer_of_an_output_is_told_who_is_first(tmp_path: Path, fill: Callable):
    out = tmp_path / "b"
    with BundleWriter(out) as first:
        manifest = fill(first)
        with pytest.raises(UsageError, match=rf"another export \(process {os.getpid()}\); wait"):
            BundleWriter(out).__enter__()
        first.commit(manifest)
    Bundle.open(out).verify()
    assert names(tmp_path) == ["b"]


def test_writers_of_different_outputs_do_not_meet(tmp_path: Path, fill: Callable):
    with BundleWriter(tmp_path / "a") as first, BundleWriter(tmp_path / "b") as second:
        first.commit(fill(first))
        second.commit(fill(second))
    assert names(tmp_path) == ["a", "b"]


def test_leftovers_of_killed_writers_are_removed_and_of_others_kept(
    tmp_path: Path, write_tiny: Callable
):
    for name in [".b.partial-123", ".b.old-123", ".other.partial-1", ".b.partial-x"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "b").mkdir()  # there, so that the old one is not brought back
    (tmp_path / ".b.lock").write_text("123")
    write_tiny(tmp_path / "b", force=True)
    assert names(tmp_path) == [".b.partial-x", ".other.partial-1", "b"]


def test_a_file_half_written_by_a_killed_writer_is_removed_and_one_with_a_writer_kept(
    tmp_path: Path,
):
    path, kept = tmp_path / "f", [".f.partial-123", ".f.partial-x", ".g.partial-1", ".f.partial-9"]
    for name in [*kept[:3], ".f.partial-4194305"]:
        (tmp_path / name).write_text("half")
    (tmp_path / kept[3]).mkdir()  # no file
    with (tmp_path / kept[0]).open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with whole_file(path) as file:
            file.write(b"whole")
            assert names(tmp_path) == sorted([*kept, f".f.partial-{os.getpid()}"])
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == sorted([*kept, "f"])
    with whole_file(path):
        pass
    assert names(tmp_path) == sorted([*kept[1:], "f"])


def test_two_writers_of_one_file_leave_each_others_alone(tmp_path: Path):
    """One whole file after the other, whoever is first."""
    write = (
        "import pathlib, sys\n"
        "from gemma3_export.artifacts.atomic import whole_file\n"
        "for _ in range(300):\n"
        "    with whole_file(pathlib.Path(sys.argv[1])) as file: file.write(b'x' * 1000)\n"
    )
    command = [sys.executable, "-c", write, str(tmp_path / "f")]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").stat().st_size == 1000


def test_bundle_that_a_killed_writer_had_moved_aside_comes_back(tmp_path: Path, tiny: Path):
    tiny.rename(tmp_path / ".tiny.old-123")
    with pytest.raises(UsageError, match="tiny exists and is left as it is"):
        BundleWriter(tiny).__enter__()
    Bundle.open(tiny).verify()
    assert names(tmp_path) == ["tiny"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, fill: Callable):
    def filling() -> None:
        with BundleWriter(tmp_path / "b") as writer:
            fill(writer)
            with Path("/dev/full").open("wb") as disk:  # fails with ENOSPC, as a full disk does
                disk.write(b"x" * 2**20)

    with pytest.raises(UsageError, match=r"disk full while writing .*b: the unfinished bundle"):
        filling()
    assert names(tmp_path) == []


def test_free_space_is_checked_before_writing(tmp_path: Path):
    check_free_space(tmp_path / "not/there/yet", 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UsageError, match=r"expected \d+ bytes free, got \d+; free some or"):
        check_free_space(tmp_path / "not/there/yet", free * 2)


def test_place_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"cannot write .*choose another out"):
        BundleWriter(tmp_path / "file/b").__enter__()
    with pytest.raises(UsageError, match="cannot write a bundle at /"):
        BundleWriter(Path("/")).__enter__()


@pytest.mark.parametrize("path", ["../b", "/b", "a/../b", "manifest.json", ""])
def test_file_outside_the_bundle_is_a_mistake_of_the_caller(tmp_path: Path, path: str):
    with pytest.raises(AssertionError), BundleWriter(tmp_path / "b") as writer:
        writer.add_file(path, b"x")
    assert names(tmp_path) == []


def test_bundle_that_readers_would_refuse_is_not_put_in_place(tmp_path: Path, fill: Callable):
    def missing_a_file() -> None:
        with BundleWriter(tmp_path / "b") as writer:
            manifest = fill(writer)
            (writer.root / "tokenizer/tokenizer.model").unlink()
            writer.commit(manifest)

    with pytest.raises(AssertionError, match=r"would be refused: .*tokenizer\.model"):
        missing_a_file()
    assert names(tmp_path) == []
