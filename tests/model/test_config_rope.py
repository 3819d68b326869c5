"""The rotary part of a config.json: what transformers 5.23 makes of it, or a refusal by name."""

from __future__ import annotations

from typing import Any

import pytest
from gemma3_export.model.config import ConfigError, Gemma3TextConfig, RopeType

FULL, SLIDING = "full_attention", "sliding_attention"
LINEAR = {"rope_type": "linear", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}


def read(**fields: Any) -> Gemma3TextConfig:
    return Gemma3TextConfig.from_dict(fields)


def rope_of(config: Gemma3TextConfig) -> tuple[Any, ...]:
    return (
        config.rope_theta, config.rope_scaling, config.rope_local_base_freq,
        config.rope_local_scaling,
    )  # fmt: skip


# By convert_rope_params_to_dict and standardize_rope_params of transformers 5.23.
UNDERSTOOD: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "nothing": ({}, (1e6, None, 1e4, None)),
    "old": (
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": LINEAR},
        (5e5, LINEAR, 2e4, None),
    ),
    "old, its base inside": (
        {"rope_scaling": LINEAR | {"rope_theta": 7.0}},
        (7.0, LINEAR, 1e4, None),
    ),
    "new": (
        {
            "rope_parameters": {
                FULL: LINEAR | {"rope_theta": 5e5},
                SLIDING: {"rope_type": "default", "rope_theta": 2e4},
            }
        },
        (5e5, LINEAR, 2e4, None),
    ),
    "sliding alone is scaled": (
        {
            "rope_parameters": {
                FULL: {"rope_type": "default"},
                SLIDING: LINEAR | {"rope_theta": 7.0},
            }
        },
        (1e6, None, 7.0, LINEAR),
    ),
    "a section left out": (
        {"rope_parameters": {SLIDING: YARN}, "rope_theta": 3.0},
        (3.0, None, 1e4, YARN),
    ),
    "a section that is null": (
        {"rope_parameters": {FULL: None, SLIDING: LINEAR}},
        (1e6, None, 1e4, LINEAR),
    ),
    "rope_scaling over rope_parameters": (
        {
            "rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 5e5}, SLIDING: {}},
            "rope_scaling": LINEAR,
        },
        (5e5, LINEAR, 1e4, None),
    ),
    "its factor wins": (
        {"rope_parameters": {FULL: LINEAR, SLIDING: {}}, "rope_scaling": {"factor": 2.0}},
        (1e6, LINEAR | {"factor": 2.0}, 1e4, None),
    ),
    "the old word": (
        {"rope_parameters": {FULL: {"type": "linear", "factor": 8.0}}},
        (1e6, LINEAR, 1e4, None),
    ),
    "both words": ({"rope_scaling": LINEAR | {"type": "linear"}}, (1e6, LINEAR, 1e4, None)),
    "nulls inside": ({"rope_scaling": LINEAR | {"mscale": None}}, (1e6, LINEAR, 1e4, None)),
    "truncate where transformers reads it": (
        {"rope_parameters": {FULL: YARN, SLIDING: {}, "truncate": False}},
        (1e6, YARN | {"truncate": False}, 1e4, None),
    ),
    "the same beside the sections": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, FULL: {"rope_theta": 5e5}}},
        (5e5, None, 1e4, None),
    ),
    "flat, and what is the default": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        (1e6, None, 1e4, None),
    ),
    "the whole head": (
        {
            "partial_rotary_factor": 1.0,
            "rope_parameters": {FULL: LINEAR | {"partial_rotary_factor": 1}},
        },
        (1e6, LINEAR, 1e4, None),
    ),
    "the same at the top": (
        {"rope_theta": 5e5, "rope_parameters": {FULL: {"rope_theta": 5e5}}},
        (5e5, None, 1e4, None),
    ),
    "the original length at the top as well": (
        {"original_max_position_embeddings": 64, "rope_scaling": YARN},
        (1e6, YARN, 1e4, None),
    ),
}


