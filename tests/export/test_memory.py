"""The memory an export takes depends on neither the size of the model nor that of a tensor."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import psutil
from gemma3_export.artifacts.bundle import Bundle

from ..goldens.tiny import shapes

CONFIG = {
    "model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": 576,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8,
    "max_position_embeddings": 64,
}  # fmt: skip
LARGEST = 262_144 * 576 * 4  # the embedding: 604 MB in float32


def write_hollow_checkpoint(folder: Path) -> Path:
    """A float32 checkpoint of zeros that takes no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, end = {}, 0
    for name, shape in shapes(CONFIG).items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


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
