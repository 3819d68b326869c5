"""Logical axes to mesh axes: rules, what does not divide, and the table of expressions."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.lowering.quantized import ParameterSpec
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.sharding import (
    ACTIVATION,
    DATA_MODEL_AXES,
    NAMED_AXES,
    Sharder,
    get_partition_rules,
    match_partition_rule,
    rules_for,
)
from jax.sharding import PartitionSpec as P

from .small import small_config

LAYER = "model.layers.0."


def parameters(config: Gemma3TextConfig) -> dict[str, ParameterSpec]:
    return {p.name: p for p in CausalLM(config, jnp.dtype(jnp.float32)).parameters()}


def specs(config: Gemma3TextConfig, **mesh: int) -> tuple[dict[str, P], list[str]]:
    """Specs of all parameters, and the sentences about what fell back."""
    sharder = Sharder(mesh)
    found = {p.name: sharder.spec(p.name, p.axes, p.counts) for p in parameters(config).values()}
    return found, sorted(sharder.fallbacks)


def test_data_and_model_split_heads_feed_forward_and_vocabulary():
    found, fallbacks = specs(small_config(tie_word_embeddings=False), data=2, model=2)
    assert fallbacks == []
    assert found["model.embed_tokens.weight"] == P("model", None)
    assert found["lm_head.weight"] == P("model", None)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj",
                 "mlp.up_proj"):  # fmt: skip
        assert found[f"{LAYER}{name}.weight"] == P("model", None)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert found[f"{LAYER}{name}.weight"] == P(None, "model")
    for name in ("input_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
        assert found[f"{LAYER}{name}.weight"] == P(None)
    assert found["model.norm.weight"] == P(None)


def test_named_axes_split_as_easydel_does():
    found, fallbacks = specs(small_config(), dp=1, fsdp=2, ep=1, tp=2, sp=2)
    assert fallbacks == []
    column, row = P("tp", ("fsdp", "sp")), P(("fsdp", "sp"), "tp")  # (out, in): as torch stores
    assert found["model.embed_tokens.weight"] == row
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj",
                 "mlp.up_proj"):  # fmt: skip
        assert found[f"{LAYER}{name}.weight"] == column
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert found[f"{LAYER}{name}.weight"] == row


@pytest.mark.parametrize("axes", [DATA_MODEL_AXES, NAMED_AXES])
@pytest.mark.parametrize("tied", [True, False])
def test_the_table_of_expressions_says_what_the_modules_say(axes: tuple[str, ...], tied: bool):
    config = small_config(attention_bias=True, tie_word_embeddings=tied)
    table = config.get_partition_rules(axes)
    found, fallbacks = specs(config, **dict.fromkeys(axes, 2))
    assert fallbacks == []
    for name, spec in found.items():
        assert match_partition_rule(table, name) == spec, name


def test_a_table_of_fewer_axes_names_only_those():
    table = get_partition_rules(("tp",))
    assert match_partition_rule(table, f"{LAYER}self_attn.q_proj.weight") == P("tp", None)
    assert match_partition_rule(table, "model.embed_tokens.weight") == P(None, "tp")


def test_a_name_that_no_expression_matches_is_refused():
    with pytest.raises(KeyError, match=r"no partition rule matches model\.pixels"):
        match_partition_rule(get_partition_rules(), "model.pixels")


def test_one_kv_head_stays_whole_on_a_model_axis_of_four_and_all_else_is_split():
    config = small_config(num_key_value_heads=1)
    found, fallbacks = specs(config, data=2, model=4)
    assert found[f"{LAYER}self_attn.k_proj.weight"] == P(None, None)
    assert found[f"{LAYER}self_attn.v_proj.weight"] == P(None, None)
    assert found[f"{LAYER}self_attn.q_proj.weight"] == P("model", None)
    assert found[f"{LAYER}self_attn.o_proj.weight"] == P(None, "model")
    assert fallbacks == [
        f"model.layers.*.self_attn.{letter}_proj.weight: kv_heads of 1 is not divisible by "
        "model=4, kept whole"
        for letter in "kv"
    ]


def test_a_matrix_of_heads_is_cut_between_heads_and_never_within_one():
    """4 heads of 8 numbers are 32 columns, which 8 divides; 4 heads it does not."""
    found, fallbacks = specs(small_config(), data=1, model=8)
    assert found[f"{LAYER}self_attn.q_proj.weight"] == P(None, None)
    assert any("q_proj.weight: heads of 4 is not divisible by model=8" in f for f in fallbacks)


def test_an_axis_that_does_not_divide_is_passed_over_and_the_next_is_tried():
    sharder = Sharder({"fsdp": 3, "sp": 2, "tp": 1})
    assert sharder.spec("w", ("embed",), (8,)) == P("sp")
    assert sharder.fallbacks == {"w: embed of 8 is not divisible by fsdp=3, kept whole"}


def test_axes_divide_what_earlier_axes_left():
    sharder = Sharder({"fsdp": 4, "sp": 4})
    assert sharder.spec("w", ("embed",), (8,)) == P("fsdp")
    assert sharder.spec("v", ("embed",), (16,)) == P(("fsdp", "sp"))


def test_a_mesh_axis_is_used_once_in_a_tensor():
    sharder = Sharder({"fsdp": 2, "sp": 2})
    assert sharder.spec("x", ("batch", "embed"), (4, 4)) == P("fsdp", "sp")


def test_axes_of_one_device_are_not_named():
    sharder = Sharder({"data": 1, "model": 4})
    assert sharder.spec("cache", ("batch", "kv_heads", "slots", "norm"), (2, 4, 9, 8)) == P(
        None, "model", None, None
    )


def test_what_follows_from_the_weights_is_not_reported_again():
    sharder = Sharder({"data": 2, "model": 4})
    assert sharder.spec(ACTIVATION, ("batch", "tokens", "kv_heads", "norm"), (1, 5, 1, 8)) == P(
        None, None, None, None
    )
    assert sharder.fallbacks == set()


def test_shards_counts_the_parts_of_a_dimension():
    sharder = Sharder({"dp": 2, "fsdp": 2, "sp": 2, "tp": 3})
    assert [sharder.shards("batch", n) for n in (8, 4, 2, 1)] == [4, 4, 2, 1]
    assert sharder.shards("ffw", 6) == 3
    assert sharder.shards("norm", 6) == 1
    assert sharder.fallbacks == set()


def test_a_mesh_of_one_device_carries_no_shardings():
    assert Sharder({"data": 1, "model": 1}).sharding(P("model")) is None


@pytest.mark.parametrize("axes", [("data", "tp"), ("model", "columns"), ("x",)])
def test_a_stranger_among_the_axes_is_named_with_both_families(axes: tuple[str, ...]):
    with pytest.raises(ValueError, match="expected names from data,model or from dp,fsdp,ep"):
        rules_for(axes)
