"""GGUF files: configuration, names, every tensor type, split files, and what is refused."""

import gguf
import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import (
    blocks,
    check_tensors,
    demo_checkpoint,
    open_checkpoint,
)
from gemma3_export.export.checkpoint.tensors import can_dequantize
from gguf import GGMLQuantizationType as T

TYPES = [kind for kind in T if can_dequantize(kind.name)]
EMBEDDING = "model.embed_tokens.weight"


def whole(source, dtype="float32", limit_bytes=1 << 20):
    return np.concatenate(list(blocks(source, dtype, limit_bytes)))


def raw_rows(kind, rows=37, columns=512):
    """Rows of a type in the file's form: quantised by gguf, else bytes that decode to numbers."""
    values = np.random.default_rng(1).normal(size=(rows, columns)).astype(np.float32)
    try:
        return gguf.quantize(values, kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        # Below 0x3c every pair of bytes is a finite half-precision number.
        return np.random.default_rng(2).integers(
            0, 0x3C, (rows, columns // block * size), dtype=np.uint8
        )


def test_the_supported_types_are_those_the_library_decodes():
    names = {kind.name for kind in TYPES}
    assert {"F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4"} <= names
    assert not {"I8", "F64", "Q8_1", "Q8_K"} & names


@pytest.mark.parametrize("kind", TYPES, ids=[kind.name for kind in TYPES])
def test_every_type_read_in_blocks_equals_the_library_on_the_whole(make_gguf, kind):
    raw = raw_rows(kind)
    source = open_checkpoint(make_gguf({"token_embd.weight": (raw, kind)})).tensors[EMBEDDING]
    assert source.dtype == kind.name
    assert source.shape == (37, 512)
    expected = gguf.dequantize(raw, kind)
    assert np.isfinite(expected).all()
    assert np.any(expected)
    for limit in (1, 5 * 512 * 4, 1 << 20):  # one row, five rows, everything
        got = whole(source, limit_bytes=limit)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(source.read_rows(36, 37).astype(np.float32), expected[36:])


def test_tensors_have_canonical_names_torch_shapes_and_norms_without_the_one(
    make_gguf, weights, shapes
):
    checkpoint = open_checkpoint(make_gguf())
    assert check_tensors(checkpoint, shapes) == ()
    for name, value in weights.items():
        np.testing.assert_array_equal(whole(checkpoint.tensors[name]), value)


def test_norms_of_a_half_precision_file_are_shifted_in_float32(make_gguf):
    stored = (1 + np.linspace(-0.9, 3, 32)).astype(np.float16)
    source = open_checkpoint(make_gguf({"output_norm.weight": (stored, T.F16)})).tensors[
        "model.norm.weight"
    ]
    np.testing.assert_array_equal(whole(source), stored.astype(np.float32) - np.float32(1))


def test_config_is_what_hugging_face_would_have(make_gguf):
    checkpoint = open_checkpoint(make_gguf())
    assert checkpoint.config == {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": None,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "model_type": "gemma3_text",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 32,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": 16,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
        "vocab_size": 96,
    }
    assert checkpoint.name == "Tiny"
    assert checkpoint.tokenizer is None
    assert checkpoint.chat_template is None
    assert checkpoint.generation_config == {"eos_token_id": [1]}


@pytest.mark.parametrize(
    ("metadata", "field", "expected"),
    [
        (
            {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0},
            "rope_scaling",
            {"rope_type": "linear", "factor": 8.0},
        ),
        ({"gemma3.rope.scale_linear": 8.0}, "rope_scaling", {"rope_type": "linear", "factor": 8.0}),
        ({"gemma3.rope.scaling.type": "none"}, "rope_scaling", None),
        ({"gemma3.rope.scaling.factor": 1.0}, "rope_scaling", None),
        (
            {
                "gemma3.rope.scaling.type": "yarn",
                "gemma3.rope.scaling.factor": 4.0,
                "gemma3.rope.scaling.original_context_length": 64,
            },
            "rope_scaling",
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
        ({"gemma3.rope.freq_base_swa": 5000.0}, "rope_local_base_freq", 5000.0),
        ({"gemma3.attention.sliding_window": None}, "sliding_window_pattern", 1),
        ({"gemma3.attention.sliding_window_pattern": 3}, "sliding_window_pattern", 3),
        ({"gemma3.attention.head_count_kv": [1, 1]}, "num_key_value_heads", 1),
        ({"gemma3.attention.head_count_kv": None}, "num_key_value_heads", 2),
        ({"gemma3.attention.layer_norm_rms_epsilon": 1e-5}, "rms_norm_eps", 1e-05),
        ({"gemma3.final_logit_softcapping": 30.0}, "final_logit_softcapping", 30.0),
        (
            {"gemma3.attention.key_length": None, "gemma3.attention.value_length": None},
            "head_dim",
            16,
        ),
        (
            {
                "gemma3.rope.scaling.type": "yarn",
                "gemma3.rope.scaling.factor": 4.0,
                "gemma3.rope.scaling.beta_fast": 16.0,
                "gemma3.rope.scaling.beta_slow": 2.0,
                "gemma3.rope.scaling.yarn_ext_factor": 1.0,
                "gemma3.rope.scaling.yarn_log_multiplier": 0.0,
                "gemma3.rope.scaling.finetuned": False,
            },
            "rope_scaling",
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 256,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            },
        ),
        (
            {"gemma3.rope.scaling.type": "yarn", "gemma3.rope.scaling.factor": 1.0},
            "rope_scaling",
            None,
        ),
        ({"gemma3.rope.local.freq_base": 30000.0}, "rope_local_base_freq", 30000.0),
        ({"gemma3.rope.global.freq_base": 1e6}, "rope_theta", 1e6),
        (
            {"gemma3.rope.freq_base": None, "gemma3.rope.global.freq_base": 5e5},
            "rope_theta",
            5e5,
        ),
        ({"gemma3.rope.freq_base": None}, "rope_theta", 1e6),
        ({"gemma3.attention.sliding_window": 0}, "sliding_window_pattern", 1),
        (
            {"gemma3.attention.sliding_window_pattern": [True]},
            "layer_types",
            ["sliding_attention"],
        ),
        ({"gemma3.attention.sliding_window_pattern": [False]}, "layer_types", ["full_attention"]),
        ({"gemma3.attention.sliding_window_pattern": 0}, "layer_types", ["sliding_attention"]),
        ({"gemma3.attention.scale": 32**-0.5}, "query_pre_attn_scalar", 32),
    ],
)
def test_metadata_becomes_its_config_field(make_gguf, metadata, field, expected):
    assert open_checkpoint(make_gguf(metadata=metadata)).config[field] == expected


def test_query_scale_of_the_27b_is_by_hidden_size_not_head_dim(make_gguf):
    shape = {
        "gemma3.block_count": 62,
        "gemma3.embedding_length": 5376,
        "gemma3.attention.head_count": 32,
        "gemma3.attention.key_length": 128,
        "gemma3.attention.value_length": 128,
    }
    assert open_checkpoint(make_gguf(metadata=shape)).config["query_pre_attn_scalar"] == 168
    smaller = shape | {"gemma3.block_count": 48}
    assert open_checkpoint(make_gguf(metadata=smaller)).config["query_pre_attn_scalar"] == 128


def test_stored_head_unties_the_model(make_gguf, weights):
    head = weights[EMBEDDING] * 2
    checkpoint = open_checkpoint(make_gguf({"output.weight": (head, T.F32)}))
    assert checkpoint.config["tie_word_embeddings"] is False
    np.testing.assert_array_equal(whole(checkpoint.tensors["lm_head.weight"]), head)


TURNS = "{{ bos_token }}<start_of_turn>user\n...<end_of_turn>"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, (1,)),
        ({"tokenizer.ggml.eot_token_id": 5}, (1, 5)),
        ({"tokenizer.ggml.eos_token_id": 5}, (5,)),
        ({"tokenizer.chat_template": TURNS}, (1, 5)),
        ({"tokenizer.chat_template": "no turns"}, (1,)),
    ],
)
def test_turns_end_where_metadata_or_chat_template_say_so(
    vocabulary, make_gguf, metadata, expected
):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    path = make_gguf(metadata=vocabulary(tokens) | metadata)
    checkpoint = open_checkpoint(path)
    assert checkpoint.eos_token_ids == expected
    assert checkpoint.config["eos_token_id"] in (list(expected), expected[0])
    assert checkpoint.chat_template == metadata.get("tokenizer.chat_template")
    assert checkpoint.tokenizer is not None


TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "a"]


@pytest.mark.parametrize(
    ("replacements", "parts"),
    [
        ({"model": "bert"}, ("tokenizer.ggml.model", "'llama'", "'gpt2'", "got 'bert'")),
        ({"model": "gpt2"}, ("tokenizer.ggml.merges: expected an array, got nothing",)),
        ({"model": "gpt2", "pre": "llama-bpe"}, ("tokenizer.ggml.pre", "got 'llama-bpe'")),
        ({"precompiled_charsmap": [1]}, ("precompiled_charsmap: expected no bytes",)),
        ({"remove_extra_whitespaces": True}, ("remove_extra_whitespaces: expected false",)),
        ({"add_bos_token": "yes"}, ("add_bos_token: expected true or false, got 'yes'",)),
        ({"tokens": None}, ("tokenizer.ggml.tokens: expected an array, got nothing",)),
        ({"scores": [0.5]}, ("261 tokens and 1 scores",)),
        ({"token_type": [9] * 261}, ("types 1 to 6",)),
        ({"unknown_token_id": 777}, ("unk token id is 777",)),
        ({"bos_token_id": "x"}, ("bos_token_id: expected one integer of at least 0, got 'x'",)),
    ],
)
def test_vocabulary_that_makes_no_tokenizer_is_refused(
    vocabulary, assert_refused, make_gguf, replacements, parts
):
    changes = {f"tokenizer.ggml.{key}": value for key, value in replacements.items()}
    assert_refused(make_gguf(metadata=vocabulary(TOKENS) | changes), *parts)


