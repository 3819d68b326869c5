"""Weights of the vision side: exact counts, canonical names, partition rules that live."""

from __future__ import annotations

import math

import jax.numpy as jnp
import pytest
from gemma3_export.model.config import PUBLISHED_PARAMETERS
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.pure.image_encoder import ImageEncoder
from gemma3_export.model.pure.module import ParameterSpec
from gemma3_export.model.sharding import (
    DATA_MODEL_AXES,
    NAMED_AXES,
    Sharder,
    get_partition_rules,
    match_partition_rule,
)
from gemma3_export.model.vision_config import (
    PUBLISHED_MULTIMODAL,
    Gemma3Config,
    SiglipVisionConfig,
)
from jax.sharding import PartitionSpec

VISION_PARAMETERS = 416_866_032


def count(specs: list[ParameterSpec]) -> int:
    return sum(math.prod(spec.shape) for spec in specs)


def encoder_specs(size: str = "4b") -> list[ParameterSpec]:
    return ImageEncoder(PUBLISHED_MULTIMODAL[size], jnp.dtype("bfloat16")).parameters()


@pytest.mark.parametrize("size", PUBLISHED_MULTIMODAL)
def test_parameters_of_vision_projector_and_text_add_up_to_the_published_count(size: str):
    config = PUBLISHED_MULTIMODAL[size]
    specs = encoder_specs(size)
    vision = [spec for spec in specs if spec.name.startswith("vision_tower.")]
    projector = [spec for spec in specs if spec.name.startswith("multi_modal_projector.")]
    text = CausalLM(config.text_config, jnp.dtype("bfloat16")).parameters()
    assert count(vision) == VISION_PARAMETERS
    assert count(projector) == 1152 * config.text_config.hidden_size + 1152
    assert count(vision) + count(projector) + count(text) == PUBLISHED_PARAMETERS[size]


def test_names_are_the_canonical_ones_of_checkpoints_in_store_order():
    names = [spec.name for spec in encoder_specs()]
    layer = "vision_tower.vision_model.encoder.layers."
    assert len(names) == len(set(names)) == 3 + 27 * 16 + 2 + 2
    assert names[:3] == [
        "vision_tower.vision_model.embeddings.patch_embedding.bias",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.embeddings.position_embedding.weight",
    ]
    assert names[-2:] == [
        "multi_modal_projector.mm_input_projection_weight",
        "multi_modal_projector.mm_soft_emb_norm.weight",
    ]
    first = names.index(f"{layer}9.self_attn.q_proj.weight")
    assert names[first + 1 : first + 3] == [
        f"{layer}9.self_attn.k_proj.weight",
        f"{layer}9.self_attn.v_proj.weight",
    ]
    layers = [int(n.split(".")[4]) for n in names if n.startswith(layer)]
    assert layers == sorted(layers)


@pytest.mark.parametrize("axes", [DATA_MODEL_AXES, NAMED_AXES])
def test_rules_by_name_are_the_logical_axes_of_the_modules(axes: tuple[str, ...]):
    rules = PUBLISHED_MULTIMODAL["4b"].get_partition_rules(axes)
    sharder = Sharder(dict.fromkeys(axes, 2))
    for spec in encoder_specs():
        by_axes = sharder.spec(spec.name, spec.axes, spec.counts)
        by_name = match_partition_rule(rules, spec.name)
        assert by_axes == by_name, spec.name


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("encoder.layers.3.self_attn.q_proj.weight", PartitionSpec("tp", ("fsdp", "sp"))),
        ("encoder.layers.3.self_attn.k_proj.bias", PartitionSpec("tp")),
        ("encoder.layers.3.self_attn.out_proj.weight", PartitionSpec(("fsdp", "sp"), "tp")),
        ("encoder.layers.3.self_attn.out_proj.bias", PartitionSpec(None)),
        ("encoder.layers.3.mlp.fc1.weight", PartitionSpec("tp", ("fsdp", "sp"))),
        ("encoder.layers.3.mlp.fc1.bias", PartitionSpec("tp")),
        ("encoder.layers.3.mlp.fc2.weight", PartitionSpec(("fsdp", "sp"), "tp")),
        ("encoder.layers.3.layer_norm1.weight", PartitionSpec(None)),
        ("post_layernorm.bias", PartitionSpec(None)),
    ],
)
def test_vision_weights_have_rules_of_their_own(name: str, spec: PartitionSpec):
    assert match_partition_rule(get_partition_rules(), f"vision_tower.vision_model.{name}") == spec


def test_projector_is_split_as_a_column_weight_that_lies_in_out():
    name = "multi_modal_projector.mm_input_projection_weight"
    assert match_partition_rule(get_partition_rules(), name) == PartitionSpec(("fsdp", "sp"), "tp")


def test_initial_weights_have_the_declared_shapes_and_norms_let_through():
    vision = SiglipVisionConfig(32, 48, 1, 4, image_size=16, patch_size=4)
    encoder = ImageEncoder(Gemma3Config(vision_config=vision, mm_tokens_per_image=4), jnp.float32)
    params = encoder.init(0)
    assert {spec.name: (spec.shape, spec.dtype) for spec in encoder.parameters()} == {
        name: (value.shape, value.dtype) for name, value in params.items()
    }
    norms = [value for name, value in params.items() if "norm" in name and "weight" in name]
    assert [float(jnp.ptp(value)) for value in norms] == [0.0] * (2 + 2)
    assert params["vision_tower.vision_model.post_layernorm.weight"][0] == 1.0
    assert params["multi_modal_projector.mm_soft_emb_norm.weight"][0] == 0.0  # applied as 1 + w
