"""gemma3-host on the real Gemma 3 270M: the tokens of transformers and of gemma3-run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gemma3_export.runtime.generate import generate
from gemma3_export.runtime.model import LoadedModel
from gemma3_export.runtime.sampling import SamplingParameters

from ..goldens.loader import real_goldens
from .conftest import Host

GOLDENS = real_goldens()
BY_LENGTH = {len(prompt.tokens): prompt for prompt in GOLDENS.prompts}
# Rows of one batch: shorter than a bucket, at its edges, and across the 512 window.
UNEQUAL = (1, 7, 31, 33, 129, 300, 513, 600)


def _flags(*prompts) -> list[str]:
    return [flag for p in prompts for flag in ("--tokens", ",".join(map(str, p)))]


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_eight_rows_of_unequal_length_give_the_golden_tokens(
    real_bundle: Path, gemma3_host: Host, mesh: str
):
    prompts = [BY_LENGTH[length] for length in UNEQUAL]
    values = gemma3_host(
        real_bundle, *_flags(*(p.tokens for p in prompts)), "--mesh", mesh, "--ignore-eos",
        "--max-new-tokens", 64,
    ).values  # fmt: skip
    assert [value["tokens"] for value in values] == [list(prompt.generated) for prompt in prompts]


def test_longest_prompt_goes_in_by_chunks_and_gives_the_golden_tokens(
    real_bundle: Path, gemma3_host: Host
):
    prompt = BY_LENGTH[max(BY_LENGTH)]
    assert len(prompt.tokens) == 1500
    (value,) = gemma3_host(
        real_bundle, *_flags(prompt.tokens), "--ignore-eos", "--max-new-tokens", 64, "--json"
    ).values
    assert value["tokens"] == list(prompt.generated)


def test_seeded_samples_and_scores_are_those_of_gemma3_run(real_bundle: Path, gemma3_host: Host):
    model = LoadedModel.load(real_bundle, "1x1", "cpu")
    prompt = BY_LENGTH[33].tokens
    for seed in (3, 4):
        sampling = SamplingParameters(temperature=0.8, top_k=50, top_p=0.95, min_p=0.01, seed=seed)
        (expected,) = generate(model, [prompt], sampling, max_new_tokens=40, ignore_eos=True)
        (value,) = gemma3_host(
            real_bundle, *_flags(prompt), "--ignore-eos", "--max-new-tokens", 40, "--json",
            "--temperature", 0.8, "--top-k", 50, "--top-p", 0.95, "--min-p", 0.01, "--seed", seed,
        ).values  # fmt: skip
        assert value["tokens"] == expected.tokens
        assert value["text"] == expected.text
    (value,) = gemma3_host(real_bundle, *_flags(GOLDENS.score.tokens), "--score", "--json").values
    np.testing.assert_allclose(value["logprobs"], GOLDENS.score.logprobs, atol=2e-4)
    assert value["loss"] == pytest.approx(GOLDENS.score.loss, abs=1e-4)