@pytest.mark.parametrize(
    ("metadata", "parts"),
    [
        ({"gemma3.block_count": None}, ("gemma3.block_count", "got nothing")),
        ({"gemma3.embedding_length": "wide"}, ("gemma3.embedding_length", "got 'wide'")),
        ({"gemma3.feed_forward_length": 0}, ("gemma3.feed_forward_length", "got 0")),
        ({"gemma3.attention.head_count_kv": [1, 2]}, ("head_count_kv", "expected one integer")),
        ({"gemma3.rope.freq_base": float("nan")}, ("rope.freq_base", "a finite number")),
        ({"gemma3.rope.scaling.type": "longrope", "gemma3.rope.scaling.factor": 8.0},
         ("rope.scaling.type", "none, linear or yarn", "'longrope'")),
        ({"gemma3.rope.scaling.type": "yarn", "gemma3.rope.scaling.factor": 4.0,
          "gemma3.rope.scaling.yarn_log_multiplier": 0.1},
         ("rope.scaling.yarn_log_multiplier: expected 0.0", "got 0.1")),
        ({"gemma3.rope.scaling.type": "yarn", "gemma3.rope.scaling.factor": 0.5},
         ("rope.scaling.factor: expected at least 1",)),
        ({"gemma3.rope.scaling.attn_factor": 2.0}, ("attn_factor: expected 1.0", "got 2.0")),
        ({"gemma3.rope.scaling.extrapolation_factor": 0.5}, ("expected 1.0", "got 0.5")),
        ({"gemma3.rope.freq_base_swa": 1e4, "gemma3.rope.local.freq_base": 3e4},
         ("rope.local.freq_base: expected 10000.0, as in gemma3.rope.freq_base_swa",)),
        ({"gemma3.rope.freq_scale": 0.125}, ("rope.freq_scale: expected 1.0", "got 0.125")),
        ({"gemma3.rope.dimension_count": 16}, ("rope.dimension_count: expected 32", "got 16")),
        ({"gemma3.attention.value_length": 16}, ("value_length: expected 32", "got 16")),
        ({"gemma3.attention.scale": 0.5}, ("attention.scale: expected 0.17", "got 0.5")),
        ({"gemma3.attention.causal": False}, ("attention.causal: expected true", "got False")),
        ({"gemma3.attention.sliding_window_pattern": [True, False]},
         ("sliding_window_pattern: expected true or false for each of 1 layers",)),
        ({"gemma3.attention.sliding_window_pattern": [7]}, ("true or false for each",)),
        ({"gemma3.attention.sliding_window": None,
          "gemma3.attention.sliding_window_pattern": [True]},
         ("attention.sliding_window: expected the window", "got nothing")),
        ({"gemma3.expert_count": 8}, ("gemma3.expert_count: expected 0", "got 8")),
        # llama.cpp 11549 gives the logits it gives without these.
        ({"gemma3.attn_logit_softcapping": 50.0}, ("softcapping: expected 0.0", "got 50.0")),
        ({"gemma3.rope.scaling.yarn_beta_fast": 8.0}, ("beta_fast: expected 32.0", "got 8.0")),
        ({"gemma3.logit_scale": 0.5}, ("gemma3.logit_scale: expected 1.0", "got 0.5")),
        ({"gemma3.attention.sinks": True, "gemma3.swiglu_clamp": 7.0},
         ("metadata gemma3.attention.sinks, gemma3.swiglu_clamp: expected keys whose meaning",)),
        ({"gemma3.pooling_type": 4}, ("pooling_type: expected 1 (mean), 2 (cls), 3 (lasttoken)",)),
        ({"general.type": "adapter"}, ("of type 'adapter' is not supported",)),
        ({"general.name": 7}, ("general.name", "expected text")),
        ({"general.alignment": 48}, ("alignment 48 is not a power of two",)),
    ],
)  # fmt: skip
def test_metadata_that_makes_no_config_is_refused_by_key(
    assert_refused, make_gguf, metadata, parts
):
    assert_refused(make_gguf(metadata=metadata), *parts)


