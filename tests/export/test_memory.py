"""The memory an export takes depends on neither the size of the model nor that of a tensor."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
from gemma3_export.artifacts.bundle import Bundle

from ..goldens.hollow import LARGEST, write_hollow_checkpoint


def peak_memory(run: subprocess.Popen) -> int:
    """Most bytes that the process and its children held at a time, until it ends."""
    peak, process = 0, psutil.Process(run.pid)
    while run.poll() is None:
        total = 0
        try:
            for one in (process, *process.children(recursive=True)):
                total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, total)
        time.sleep(0.02)
    return peak


def test_a_tensor_of_600_mb_passes_through_without_being_held(tmp_path: Path):
    checkpoint = write_hollow_checkpoint(tmp_path / "checkpoint")
    command = "from gemma3_export.export.cli import main; main()"
    run = subprocess.Popen(
        [sys.executable, "-c", command, "--checkpoint", str(checkpoint), "--out", "bundle",
         "--mesh", "1x1", "--prefill", "8", "--cache", "16", "--generate", "4", "--jobs", "1",
         "--json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    peak = peak_memory(run)
    out, err = run.communicate()
    assert (run.returncode, err) == (0, "")
    weights = {weight.name: weight for weight in Bundle.open(tmp_path / "bundle").manifest.weights}
    assert weights["model.embed_tokens.weight"].nbytes == LARGEST // 2  # bfloat16
    assert peak <= 2 * LARGEST + 1.5e9  # the promise
    assert peak <= 0.65e9  # nothing but blocks of it is ever held: 0.39e9 was measured
    assert 0.5 * peak <= json.loads(out)["peak_rss_bytes"] <= 1.5 * peak
    (tmp_path / "bundle" / "weights" / "model.safetensors").unlink()
