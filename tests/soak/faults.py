"""Exports that are killed, run out of disk, or meet another: what is left is sound or nothing.

Trials are forked from one process that has imported everything and started nothing, so that a
trial takes what an export takes, not what importing jax takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError

FLAGS = (
    "--mesh", "1x1", "--prefill", "8", "--cache", "24", "--generate", "4", "--dtype", "float32",
    "--jobs", "1",
)  # fmt: skip


_AGAIN = 5
"""After every so many kills the export is run again over what is left."""


@dataclass
class Tally:
    """What was found at the bundle's place after each trial."""

    trials: int = 0
    nothing: int = 0
    old: int = 0
    new: int = 0
    interrupted: int = 0
    """Trials that ended before the export was done."""


def contents(folder: Path) -> str:
    """One digest of all names and bytes of a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def start(checkpoint: Path, out: Path, *more: str) -> int:
    """Fork an export; returns the process id. Exit status as the command's."""
    import gemma3_export.export.pipeline  # noqa: F401  imported before the fork, for all trials
    from gemma3_export.export.cli import main

    child = os.fork()
    if child:
        return child
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.argv = ["gemma3-export", "--checkpoint", str(checkpoint), "--out", str(out), *FLAGS, *more]
    try:
        main()
    except SystemExit as left:
        os._exit(left.code if isinstance(left.code, int) else 1)
    except BaseException:
        os._exit(1)
    os._exit(1)


def finish(child: int) -> int:
    """Wait; the exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(checkpoint: Path, out: Path, *more: str) -> int:
    """An export from beginning to end; its exit status."""
    return finish(start(checkpoint, out, *more))


def reference(checkpoint: Path, folder: Path) -> tuple[str, str, float]:
    """Digests of the old and new bundle of the trials, and seconds an export takes."""
    assert run(checkpoint, folder / "old", "--prefill", "4") == 0
    began = time.monotonic()
    assert run(checkpoint, folder / "new") == 0
    return contents(folder / "old"), contents(folder / "new"), time.monotonic() - began


def kill_exports(checkpoint: Path, folder: Path, trials: int, seed: int) -> Tally:
    """Kill exports at random moments, every other one while it replaces an older bundle.

    Raises AssertionError when a reader accepts what is neither bundle, when the older one is
    damaged, or when an export afterwards does not work.
    """
    old, new, seconds = reference(checkpoint, folder)
    rng, tally = random.Random(seed), Tally()
    for trial in range(trials):
        out = folder / "trial" / "bundle"
        replaces = trial % 2 == 1
        if replaces:
            shutil.copytree(folder / "old", out)
        else:
            out.parent.mkdir(parents=True)
        child = start(checkpoint, out, "--force")
        time.sleep(rng.uniform(0, seconds * 1.05))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        tally.interrupted += finish(child) == -signal.SIGKILL
        _look(out, old if replaces else None, new, tally)
        if trial % _AGAIN == 0:
            assert run(checkpoint, out, "--force") == 0, "an export after a killed one fails"
            assert contents(out) == new
            assert names_in(out.parent) == ["bundle"], names_in(out.parent)
        shutil.rmtree(out.parent)
    return tally


def fill_disks(checkpoint: Path, folder: Path, trials: int, seed: int) -> Tally:
    """Let the disk run full at random moments of an export; needs to be root, to mount one."""
    old, new, seconds = reference(checkpoint, folder)
    rng, tally = random.Random(seed), Tally()
    for trial in range(trials):
        with _small_disk(folder / "disk", 40) as disk:
            out = disk / "bundle"
            replaces = trial % 2 == 1
            if replaces:
                shutil.copytree(folder / "old", out)
            child = start(checkpoint, out, "--force")
            time.sleep(rng.uniform(0, seconds))
            _fill(disk / "other", rng.choice((0, 4096, 65536, 300_000)))
            status = finish(child)
            assert status in (0, 2), f"a full disk is an error of our own: {status}"
            tally.interrupted += status == 2
            _look(out, old if replaces else None, new, tally)
            assert status == 0 or contents_or_none(out) == (old if replaces else None)
            (disk / "other").unlink()
            assert run(checkpoint, out, "--force") == 0, "an export after a full disk fails"
            assert contents(out) == new
            assert names_in(disk) == ["bundle"], names_in(disk)
    return tally


def race(checkpoint: Path, folder: Path) -> list[int]:
    """Two exports to one folder at once; their exit statuses, sorted."""
    out = folder / "race"
    children = [start(checkpoint, out) for _ in range(2)]
    statuses = sorted(map(finish, children))
    Bundle.open(out).verify()
    return statuses


def names_in(folder: Path) -> list[str]:
    """Names of everything in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def contents_or_none(out: Path) -> str | None:
    """`contents`, None where nothing is."""
    return contents(out) if out.exists() else None


def _look(out: Path, old: str | None, new: str, tally: Tally) -> None:
    tally.trials += 1
    try:
        Bundle.open(out).verify()
    except ArtifactError:
        assert not out.exists(), "what is there is not a bundle"
        assert old is None, "the older bundle is gone"
        tally.nothing += 1
        return
    found = contents(out)
    assert found in (old, new), "a reader accepts what is neither bundle"
    tally.old += found == old
    tally.new += found == new


@contextlib.contextmanager
def _small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    place.mkdir()
    options = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        # Lazily: where a trial failed, an export may still be at work there.
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def _fill(file: Path, spare: int) -> None:
    """Take all the space that is left but `spare` bytes."""
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(1 << 16))
    os.truncate(file, max(0, file.stat().st_size - spare))
