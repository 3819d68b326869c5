"""Configs as people make them: what a file is refused for, a constructor refuses too."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from gemma3_export.model.api import Gemma3ForConditionalGeneration, Gemma3TextModel
from gemma3_export.model.config import (
    ConfigError,
    EasyDeLGradientCheckPointers,
    Gemma3TextConfig,
    LayerType,
)
from gemma3_export.model.vision_config import Gemma3Config, SiglipVisionConfig
from jax.sharding import PartitionSpec as P

from ...goldens.tiny_vision import TINY_VISION
from ..small import small_config
from ..test_config import REFUSED
from .models import compiled, ids, small_model

FIELDS = {field.name for field in dataclasses.fields(Gemma3TextConfig)}
NULL = ("rope_scaling", "final_logit_softcapping", "attn_logit_softcapping", "layer_types")


@pytest.mark.parametrize(
    ("field", "config"),
    [case for case in REFUSED if set(case[1]) <= FIELDS],
    ids=lambda value: str(value)[:60],
)
def test_a_constructor_refuses_in_one_line_what_a_file_is_refused_for(
    field: str, config: dict[str, Any]
):
    with pytest.raises(ConfigError) as raised:
        Gemma3TextConfig(**config)
    assert field in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache_implementation", "dynamic"), ("cache_implementation", 3),
        ("attention_dropout", "x"), ("attention_dropout", 7), ("attention_dropout", 1.0),
        ("attention_dropout", -0.1), ("initializer_range", -1), ("initializer_range", "a"),
        ("initializer_range", True), ("rms_norm_eps", float("nan")), ("use_cache", 1),
        ("hidden_activation", len), ("bits", "8"), ("gradient_checkpointing", 1),
        ("num_labels", 0), ("mask_max_position_embeddings", -1), ("layer_types", "full_attention"),
        ("output_attentions", "no"), ("pad_token_id", 1.5),
    ],
)  # fmt: skip
def test_every_field_is_checked_by_file_and_by_constructor_alike(field: str, value: object):
    for make in (
        lambda: Gemma3TextConfig(**{field: value}),
        lambda: small_config(**{field: value}),
    ):
        with pytest.raises(ConfigError, match=f"config.json {field}: expected .*"):
            make()
    with pytest.raises(ConfigError, match=field):
        Gemma3TextConfig.from_dict({field: value})


def test_lists_become_tuples_and_names_of_layers_become_kinds():
    config = Gemma3TextConfig(
        num_hidden_layers=2, eos_token_id=[1, 106], layer_types=["full_attention"] * 2
    )
    assert (config.eos_token_id, config.eos_token_ids) == ((1, 106), (1, 106))
    assert config.layer_types == (LayerType.FULL, LayerType.FULL)
    assert isinstance(config.layer_types[0], LayerType)
    read = Gemma3TextConfig.from_dict(
        {"num_hidden_layers": 2, "eos_token_id": [1, 106], "layer_types": ["full_attention"] * 2}
    )
    assert config == read


@pytest.mark.parametrize("field", sorted(FIELDS - {"num_key_value_heads", *NULL}))
def test_none_is_the_default_as_null_in_a_file_is(field: str):
    assert Gemma3TextConfig(**{field: None}) == Gemma3TextConfig.from_dict({field: None})
    assert Gemma3TextConfig(**{field: None}) == Gemma3TextConfig()


def test_key_heads_of_none_are_as_many_as_query_heads_and_left_out_they_are_four():
    assert Gemma3TextConfig(num_attention_heads=16, num_key_value_heads=None) == Gemma3TextConfig(
        num_attention_heads=16, num_key_value_heads=16
    )
    assert Gemma3TextConfig(num_attention_heads=16).num_key_value_heads == 4
    null = Gemma3TextConfig.from_dict({"num_attention_heads": 16, "num_key_value_heads": None})
    assert null.num_key_value_heads == 4


def test_the_example_of_the_pages_makes_a_model_with_its_config():
    """In its order, (vision_config, text_config), and in that of the signature."""
    tiny = Gemma3Config.from_dict(TINY_VISION["image"])
    vision_config, text_config, size = (
        tiny.vision_config,
        tiny.text_config,
        tiny.mm_tokens_per_image,
    )
    configuration = Gemma3Config(vision_config, text_config, size)
    assert configuration.text_config is text_config
    assert configuration.vision_config is vision_config
    model = Gemma3ForConditionalGeneration(configuration)
    assert model.config is configuration
    assert Gemma3Config(text_config, vision_config, size) == configuration
    sections = vision_config.to_dict(), text_config.to_dict()
    assert Gemma3Config(*sections, size) == configuration
    assert Gemma3Config(vision_config).vision_config is vision_config
    with pytest.raises(ConfigError, match=r"vocab_size: expected a whole number .*Gemma3Config\("):
        Gemma3TextConfig(configuration)  # its last line but one, which cannot be meant
    plain = Gemma3Config(SiglipVisionConfig(), Gemma3TextConfig())
    with pytest.raises(ConfigError, match="divisor of the 14 patches"):
        Gemma3ForConditionalGeneration(plain)  # the defaults do not suit each other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_config": 3}, "text_config: expected a Gemma3TextConfig, a dictionary or None"),
        ({"vision_config": "so400m"}, "vision_config: expected a SiglipVisionConfig, .* got str"),
        ({"text_config": Gemma3Config()}, "text_config: expected .* got Gemma3Config"),
        ({"vision_config": Gemma3TextConfig()}, "vision_config: expected .* got Gemma3TextConfig"),
        ({"text_config": {"model_type": "llama"}}, "expected model_type gemma3_text, got 'llama'"),
        ({"vision_config": {"attention_dropout": 2}}, "vision_config.attention_dropout: expected"),
        ({"vision_config": {"vision_use_head": 1}}, "vision_use_head: expected true or false"),
        ({"initializer_range": -0.1}, "initializer_range: expected a number of at least 0"),
        ({"image_token_index": -5}, "image_token_index: expected a positive integer, got -5"),
    ],
)  # fmt: skip
def test_sections_of_another_kind_are_refused_as_they_are_given(arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Gemma3Config(**arguments)


def test_token_ids_have_the_newer_names_too():
    config = Gemma3Config(image_token_id=5, boi_token_id=6, eoi_token_id=7)  # pyright: ignore
    assert (config.image_token_index, config.boi_token_index, config.eoi_token_index) == (5, 6, 7)
    assert (config.image_token_id, config.boi_token_id, config.eoi_token_id) == (5, 6, 7)
    assert dataclasses.replace(config, image_token_index=8).image_token_id == 8
    with pytest.raises(TypeError, match="image_token_id and image_token_index are one"):
        Gemma3Config(image_token_id=5, image_token_index=6)  # pyright: ignore


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gemma3TextConfig(hiden_size=3), r"no argument 'hiden_size' \(did you mean hidden"),
        (lambda: Gemma3Config(architectures=[]), "Gemma3Config: there is no argument 'archi"),
        (lambda: SiglipVisionConfig(pool=1), "SiglipVisionConfig: there is no argument 'pool'"),
        (lambda: small_config().attach_custom_arguments(easy_method="train"), "easy_method"),
        (lambda: small_config().get_partition_rules(fully_sharded_data_parallel=True), "fully_sh"),
    ],
)  # fmt: skip
def test_keywords_that_nobody_reads_are_refused_by_name(make: Any, message: str):
    with pytest.raises(TypeError, match=message):
        make()


def test_partition_rules_are_for_names_of_axes():
    for config in (small_config(), Gemma3Config()):
        rules = dict(config.get_partition_rules(["data", "model"]))
        assert rules[r"lm_head\.weight$"] == P("model", None)
        for wrong in (True, "tp"):
            with pytest.raises(ValueError, match=r"expected names of mesh axes, such as .*, got"):
                config.get_partition_rules(wrong)  # pyright: ignore[reportArgumentType]


def test_checkpointing_policies_have_easydel_s_spelling_too():
    pointers = EasyDeLGradientCheckPointers
    assert pointers.CHECKPOINT_DOTS_WITH_NO_BATCH_DMIS is pointers(
        "checkpoint_dots_with_no_batch_dims"
    )
    assert pointers.DOTS_WITH_NO_BATCH_DIMS_AVAILABLE is pointers.DOTS_WITH_NO_BATCH_DIMS_SAVEABLE
    config = small_config(gradient_checkpointing=pointers.CHECKPOINT_DOTS_WITH_NO_BATCH_DMIS)
    text = str(jax.make_jaxpr(small_model_of(config))(ids([1, 2])))
    assert text.count("remat") + text.count("checkpoint[") >= 2
    with pytest.raises(ConfigError, match="gradient_checkpointing: expected one of"):
        small_config(gradient_checkpointing="save_only_these_names")


def small_model_of(config: Gemma3TextConfig):
    model = small_model(gradient_checkpointing=config.gradient_checkpointing)
    return lambda tokens: model(tokens).logits


def test_a_static_cache_keeps_every_position_in_its_slot_and_gives_the_same():
    """A hybrid one has rings on sliding layers."""
    prompt = ids([5, 9, 3, 17, 8, 40, 2, 71, 33])
    hybrid, static = small_model(), small_model(cache_implementation="static")
    slots = [[key.shape[2] for key, _ in m.init_cache(1, 20)] for m in (hybrid, static)]
    assert slots == [[5, 20], [20, 20]]
    outputs = []
    for model in (hybrid, static):
        run = compiled(model)
        output = run(prompt, past_key_values=model.init_cache(1, 20))
        output = run(ids([50]), past_key_values=output.past_key_values)
        outputs.append(output)
    np.testing.assert_allclose(outputs[0].logits, outputs[1].logits, atol=2e-5)
    rings, whole = (np.asarray(output.past_key_values[0].key) for output in outputs)
    for position in range(5, 10):  # the last five of ten tokens
        np.testing.assert_allclose(rings[0, :, position % 5], whole[0, :, position], atol=1e-5)
    assert whole[0, :, 0].any()
    assert not whole[0, :, 10:].any()


def test_rotary_tables_are_made_once():
    config = small_config(freq_max_position_embeddings=11)
    model = Gemma3TextModel(config)
    assert model.default_frequencies is model.default_frequencies
    assert model.default_frequencies.shape == (11, config.head_dim)
    with pytest.raises(ValueError, match="read-only"):
        model.default_frequencies[0, 0] = 2.0