@pytest.mark.parametrize(("fields", "expected"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_old_and_new_style_say_together_what_transformers_reads(
    fields: dict[str, Any], expected: tuple[Any, ...]
):
    config = read(**fields)
    assert rope_of(config) == expected
    assert Gemma3TextConfig.from_dict(config.to_dict()) == config


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"rope_scaling": LINEAR | {"beta_fast": 32}},
        "rope_scaling.beta_fast: linear has no such key",
    ),
    ({"rope_scaling": LINEAR | {"colour": 1}}, "rope_scaling.colour: linear has no such key"),
    (
        {"rope_scaling": {"rope_type": "default", "factor": 2.0}},
        "rope_scaling.factor: default has no",
    ),
    ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.factor: default has no such key"),
    ({"rope_scaling": {FULL: LINEAR}}, "rope_scaling.full_attention: default has no such key"),
    (
        {"rope_parameters": {FULL: {}, SLIDING: {"low_freq_factor": 1.0}}},
        "rope_parameters.sliding_attention.low_freq_factor: default has no such key",
    ),
    (
        {"rope_parameters": {SLIDING: {"rope_type": "linear"}}},
        "sliding_attention: linear needs 'factor'",
    ),
    (
        {"rope_parameters": {SLIDING: {"rope_type": "mrope"}}},
        "sliding_attention.rope_type: expected one",
    ),
    ({"rope_scaling": {"rope_type": "proportional"}}, "rope_scaling.rope_type: expected one of"),
    ({"rope_scaling": LINEAR | {"type": "yarn"}}, "rope_type 'linear' and type 'yarn' disagree"),
    (
        {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3.0}},
        "rope_parameters.rope_type: expected sections full_attention and sliding_attention",
    ),
    (
        {"rope_parameters": {FULL: {}, "rope_theta": 3.0}},
        "rope_parameters.rope_theta: expected sections",
    ),
    (
        {"rope_parameters": {"chunked_attention": LINEAR}},
        "rope_parameters.chunked_attention: expected",
    ),
    (
        {"rope_parameters": {FULL: LINEAR, "truncate": 0}},
        "rope_parameters.truncate: expected true or",
    ),
    (
        {"rope_theta": 7.0, "rope_parameters": {FULL: {"rope_theta": 5.0}}},
        "rope_theta: 7.0 contradicts",
    ),
    (
        {"rope_local_base_freq": 7.0, "rope_parameters": {SLIDING: {"rope_theta": 5.0}}},
        "rope_local_base_freq: 7.0 contradicts the rope_theta of sliding_attention, 5.0",
    ),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1"),
    (
        {"rope_scaling": LINEAR | {"partial_rotary_factor": 0.5}},
        "partial_rotary_factor: expected 1",
    ),
    ({"rope_interleave": True}, "rope_interleave: Gemma 3 has no such field"),
    (
        {"original_max_position_embeddings": 32, "rope_scaling": YARN},
        "original_max_position_embeddings: expected it in the rotary section of full_attention",
    ),
    (
        {
            "rope_parameters": {
                SLIDING: {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}
            }
        },
        "rope_local_scaling.short_factor: expected 128 numbers",
    ),
]


@pytest.mark.parametrize(("fields", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_what_would_be_read_past_is_refused_by_name(fields: dict[str, Any], line: str):
    with pytest.raises(ConfigError) as error:
        read(**fields)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_the_constructor_takes_either_word_and_refuses_a_base_that_it_would_not_use():
    config = Gemma3TextConfig(rope_scaling={"type": "linear", "factor": 8.0})
    assert (config.rope_scaling, config.rope_type) == (LINEAR, RopeType.LINEAR)
    assert Gemma3TextConfig(rope_scaling={"rope_type": "default"}) == Gemma3TextConfig()
    with pytest.raises(ConfigError, match=r"rope_scaling\.rope_theta: linear has no such key"):
        Gemma3TextConfig(rope_scaling=LINEAR | {"rope_theta": 3.0})
