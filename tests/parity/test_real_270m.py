"""The real Gemma 3 270M in float32: greedy tokens are transformers', on every mesh and batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gemma3_export.export.checkpoint import demo_checkpoint
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score

from ..goldens.loader import RealPrompt, real_goldens
from .bundles import LONG_MESHES, REAL_MESHES, make_bundle, make_real_bundle

GOLDENS = real_goldens()
BY_LENGTH = {len(prompt.tokens): prompt for prompt in GOLDENS.prompts}
# Rows of one batch: shorter than a bucket, at its edges, and across the 512 window.
UNEQUAL = (1, 7, 31, 33, 129, 300, 513, 600)


@pytest.fixture(scope="module")
def long_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_real_bundle(tmp_path_factory.mktemp("long") / "bundle", LONG_MESHES)


LONG = [pytest.param(mesh, marks=pytest.mark.soak) for mesh in LONG_MESHES]


@pytest.fixture(scope="module", params=[*REAL_MESHES, *LONG])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    name = "real_bundle" if request.param in REAL_MESHES else "long_bundle"
    return LoadedModel.load(request.getfixturevalue(name), request.param, "cpu")


def _tokens(model: LoadedModel, prompts: list[RealPrompt]) -> list[list[int]]:
    completions = generate(
        model, [p.tokens for p in prompts], SamplingParameters(), max_new_tokens=64,
        ignore_eos=True,
    )  # fmt: skip
    return [completion.tokens for completion in completions]


def test_eight_rows_of_unequal_length_give_the_golden_tokens(model: LoadedModel):
    prompts = [BY_LENGTH[length] for length in UNEQUAL]
    assert _tokens(model, prompts) == [list(prompt.generated) for prompt in prompts]


def test_single_prompts_give_the_golden_tokens(model: LoadedModel):
    # Every length on one device; on the meshes the one that crosses window and chunk edge.
    on_one = model.record.mesh.devices == 1
    for prompt in GOLDENS.prompts if on_one else [BY_LENGTH[513]]:
        assert _tokens(model, [prompt]) == [list(prompt.generated)]


def test_scores_are_those_of_transformers(real_bundle: Path):
    model = LoadedModel.load(real_bundle, "1x1", "cpu")
    result = score(model, [GOLDENS.score.tokens])[0]
    np.testing.assert_allclose(result.logprobs, GOLDENS.score.logprobs, atol=2e-4)
    assert result.loss == pytest.approx(GOLDENS.score.loss, abs=1e-4)


def test_bfloat16_is_nearer_to_float32_than_transformers_own_bfloat16(tmp_path: Path):
    bundle = make_bundle(
        demo_checkpoint(), tmp_path / "bundle", prefill=(256,), cache=(256,), dtype="bfloat16"
    )
    result = score(LoadedModel.load(bundle, "1x1", "cpu"), [GOLDENS.score.tokens])[0]
    exact = np.array(GOLDENS.score.logprobs)
    error = np.abs(np.array(result.logprobs) - exact)
    reference = np.abs(np.array(GOLDENS.score_bfloat16.logprobs) - exact)
    print(f"bfloat16: mean {error.mean():.4f} (transformers {reference.mean():.4f}), "
          f"max {error.max():.3f} ({reference.max():.3f})")  # fmt: skip
    assert error.mean() <= reference.mean()
    assert result.loss == pytest.approx(GOLDENS.score.loss, abs=0.01)
