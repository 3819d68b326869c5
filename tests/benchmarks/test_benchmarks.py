"""The benchmarks run unattended and rarely: here their arithmetic, and a dry run of the GPU's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch):
    """The scripts import each other as Python does when it runs one of them."""
    monkeypatch.syspath_prepend(str(HERE))


def some_results():
    from results import Case, Results

    results = Results({"cpu": "a cpu"}, {"bytes a token": {"bf16": 500, "BF16": 500, "int8": 250}})
    llama = "llama.cpp 1, built here"
    for peer, weights, context, batch, values in (
        ("gemma3-export", "bf16", 512, 1, [30.0, 31.0, 50.0]),
        ("gemma3-export", "bf16", 2048, 1, [29.0]),
        ("gemma3-export", "int8", 512, 8, [160.0]),
        (llama, "BF16", 512, 1, [20.0]),
        (llama, "Q8_0", 512, 8, [200.0]),
    ):
        for value in values:
            results.add(Case("decode", peer, weights, batch, context), value)
    results.add(Case("limit", "memory read", "", 0, 0), 20_000.0)
    results.add(Case("start", "gemma3-export", "bf16", 1, 0), 2.0)
    results.add(Case("start", llama, "BF16", 1, 0), 1.0)
    results.add(Case("memory", llama, "BF16", 1, 0), 600e6)
    return results


def test_ratios_are_of_medians_and_keep_the_losses():
    from results import ratio_lines

    lines = [" ".join(line.split()) for line in ratio_lines(some_results())]
    assert lines == [
        "decode at 512: bf16 to BF16 1.55 goal 1.2 met",
        "decode at 512, batch 8: int8 to Q8_0 0.80 goal 1.4 missed",
        "second start to one token: llama.cpp to ours 0.50 goal 1.0 missed",
    ]


def test_the_share_of_the_limit_counts_each_weight_once_a_step():
    from results import Case

    results = some_results()
    assert results.share(Case("decode", "gemma3-export", "bf16", 1, 512)) == 31 * 500 / 20_000
    assert results.share(Case("decode", "gemma3-export", "int8", 8, 512)) == 20 * 250 / 20_000
    assert results.share(Case("decode", "gemma3-export", "fp8", 1, 512)) is None


def test_results_survive_being_written(capsys: pytest.CaptureFixture[str]):
    from results import Results, print_tables

    results = some_results()
    again = Results.from_json(results.to_json())
    assert (again.samples, again.facts, again.machine) == (
        results.samples, results.facts, results.machine,
    )  # fmt: skip
    print_tables(again)
    out = capsys.readouterr().out
    assert "31.0    30.0   50.0" in out
    assert "missed" in out


def test_the_chart_is_a_picture(tmp_path: Path):
    from chart import draw

    draw(some_results(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_only_a_near_tie_excuses_another_token():
    from gpu import differs

    expected = {"tokens": [5, 6, 7], "logprobs": [[[5, -0.1], [9, -3.0]], [[6, -1.0], [8, -1.05]]]}
    assert differs(expected, {"tokens": [5, 6, 7]}) is None
    assert differs(expected, {"tokens": [5, 8, 1]}) is None
    assert differs(expected, {"tokens": [9, 6, 7]}) == "token 0 is 9, expected 5 by 2.90 nats"


def test_a_child_reports_its_own_time_and_peak():
    from peers.process import run

    code = "import time; held = bytearray(200 << 20); time.sleep(0.3); print('done')"
    done = run([sys.executable, "-c", code])
    assert done.stdout == "done\n"
    assert done.seconds > 0.3
    assert 200 << 20 < done.peak_rss_bytes < 300 << 20
    with pytest.raises(RuntimeError, match=r"status 3:\nbroken"):
        run([sys.executable, "-c", "import sys; print('broken'); sys.exit(3)"])


def test_gguf_files_hold_the_weights_of_their_source(tmp_path: Path):
    import numpy as np
    from gemma3_export.export.checkpoint.gguf_file import read_gguf
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from peers.gguf_files import FORMATS, weight_bytes, write_gguf_files

    matrix = np.random.default_rng(0).standard_normal((64, 32), np.float32)
    writer = GGUFWriter(tmp_path / "some.gguf", "gemma3")
    writer.add_block_count(3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    packed = quants.quantize(matrix, GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", packed, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", matrix[0])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    source = quants.dequantize(packed, GGMLQuantizationType.Q8_0)
    for name, path in write_gguf_files(tmp_path / "some.gguf", tmp_path / "out").items():
        file = read_gguf(path)
        assert file.metadata["gemma3.block_count"] == 3
        assert file.metadata["tokenizer.ggml.tokens"] == ["a", "b"]
        assert file.metadata["general.file_type"] == int(FORMATS[name][1])
        stored = file.tensors["token_embd.weight"]
        assert stored.dtype == name
        expected = quants.dequantize(quants.quantize(source, FORMATS[name][0]), FORMATS[name][0])
        np.testing.assert_array_equal(stored.read_rows(0, 64).astype(np.float32), expected)
        norm = file.tensors["output_norm.weight"]
        np.testing.assert_array_equal(norm.read_rows(0, 32), matrix[0])
        per_block = {"BF16": 64, "Q8_0": 34, "Q4_0": 18}[name]  # of 32 values
        assert weight_bytes(path) == expected.size // 32 * per_block + 4 * 32


def test_the_gpu_script_runs_dry_on_a_cpu(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, HERE / "gpu.py", "--platform", "cpu", "--tiny", "--folder", tmp_path,
         "--json", tmp_path / "out.json"],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    found = {(row["what"], row["peer"], row["batch"]) for row in rows}
    assert found == {
        ("limit", "memory read", 0), ("limit", "bfloat16 product", 0),
        ("decode", "gemma3-export", 1), ("decode", "gemma3-export", 2),
        ("prefill", "gemma3-export", 1), ("prefill", "gemma3-export", 2),
        ("decode", "plain jax.jit, textbook forms", 1),
    }  # fmt: skip
    assert all(row["min"] > 0 for row in rows)
