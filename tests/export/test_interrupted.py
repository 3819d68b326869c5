"""Exports that are told to end: the usual status, no word, and nothing left beside the output."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ..goldens.tiny import write_checkpoint

EXPORT = "from gemma3_export.export.cli import main; main()"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("default", tmp_path_factory.mktemp("interrupted"))


def _start(checkpoint: Path, place: Path) -> subprocess.Popen[str]:
    place.mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            sys.executable, "-c", EXPORT, "--checkpoint", checkpoint, "--mesh", "1x1",
            "--out", "bundle", "--jobs", "2", "--prefill", "4,8", "--cache", "16",
        ],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _wait_for(place: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(place.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", [".bundle.lock", ".bundle.partial-*/programs/*/*/*.mlirbc"])
def test_an_export_told_to_end_leaves_nothing_and_no_worker(
    checkpoint: Path, tmp_path: Path, number: signal.Signals, moment: str
):
    place = tmp_path / "place"
    process = _start(checkpoint, place)
    _wait_for(place, moment, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 3
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert list(place.iterdir()) == []
    assert not psutil.wait_procs(workers, timeout=20)[1]
