"""The real Gemma 3 270M in bfloat16: greedy tokens by three ways through TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.export.checkpoint import demo_checkpoint
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from ..goldens.loader import real_goldens
from . import requests
from .conftest import Built, Server, ask_tensorflow, export
from .test_c_api import run_c

NEW_TOKENS = 48
# Two chunks. No choice on the way is nearly a tie: TensorFlow's XLA is not jaxlib's, and may round
# bfloat16 otherwise.
PROMPTS = [list(p.tokens) for p in real_goldens().prompts if len(p.tokens) == 33]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real-served") / "bundle"
    done = export(
        "--mesh", "1x1", "--checkpoint", demo_checkpoint(), "--out", out, "--prefill", 32,
        "--cache", 128, "--format", "savedmodel",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_three_ways_through_tensorflow_give_the_tokens_of_the_stablehlo_runtime(
    real: Path, c_loader: Built, serve: Callable[[Path], Server]
):
    expected = generate(
        LoadedModel.load(real, "1x1"), PROMPTS, SamplingParameters(), max_new_tokens=NEW_TOKENS,
        ignore_eos=True,
    )[0].tokens  # fmt: skip
    assert len(set(expected)) > 10
    request = requests.generate(PROMPTS, NEW_TOKENS)
    (loaded,) = ask_tensorflow(real / "saved_model" / "1", [("generate", request)])
    assert loaded["outputs"]["tokens"] == [expected]
    done = run_c(c_loader, real, NEW_TOKENS, PROMPTS[0])
    assert done.returncode == 0, done.stderr
    assert [int(token) for token in done.stdout.split()[:-1]] == expected
    stubs = Path(__file__).parent / "stub_client.py"
    done = subprocess.run(
        [sys.executable, stubs, serve(real).grpc], input=json.dumps(request),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["tokens"] == [expected]


def test_the_saved_model_is_the_weights_and_the_programs(real: Path):
    bundle = Bundle.open(real)
    files = {record.path: record.bytes for record in bundle.manifest.files}
    saved = sum(size for path, size in files.items() if path.startswith("saved_model/"))
    programs = sum(size for path, size in files.items() if path.endswith(".mlirbc"))
    weights = sum(weight.nbytes for weight in bundle.manifest.weights)
    assert saved <= 1.05 * (weights + programs)
