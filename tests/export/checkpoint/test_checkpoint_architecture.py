"""Models that are not exported are refused by name, before anything of them is read."""

from __future__ import annotations

import pytest
from gemma3_export.export.checkpoint import open_checkpoint

LINEAR = {"type": "linear", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "truncate": False}

REFUSED = [
    (
        {"model_type": "llama"},
        "model_type 'llama' is not supported; expected gemma3 or gemma3_text",
    ),
    ({"model_type": "gemma"}, "model_type 'gemma' (Gemma 1) is not supported"),
    ({"model_type": "gemma2"}, "model_type 'gemma2' (Gemma 2) is not supported"),
    ({"model_type": "gemma3n_text"}, "model_type 'gemma3n_text' (Gemma 3n) is not supported"),
    ({"model_type": "gemma4"}, "model_type 'gemma4' (Gemma 4) is not supported"),
    ({"model_type": "t5gemma"}, "model_type 't5gemma' (T5Gemma) is not supported"),
    ({"model_type": "t5gemma2"}, "model_type 't5gemma2' (T5Gemma 2) is not supported"),
    ({"model_type": "shieldgemma2"}, "(ShieldGemma 2) is not supported"),
    ({"model_type": None}, "model_type None is not supported"),
    ({"model_type": ["gemma3"]}, "model_type ['gemma3'] is not supported"),
    (
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3n_text"}},
        "text_config.model_type 'gemma3n_text' (Gemma 3n) is not supported; expected gemma3_text",
    ),
    ({"model_type": "gemma3", "text_config": "x"}, "text_config must be an object"),
    ({"architectures": ["Gemma3ForTokenClassification"]}, "'Gemma3ForTokenClassification' is not"),
    ({"architectures": ["Gemma3ForQuestionAnswering"]}, "'Gemma3ForQuestionAnswering' is not"),
    ({"architectures": ["Gemma3ForCausalLMWithValueHead"]}, "WithValueHead' is not exported"),
    ({"architectures": ["Gemma3nForCausalLM"]}, "'Gemma3nForCausalLM' is not exported"),
    ({"architectures": [7]}, "architectures: 7 is not exported"),
    ({"architectures": "Gemma3ForCausalLM"}, "architectures: expected a list of class names"),
    (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config: the weights are quant",
    ),
    ({"compression_config": {"format": "pack-quantized"}}, "compression_config: the weights are"),
    (
        {"model_type": "gemma3", "text_config": {"quantization_config": {"quant_method": "fp8"}}},
        "text_config.quantization_config: the weights are quantised ('fp8')",
    ),
    ({"per_layer_config": {"0": {"head_dim": 8}}}, "per_layer_config: layers that differ"),
    (
        {"_sliding_window_pattern": 3},
        "_sliding_window_pattern: transformers reads layer_types or sliding_window_pattern",
    ),
    (
        {"model_type": "gemma3", "text_config": {"hidden_size": 32}, "rope_scaling": YARN},
        "rope_scaling: transformers reads it in text_config and past it at the top",
    ),
    # false and null alike make transformers' masks of both sides.
    ({"is_causal": False}, "is_causal: expected true, or nothing, got False"),
    (
        {"model_type": "gemma3", "text_config": {"is_causal": None}},
        "text_config.is_causal: expected true, or nothing, got None",
    ),
    ({"sliding_window": None}, "sliding_window: expected a number, got null"),
    ({"query_pre_attn_scalar": None}, "query_pre_attn_scalar: expected a number, got null"),
    # Read past by transformers 5.23, which would compute something else than is written.
    ({"rope_scaling": LINEAR}, "rope_scaling.type: transformers reads rope_type here"),
    (
        {"rope_scaling": YARN},
        "rope_scaling.truncate: transformers reads truncate of rope_parameters",
    ),
    (
        {"rope_parameters": {"sliding_attention": YARN}},
        "rope_parameters.sliding_attention.truncate: transformers reads",
    ),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_another_model_is_refused_by_name(
    assert_refused, make_folder, weights, config, changes, line
):
    folder = make_folder(weights, config | changes)
    (folder / "model.safetensors").unlink()
    assert_refused(folder, f"{folder}/config.json: ", line)


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": None},
        {"quantization_config": {}},
        {"architectures": None},
        {"architectures": []},
        {"architectures": ["Gemma3TextModel"]},
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}},
        {"rope_scaling": LINEAR | {"rope_type": "linear"}},
        {"_sliding_window_pattern": 6},
        {"_sliding_window_pattern": 3, "sliding_window_pattern": 3},
        {"_sliding_window_pattern": 3, "layer_types": ["full_attention"]},
        {"rope_parameters": {"full_attention": YARN, "truncate": False}},
    ],
    ids=str,
)
def test_what_says_nothing_of_the_kind_is_read(make_folder, weights, config, changes):
    assert set(open_checkpoint(make_folder(weights, config | changes)).tensors) == set(weights)
