"""The SavedModel through TensorFlow's C API, from a C program without Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from .conftest import Built
from .requests import PROMPTS

QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def run_c(loader: Built, bundle: Path, new_tokens: int, prompt: list[int]):
    return subprocess.run(
        [loader.program, bundle / "saved_model" / "1", str(new_tokens), *map(str, prompt)],
        capture_output=True, text=True, check=False, env=QUIET,
    )  # fmt: skip


def test_a_c_program_gives_the_tokens_of_the_stablehlo_runtime(bundle: Path, c_loader: Built):
    done = run_c(c_loader, bundle, 12, PROMPTS[0])
    assert done.returncode == 0, done.stderr
    *tokens, reason = done.stdout.split()
    expected = generate(
        LoadedModel.load(bundle, "1x1"), [PROMPTS[0]], SamplingParameters(), max_new_tokens=12,
        ignore_eos=True,
    )  # fmt: skip
    assert [int(token) for token in tokens] == expected[0].tokens
    assert reason == "length"


def test_the_c_program_has_no_python_in_it(c_loader: Built):
    linked = subprocess.run(["ldd", c_loader.program], capture_output=True, text=True, check=True)
    assert "libtensorflow_cc" in linked.stdout
    assert "libpython" not in linked.stdout


def test_a_refused_request_is_an_error_of_the_c_api(bundle: Path, c_loader: Built):
    done = run_c(c_loader, bundle, 70, PROMPTS[0])
    assert done.returncode == 1
    assert "max_new_tokens: expected at most 64" in done.stderr
