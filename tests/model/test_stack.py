"""Layers as functions that are called, and as a scan: the same numbers, fewer bytes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.cache import init_cache
from gemma3_export.model.config import ConfigError, Gemma3TextConfig, LayerType
from gemma3_export.model.embedding import EmbeddingHead
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.layers import layers_form, repeating_period
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.pure.embedder import TextEmbedder

from .small import small_config, small_weights

S, F = LayerType.SLIDING, LayerType.FULL
TOKENS = np.random.default_rng(2).integers(0, 96, (2, 6)).astype(np.int32)
CONFIGS = {
    "whole periods": small_config(num_hidden_layers=4),
    "with a remainder": small_config(num_hidden_layers=7, sliding_window_pattern=3),
    "one kind": small_config(num_hidden_layers=3, sliding_window_pattern=9),
}


def scanning(config: Gemma3TextConfig) -> Gemma3TextConfig:
    return dataclasses.replace(config, scan_layers=True)


@pytest.mark.parametrize(
    ("kinds", "period"),
    [
        ((S, S, F, S, S, F), 3),
        ((S, S, F, S, S, F, S), 3),
        ((S, S, S), 1),
        ((F,), 1),
        ((S, S, S, F), 4),
        ((S, F, F, S, F), 3),
        ((F, S, S, F, S, F, S), 5),
    ],
)
def test_the_period_is_read_from_the_kinds(kinds: tuple[LayerType, ...], period: int):
    assert repeating_period(kinds) == period


def test_the_published_pattern_has_five_local_layers_and_a_global_one():
    config = Gemma3TextConfig(num_hidden_layers=62)
    assert repeating_period(config.layer_types) == 6


def lowered(config: Gemma3TextConfig, tokens: int):
    model, context = CausalLM(config, jnp.dtype(jnp.float32)), LoweringContext()

    def run(weights, tokens, start, length, cache):
        hidden, cache = model.forward(weights, tokens, start, length, cache, context)
        return model.logits(weights, hidden, context), cache

    start, length = np.zeros(2, np.int32), np.array([tokens, tokens - 1], np.int32)
    cache = init_cache(config, 2, 8, jnp.dtype(jnp.float32))
    arguments = (small_weights(config), TOKENS[:, :tokens], start, length, cache)
    return jax.jit(run).lower(*arguments), arguments


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_scanned_layers_compute_what_unrolled_ones_do(config: Gemma3TextConfig):
    program, arguments = lowered(config, 6)
    scanned, _ = lowered(scanning(config), 6)
    assert "stablehlo.while" in scanned.as_text()
    assert "stablehlo.while" not in program.as_text()
    expected, got = program.compile()(*arguments), scanned.compile()(*arguments)
    assert abs(np.asarray(expected[0])).max() > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, expected)


def test_layers_that_never_repeat_are_not_scanned():
    config = scanning(dataclasses.replace(small_config(num_hidden_layers=3), layer_types=(F, S, S)))
    assert layers_form(config) == "unrolled"
    assert "stablehlo.while" not in lowered(config, 6)[0].as_text()
    assert layers_form(scanning(small_config(num_hidden_layers=4))) == "scan"


def test_each_kind_of_layer_is_written_once_however_many_there_are():
    sizes = {}
    for layers in (6, 12, 24):
        text = lowered(small_config(num_hidden_layers=layers), 6)[0].as_text()
        assert text.count("func.func private @sliding_layer") == 1
        assert text.count("func.func private @full_layer") == 1
        assert text.count("call @sliding_layer") == layers // 2
        sizes[layers] = len(text)
    spelled_out = sizes[6] / 6
    assert (sizes[24] - sizes[12]) / 12 < spelled_out / 2


def test_an_embedding_model_scans_too():
    config = small_config(num_hidden_layers=4, use_bidirectional_attention=True)
    vectors = []
    for each in (config, scanning(config)):
        model = TextEmbedder(each, EmbeddingHead(), jnp.dtype(jnp.float32))
        weights = model.init(3)
        length = np.array([6, 4], np.int32)
        vectors.append(jax.jit(model.embed, static_argnums=3)(
            weights, TOKENS, length, LoweringContext()))  # fmt: skip
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize("value", [1, "true"])
def test_scan_layers_of_another_type_is_refused_by_name(value: object):
    with pytest.raises(ConfigError, match="scan_layers: expected true or false"):
        Gemma3TextConfig.from_dict({"scan_layers": value})