def test_the_end_of_a_text_comes_first_where_the_tokenizer_puts_one(make_gguf):
    metadata = {
        "tokenizer.ggml.eos_token_id": 90, "tokenizer.ggml.eot_token_id": 7,
        "tokenizer.ggml.add_eos_token": True,
    }  # fmt: skip
    assert open_checkpoint(make_gguf(metadata=metadata)).eos_token_ids == (90, 7)


@pytest.mark.parametrize("architecture", ["llama", "clip", "gemma3n"])
def test_other_architectures_are_refused(assert_refused, make_gguf, architecture):
    assert_refused(
        make_gguf(architecture=architecture),
        f"architecture '{architecture}'",
        "expected a model of gemma3 or gemma-embedding",
    )


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.ssm_a.weight", "other"])
def test_foreign_tensor_is_refused_by_name(assert_refused, make_gguf, name):
    path = make_gguf({name: (np.zeros((2, 2), np.float32), T.F32)})
    assert_refused(path, f"tensor {name} is not part of Gemma 3")


def test_file_without_embedding_is_refused(assert_refused, make_gguf):
    assert_refused(make_gguf({"token_embd.weight": None}), "token_embd.weight is missing")


@pytest.mark.parametrize("kind", [T.I8, T.Q8_1])
def test_type_that_cannot_be_dequantised_is_refused(assert_refused, make_gguf, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    dtype = np.int8 if kind == T.I8 else np.uint8
    raw = np.zeros((2, 64 // block * size), dtype)
    assert_refused(
        make_gguf({"token_embd.weight": (raw, kind)}),
        f"token_embd.weight has GGML type {kind.name}",
        "Q8_0",
    )


def test_tensor_missing_or_of_wrong_shape_is_refused_by_name(make_gguf, shapes):
    checkpoint = open_checkpoint(make_gguf({"blk.0.ffn_up.weight": None}))
    with pytest.raises(ArtifactError, match=r"1 missing \(model\.layers\.0\.mlp\.up_proj\.weight"):
        check_tensors(checkpoint, shapes)
    wrong = np.zeros((63, 32), np.float32)
    checkpoint = open_checkpoint(make_gguf({"blk.0.ffn_up.weight": (wrong, T.F32)}))
    with pytest.raises(ArtifactError, match=r"up_proj\.weight .* expected 64x32 .* got 63x32"):
        check_tensors(checkpoint, shapes)


def test_demo_weights_are_those_of_the_published_size():
    checkpoint = open_checkpoint(demo_checkpoint())
    assert sum(int(np.prod(source.shape)) for source in checkpoint.tensors.values()) == 268_098_176
    assert checkpoint.config["vocab_size"] == 262_144
    assert checkpoint.config["query_pre_attn_scalar"] == 256
    assert checkpoint.config["rms_norm_eps"] == 1e-06
    assert checkpoint.eos_token_ids == (1,)
    embedding = checkpoint.tensors[EMBEDDING]
    raw = np.fromfile(embedding.path, np.uint8, 680 * 3, offset=embedding.offset + 680 * 262_141)
    expected = gguf.dequantize(raw.reshape(3, 680), T.Q8_0)
    np.testing.assert_array_equal(embedding.read_rows(262_141, 262_144), expected)
