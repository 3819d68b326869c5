"""The table of published sizes against the checkpoints' own parameter counts."""

from __future__ import annotations

import math

import jax.numpy as jnp
import pytest
from gemma3_export.model.config import (
    PUBLISHED_PARAMETERS,
    PUBLISHED_SIZES,
    Gemma3TextConfig,
    LayerType,
)
from gemma3_export.model.lowering.quantized import ParameterSpec
from gemma3_export.model.pure.causal_lm import CausalLM

VISION_TOWER = 416_866_032
VISION_WIDTH = 1152


def parameters(config: Gemma3TextConfig) -> list[ParameterSpec]:
    return CausalLM(config, jnp.dtype(jnp.bfloat16)).parameters()


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_parameter_counts_are_exact(size: str):
    config = PUBLISHED_SIZES[size]
    expected = PUBLISHED_PARAMETERS[size]
    if size not in ("270m", "1b"):  # these see: a projection and a norm besides the tower
        expected -= VISION_TOWER + VISION_WIDTH * config.hidden_size + VISION_WIDTH
    assert sum(math.prod(p.shape) for p in parameters(config)) == expected


@pytest.mark.parametrize(
    ("size", "layers", "full"),
    [("270m", 18, 3), ("1b", 26, 4), ("4b", 34, 5), ("12b", 48, 8), ("27b", 62, 10)],
)
def test_layers_are_those_of_the_papers(size: str, layers: int, full: int):
    kinds = PUBLISHED_SIZES[size].layer_types
    assert len(kinds) == layers
    assert kinds.count(LayerType.FULL) == full
    assert (kinds[-1] == LayerType.FULL) == (layers % 6 == 0)


def test_the_27b_scales_queries_by_168_and_not_by_its_head_dim():
    config = PUBLISHED_SIZES["27b"]
    assert (config.query_pre_attn_scalar, config.head_dim) == (168, 128)
    assert config.hidden_size // config.num_attention_heads == 168


def test_only_the_sizes_that_see_scale_their_rotation():
    scaled = {size for size, config in PUBLISHED_SIZES.items() if config.rope_scaling}
    assert scaled == {"4b", "12b", "27b"}


def test_parameters_are_stored_in_the_order_that_hosts_rely_on():
    config = Gemma3TextConfig(
        num_hidden_layers=11, attention_bias=True, tie_word_embeddings=False, vocab_size=8
    )
    names = [p.name for p in parameters(config)]
    assert names[0] == "model.embed_tokens.weight"
    assert names[-2:] == ["lm_head.weight", "model.norm.weight"]
    for layer in range(11):
        prefix = f"model.layers.{layer}."
        of_layer = [name for name in names if name.startswith(prefix)]
        first = names.index(of_layer[0])
        assert names[first : first + len(of_layer)] == of_layer
        at = [of_layer.index(f"{prefix}self_attn.{letter}_proj.weight") for letter in "qkv"]
        assert at == [at[0], at[0] + 1, at[0] + 2]
        gate = of_layer.index(f"{prefix}mlp.gate_proj.weight")
        assert of_layer[gate + 1] == f"{prefix}mlp.up_proj.weight"
    numbers = [int(name.split(".")[2]) for name in names if ".layers." in name]
    assert numbers == sorted(numbers)
