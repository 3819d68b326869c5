"""Reading config.json: every style there is, and one line for what cannot be."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from gemma3_export.model.config import (
    PUBLISHED_SIZES,
    ConfigError,
    Gemma3TextConfig,
    LayerType,
)

from ..goldens.tiny import TINY

SLIDING, FULL = "sliding_attention", "full_attention"

# google/gemma-3-1b-it, as published in 2025.
OLD_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}

# google/gemma-3-4b-it leaves heads, head_dim and vocab_size to the defaults.
SPARSE_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model"},
}


def new_style(config: dict[str, Any]) -> dict[str, Any]:
    """The same architecture as transformers 5 writes it."""
    gone = ("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern")
    kept = {key: value for key, value in config.items() if key not in gone}
    layers, pattern = config["num_hidden_layers"], config["sliding_window_pattern"]
    full = {"rope_type": "default"} | (config["rope_scaling"] or {})
    return kept | {
        "layer_types": [SLIDING if (i + 1) % pattern else FULL for i in range(layers)],
        "_sliding_window_pattern": pattern,
        "rope_parameters": {
            FULL: full | {"rope_theta": config["rope_theta"]},
            SLIDING: {"rope_type": "default", "rope_theta": config["rope_local_base_freq"]},
        },
    }


def test_the_published_1b_is_the_1b_of_the_table():
    assert Gemma3TextConfig.from_dict(OLD_1B) == PUBLISHED_SIZES["1b"]


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 8.0}])
def test_new_style_says_what_old_style_says(scaling: dict[str, Any] | None):
    old = OLD_1B | {"rope_scaling": scaling, "rope_theta": 5e5, "rope_local_base_freq": 2e4}
    assert Gemma3TextConfig.from_dict(new_style(old)) == Gemma3TextConfig.from_dict(old)


def test_the_published_sparse_multimodal_4b_is_the_4b_of_the_table():
    config = Gemma3TextConfig.from_dict(SPARSE_4B)
    assert dataclasses.replace(config, eos_token_id=(1, 106)) == PUBLISHED_SIZES["4b"]
    assert (config.vocab_size, config.num_attention_heads, config.num_key_value_heads) == (
        262208, 8, 4,
    )  # fmt: skip
    assert (config.head_dim, config.query_pre_attn_scalar) == (256, 256)


def test_null_takes_the_default_except_where_null_means_none():
    config = Gemma3TextConfig.from_dict(
        {"num_attention_heads": None, "rope_theta": None, "final_logit_softcapping": None}
    )
    assert config == Gemma3TextConfig()


def test_softcaps_and_bias_are_read():
    config = Gemma3TextConfig.from_dict(
        {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, "attention_bias": True}
    )
    assert config.final_logit_softcapping == 30.0
    assert config.attn_logit_softcapping == 50.0
    assert config.attention_bias is True


@pytest.mark.parametrize(
    ("eos", "ids"), [(1, (1,)), ([1, 106], (1, 106)), ([107], (107,)), (None, (1,))]
)
def test_end_of_sequence_may_be_one_id_or_a_list(eos: object, ids: tuple[int, ...]):
    assert Gemma3TextConfig.from_dict({"eos_token_id": eos}).eos_token_ids == ids


@pytest.mark.parametrize("key", ["sliding_window_pattern", "_sliding_window_pattern"])
def test_the_pattern_makes_every_nth_layer_global_and_the_last_need_not_be(key: str):
    config = Gemma3TextConfig.from_dict({key: 3, "num_hidden_layers": 7})
    assert [i for i, kind in enumerate(config.layer_types) if kind == LayerType.FULL] == [2, 5]
    assert config.sliding_window_pattern == 3


def test_layer_types_win_over_a_pattern():
    kinds = [FULL, SLIDING, FULL]
    config = Gemma3TextConfig.from_dict(
        {"num_hidden_layers": 3, "layer_types": kinds, "sliding_window_pattern": 2}
    )
    assert list(config.layer_types) == kinds


@pytest.mark.parametrize("name", [*TINY, *PUBLISHED_SIZES])
def test_a_config_written_out_is_read_back_equal(name: str):
    config = (
        PUBLISHED_SIZES[name] if name in PUBLISHED_SIZES else Gemma3TextConfig.from_dict(TINY[name])
    )
    assert Gemma3TextConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_special_ids_and_spreads_that_are_not_the_defaults_survive_too():
    unusual = {"pad_token_id": 3, "bos_token_id": 7, "initializer_range": 0.5, "use_cache": False}
    config = Gemma3TextConfig.from_dict(unusual)
    assert (config.pad_token_id, config.bos_token_id) == (3, 7)
    assert Gemma3TextConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict().items() >= unusual.items()


POSITIVE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window",
    "sliding_window_pattern",
)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
HALF = [1.0] * 128

REFUSED: list[tuple[str, dict[str, Any]]] = [
    *((name, {name: value}) for name in POSITIVE for value in (0, -3, "8", 2.5, True, [1])),
    ("num_attention_heads", {"num_attention_heads": 6}),
    ("head_dim", {"head_dim": 7}),
    ("layer_types", {"layer_types": [SLIDING], "num_hidden_layers": 2}),
    ("layer_types", {"layer_types": ["chunked_attention"], "num_hidden_layers": 1}),
    ("layer_types", {"layer_types": [3], "num_hidden_layers": 1}),
    ("layer_types", {"layer_types": 3}),
    ("hidden_activation", {"hidden_activation": "silu"}),
    ("rope_scaling", {"rope_scaling": [8.0]}),
    ("rope_parameters", {"rope_parameters": [8.0]}),
    ("rope_parameters", {"rope_parameters": {FULL: 8.0}}),
    ("rope_type", {"rope_scaling": {"rope_type": "mrope", "factor": 2.0}}),
    ("rope_type", {"rope_scaling": {"rope_type": ["linear"], "factor": 2.0}}),
    *(
        ("factor", {"rope_scaling": {"rope_type": kind}})
        for kind in ("linear", "dynamic", "yarn", "llama3")
    ),
    ("low_freq_factor", {"rope_scaling": {k: LLAMA3[k] for k in LLAMA3 if "low" not in k}}),
    ("high_freq_factor", {"rope_scaling": {k: LLAMA3[k] for k in LLAMA3 if "high" not in k}}),
    ("long_factor", {"rope_scaling": {"rope_type": "longrope", "short_factor": HALF}}),
    ("short_factor", {"rope_scaling": {"rope_type": "longrope", "long_factor": HALF}}),
    (
        "long_factor",
        {"rope_scaling": {"rope_type": "longrope", "short_factor": HALF, "long_factor": HALF[1:]}},
    ),
    *(
        ("factor", {"rope_scaling": {"rope_type": "linear", "factor": factor}})
        for factor in (0, -8.0, "8", None, True, float("nan"))
    ),
    *(
        (name, {name: value})
        for name in ("rope_theta", "rope_local_base_freq", "query_pre_attn_scalar", "rms_norm_eps")
        for value in (0, -1.0, "1e6", True, float("inf"))
    ),
    ("final_logit_softcapping", {"final_logit_softcapping": 0}),
    ("attn_logit_softcapping", {"attn_logit_softcapping": "50"}),
    ("eos_token_id", {"eos_token_id": "</s>"}),
    ("eos_token_id", {"eos_token_id": [1, None]}),
    ("eos_token_id", {"eos_token_id": []}),
    ("bos_token_id", {"bos_token_id": -1}),
    ("tie_word_embeddings", {"tie_word_embeddings": "yes"}),
    ("attention_bias", {"attention_bias": 1}),
]


@pytest.mark.parametrize(("field", "config"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_field_that_cannot_be_is_named_in_one_line(field: str, config: dict[str, Any]):
    with pytest.raises(ConfigError) as raised:
        Gemma3TextConfig.from_dict(config)
    message = str(raised.value)
    assert field in message
    assert message.startswith("config.json ")
    assert "\n" not in message
    assert any(word in message for word in ("expected", "needs", "not a valid"))
