"""gemma3-host on the real Gemma 3 270M: the tokens of transformers and of gemma3-run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.export.checkpoint import demo_checkpoint
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import Completion, generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score

from ..goldens.loader import real_goldens
from ..parity.bundles import make_bundle
from .conftest import Host

GOLDENS = real_goldens()
BY_LENGTH = {len(prompt.tokens): prompt for prompt in GOLDENS.prompts}
# Rows of one batch: shorter than a chunk, at its edges, and across the 512 window. Eight virtual
# devices share the cores of this machine, so they get fewer rows and tokens.
UNEQUAL = {"1x1": ((1, 7, 31, 33, 129, 300, 513, 600), 24), "2x4": ((1, 33, 513), 8)}
SAMPLED = {"1x1": 40, "2x4": 8}
SAMPLING = {
    "temperature": 0.8,
    "top_k": 50,
    "top_p": 0.95,
    "min_p": 0.01,
    "seed": 3,
    "repetition_penalty": 1.2,
}


@pytest.fixture(scope="module")
def ask(real_bundle: Path, gemma3_host: Host, tmp_path_factory: pytest.TempPathFactory):
    """Asks gemma3-host, which compiles a program once for all tests."""
    kept = tmp_path_factory.mktemp("compiled")

    def run(prompts: Sequence[Sequence[int]], *flags: object) -> list[dict]:
        tokens = [f"--tokens={','.join(map(str, prompt))}" for prompt in prompts]
        return gemma3_host(real_bundle, *tokens, "--json", "--cache-dir", kept, *flags).values

    return run


@pytest.fixture(scope="module")
def model(real_bundle: Path) -> LoadedModel:
    """What gemma3-run runs on; meshes do not change tokens (tests/parity)."""
    return LoadedModel.load(real_bundle, "1x1", "cpu")


@pytest.fixture(scope="module")
def sampled(model: LoadedModel) -> Completion:
    """What gemma3-run draws after a prompt that crosses the edge of a chunk."""
    prompts, sampling = [BY_LENGTH[33].tokens], SamplingParameters(**SAMPLING)
    (found,) = generate(
        model, prompts, sampling, max_new_tokens=max(SAMPLED.values()), ignore_eos=True
    )
    return found


@pytest.mark.parametrize("mesh", UNEQUAL)
def test_rows_of_unequal_length_give_the_golden_tokens(ask, mesh: str):
    lengths, count = UNEQUAL[mesh]
    prompts = [BY_LENGTH[length] for length in lengths]
    values = ask(
        [p.tokens for p in prompts], "--mesh", mesh, "--ignore-eos", "--max-new-tokens", count
    )
    assert [value["tokens"] for value in values] == [list(p.generated[:count]) for p in prompts]


def test_the_longest_prompt_goes_in_by_chunks_and_gives_the_golden_tokens(ask):
    prompt = BY_LENGTH[max(BY_LENGTH)]
    assert len(prompt.tokens) == 1500
    (value,) = ask([prompt.tokens], "--ignore-eos", "--max-new-tokens", len(prompt.generated))
    assert value["tokens"] == list(prompt.generated)


@pytest.mark.parametrize("mesh", SAMPLED)
def test_seeded_samples_are_those_of_gemma3_run(ask, sampled: Completion, mesh: str):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SAMPLING.items()]
    count = SAMPLED[mesh]
    (value,) = ask(
        [BY_LENGTH[33].tokens], "--mesh", mesh, "--ignore-eos", "--max-new-tokens", count, *flags
    )  # fmt: skip
    assert value["tokens"] == sampled.tokens[:count]
    assert value["tokens"] != list(BY_LENGTH[33].generated[:count])  # not what greedy gives
    if count == len(sampled.tokens):
        assert value["text"] == sampled.text


def test_scores_are_those_of_gemma3_run_and_of_transformers(ask, model: LoadedModel):
    (value,) = ask([GOLDENS.score.tokens], "--score")
    (expected,) = score(model, [GOLDENS.score.tokens])
    np.testing.assert_allclose(value["logprobs"], np.array(expected.logprobs, float), atol=1e-4)
    np.testing.assert_allclose(value["logprobs"], GOLDENS.score.logprobs, atol=2e-4)
    assert value["loss"] == pytest.approx(expected.loss, abs=1e-4)
    assert value["loss"] == pytest.approx(GOLDENS.score.loss, abs=1e-4)


def test_memory_is_the_weights_the_cache_and_250_mb(gemma3_host: Host, tmp_path: Path):
    """As users export it, in bfloat16; what compiling takes for a moment included."""
    bundle = make_bundle(
        demo_checkpoint(), tmp_path / "bundle", "1x1", prefill=(128,), cache=(1024,),
        generate=16, dtype="bfloat16",
    )  # fmt: skip
    prompt = ",".join(map(str, BY_LENGTH[33].tokens))
    (value,) = gemma3_host(
        bundle, "--tokens", prompt, "--json", "--ignore-eos", "--max-new-tokens", 20,
        "--no-cache",
    ).values  # fmt: skip
    manifest = Bundle.open(bundle).manifest
    weights = sum(weight.nbytes for weight in manifest.weights)
    limit = 1.15 * weights + manifest.caches[0].bytes_per_row + 250e6
    assert weights < value["stats"]["peak_rss_bytes"] < limit
