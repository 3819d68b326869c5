"""Quantised programs compute what their weights and caches mean, on one device and on eight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.store import map_weight
from gemma3_export.export import quantize
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score

from ..goldens.tiny import write_checkpoint
from ..model.quantized_weights import dequantized
from ..model.small import log_softmax, reference_logits
from .bundles import make_bundle

TOLERANCE = 1e-4
TOKENS = [2, 17, 230, 5, 99, 64, 5, 12, 201, 77, 3, 150, 31]


def meant(model: LoadedModel) -> dict[str, np.ndarray]:
    """The weights of a bundle in float32, from what is stored and nothing else."""
    bundle = model.bundle
    stored = {w.name: map_weight(bundle, w) for w in bundle.manifest.weights}
    found = {}
    for name, values in stored.items():
        if name.endswith("_scale"):
            continue
        scale = stored.get(f"{name}_scale")
        found[name] = values if scale is None else dequantized(values, scale).astype(np.float32)
    return found


CASES = [
    ("default", "int8", "1x1"),
    ("default", "int4-pure", "1x1"),
    ("default", "int4", "2x4"),
    ("layer_types", "int8", "2x4"),
    ("layer_types", "fp8", "1x1"),
]


@pytest.mark.parametrize(("name", "recipe", "mesh"), CASES)
def test_logprobs_are_those_of_the_dequantised_weights(
    name: str, recipe: str, mesh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # No CPU multiplies 8-bit floats, which is why users are refused; XLA emulates them there.
    monkeypatch.setattr(quantize, "FLOAT8_PLATFORMS", ("cpu",))
    checkpoint = write_checkpoint(name, tmp_path / "checkpoint")
    bundle = make_bundle(checkpoint, tmp_path / "bundle", mesh, quantize=recipe, prefill=(16,))
    model = LoadedModel.load(bundle, mesh, "cpu")
    config = Gemma3TextConfig.from_dict(bundle_config(model))
    logits = reference_logits(config, meant(model), TOKENS)
    expected = log_softmax(logits)
    result = score(model, [TOKENS])[0]
    picked = expected[np.arange(len(TOKENS) - 1), TOKENS[1:]]
    np.testing.assert_allclose(result.logprobs, picked, atol=TOLERANCE)
    completion = generate(
        model, [TOKENS[:6]], SamplingParameters(), max_new_tokens=3, ignore_eos=True, logprobs=5
    )[0]
    text = TOKENS[:6] + completion.tokens
    expected = log_softmax(reference_logits(config, meant(model), text))
    assert completion.logprobs is not None
    for place, best in enumerate(completion.logprobs):
        for token, logprob in best:
            assert logprob == pytest.approx(expected[5 + place, token], abs=TOLERANCE)


def rounded(kept: np.ndarray) -> np.ndarray:
    """[T,K,H] in 255 steps of the largest number of each [H]."""
    step = np.abs(kept).max(-1, keepdims=True) / 127
    return np.rint(kept / step) * step


@pytest.mark.parametrize(("name", "mesh"), [("default", "1x1"), ("layer_types", "2x4")])
def test_keys_and_values_in_int8_are_rounded_once_and_chunks_change_nothing(
    name: str, mesh: str, tmp_path: Path
):
    checkpoint = write_checkpoint(name, tmp_path / "checkpoint")
    bundle = make_bundle(checkpoint, tmp_path / "bundle", mesh, kv_dtype="int8", prefill=(4, 16))
    model = LoadedModel.load(bundle, mesh, "cpu")
    config = Gemma3TextConfig.from_dict(bundle_config(model))
    expected = log_softmax(reference_logits(config, meant(model), TOKENS, rounded))
    exact = log_softmax(reference_logits(config, meant(model), TOKENS))
    picked = np.arange(len(TOKENS) - 1), TOKENS[1:]
    in_one = score(model, [TOKENS])[0].logprobs
    # A number that lies between two steps may fall to either, float32 being what it is.
    np.testing.assert_allclose(in_one, expected[picked], atol=2e-3)
    assert np.abs(exact[picked] - expected[picked]).max() > 2e-3
    completion = generate(
        model, [TOKENS], SamplingParameters(), max_new_tokens=3, ignore_eos=True, logprobs=5
    )[0]
    text = TOKENS + completion.tokens
    expected = log_softmax(reference_logits(config, meant(model), text, rounded))
    assert completion.logprobs is not None
    for place, best in enumerate(completion.logprobs):
        for token, logprob in best:
            assert logprob == pytest.approx(expected[len(TOKENS) - 1 + place, token], abs=2e-3)
    layer = model.bundle.manifest.caches[0].layers[0]
    assert (layer.dtype, layer.scale_dtype) == ("int8", "float32")


def bundle_config(model: LoadedModel) -> dict:
    return model.bundle.manifest.model.config
