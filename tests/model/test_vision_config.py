"""Gemma3Config and SiglipVisionConfig: defaults, sparse hub configs, refusals."""

from __future__ import annotations

import dataclasses
import json

import pytest
from gemma3_export.model.config import PUBLISHED_SIZES, ConfigError, Gemma3TextConfig
from gemma3_export.model.sharding import get_partition_rules
from gemma3_export.model.vision_config import (
    PUBLISHED_MULTIMODAL,
    Gemma3Config,
    SiglipVisionConfig,
)

# google/gemma-3-4b-it/config.json as published, without its bookkeeping fields.
HUB_4B = {
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
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def test_defaults_are_those_of_the_seed():
    config = Gemma3Config()
    assert config.text_config == Gemma3TextConfig()
    assert config.vision_config == SiglipVisionConfig()
    assert config.mm_tokens_per_image == 256
    assert config.boi_token_index == 255999
    assert config.eoi_token_index == 256000
    assert config.image_token_index == 262144
    assert config.initializer_range == 0.02
    assert config.model_type == "gemma3"
    assert config.sub_configs == {
        "text_config": Gemma3TextConfig,
        "vision_config": SiglipVisionConfig,
    }
    assert config.get_text_config() is config.text_config
    assert config.get_partition_rules() == get_partition_rules()


def test_vision_defaults_are_those_of_transformers():
    assert dataclasses.asdict(SiglipVisionConfig()) == {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "attention_dropout": 0.0,
        "vision_use_head": True,
    }  # fmt: skip


def test_sparse_hub_config_of_the_4b_is_the_published_size():
    read, published = Gemma3Config.from_dict(HUB_4B), PUBLISHED_MULTIMODAL["4b"]
    assert read.vision_config == published.vision_config
    text = dataclasses.replace(PUBLISHED_SIZES["4b"], eos_token_id=1)  # given at the top only
    assert dataclasses.replace(read, text_config=text) == dataclasses.replace(
        published, text_config=text
    )
    assert read.text_config == text


@pytest.mark.parametrize("config", [Gemma3Config(), *PUBLISHED_MULTIMODAL.values()])
def test_config_survives_json(config: Gemma3Config):
    assert Gemma3Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_null_sections_and_new_names_of_token_ids_are_read():
    config = Gemma3Config.from_dict(
        {"text_config": None, "vision_config": None, "boi_token_id": 3, "image_token_id": 5,
         "mm_tokens_per_image": None, "tie_word_embeddings": False, "initializer_range": 0.5}
    )  # fmt: skip
    assert config.to_dict()["initializer_range"] == config.initializer_range == 0.5
    assert (config.boi_token_index, config.eoi_token_index) == (3, 256000)
    assert (config.image_token_index, config.mm_tokens_per_image) == (5, 256)
    assert not config.text_config.tie_word_embeddings


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"patch_size": 0}, "vision_config.patch_size: expected a positive integer, got 0"),
        ({"image_size": [224, 224]}, r"vision_config.image_size: .* got \[224, 224\]"),
        ({"hidden_size": 770}, "vision_config.hidden_size: expected a multiple of .*12.*770"),
        ({"patch_size": 512}, "vision_config.patch_size: expected at most image_size .*224"),
        ({"layer_norm_eps": "small"}, "vision_config.layer_norm_eps: expected a number .*'small'"),
        ({"hidden_act": "relu"}, "vision_config.hidden_act: expected gelu_pytorch_tanh"),
    ],
)
def test_impossible_vision_config_is_refused_by_name(section: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Gemma3Config.from_dict({"vision_config": section})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mm_tokens_per_image": 250}, "mm_tokens_per_image: expected a square, got 250"),
        ({"mm_tokens_per_image": -4}, "mm_tokens_per_image: expected a positive integer"),
        ({"image_token_index": "5"}, "image_token_index: expected a positive integer, got '5'"),
        ({"vision_config": 7}, "vision_config: expected an object, got int"),
    ],
)
def test_impossible_multimodal_config_is_refused_by_name(config: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Gemma3Config.from_dict(config)


def test_tokens_that_do_not_pool_evenly_are_refused_where_they_are_needed():
    with pytest.raises(ConfigError, match=r"divisor of the 14 patches .* got 256"):
        _ = Gemma3Config().patches_per_token_side
    assert PUBLISHED_MULTIMODAL["4b"].patches_per_token_side == 4
