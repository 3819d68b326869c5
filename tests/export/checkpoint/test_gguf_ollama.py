"""GGUF as Ollama and llama.cpp write them: blobs, vision beside the model, embedders, merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import check_tensors, open_checkpoint
from gemma3_export.export.checkpoint.gguf_keys import USED
from gemma3_export.export.purpose import Embedding, Generating, read_purpose
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.embedding import DenseLayer, EmbeddingHead, Normalize, Pooling
from gguf import GGMLQuantizationType as T

from .conftest import BYTES

VISION = {
    "v.patch_embedding.weight": (np.zeros((4, 4), np.float32), T.F32),
    "mm.mm_input_projection.weight": (np.zeros((4, 4), np.float32), T.F32),
}
LAYERS = {"gemma3.block_count": 12, "gemma3.attention.sliding_window_pattern": None}


def text_config(path: Path) -> Gemma3TextConfig:
    return Gemma3TextConfig.from_dict(open_checkpoint(path).config)


def test_the_pattern_is_taken_as_an_array_says_layer_by_layer(make_gguf):
    pattern = [True, False, True, True, False, False, True, True, True, True, True, False]
    metadata = LAYERS | {"gemma3.attention.sliding_window_pattern": pattern}
    kinds = text_config(make_gguf(metadata=metadata)).layer_types
    assert [kind == "sliding_attention" for kind in kinds] == pattern


def test_the_local_base_is_read_under_the_names_of_both(make_gguf):
    for name in ("freq_base_swa", "local.freq_base"):
        config = text_config(make_gguf(metadata={f"gemma3.rope.{name}": 30000.0}))
        assert config.rope_local_base_freq == 30000.0


@pytest.mark.parametrize("name", ["sha256-0123abcd", "model.bin", "model.GGUF"])
def test_the_first_bytes_say_what_a_file_is(make_gguf, shapes, name: str):
    path = make_gguf(name=name)
    for place in (path, path.parent) if name != "model.bin" else (path,):
        assert check_tensors(open_checkpoint(place), shapes) == ()


def test_a_file_of_other_bytes_is_refused(assert_refused, tmp_path: Path):
    path = tmp_path / "sha256-0123abcd"
    path.write_bytes(b"{}")
    assert_refused(path, "expected a folder with config.json or a GGUF file, got another file")
    assert_refused(tmp_path, "no config.json and no .gguf file")


def test_blobs_of_two_models_are_refused_and_other_blobs_are_not_looked_at(
    make_gguf, assert_refused
):
    one = make_gguf(name="sha256-1")
    (one.parent / "sha256-0").write_bytes(b"a licence")
    assert open_checkpoint(one.parent).path == one
    make_gguf(name="sha256-2")
    assert_refused(one.parent, "holds 2 GGUF models", "sha256-1, sha256-2", "pass one file")


@pytest.mark.parametrize("suffix", [".gguf", ""])
def test_the_model_is_taken_beside_its_vision_side_with_a_note(make_gguf, shapes, suffix: str):
    stem = "" if suffix else "sha256-"
    model = make_gguf(name=f"{stem}9-model{suffix}")
    kind = {"general.type": "mmproj"}
    make_gguf(name=f"{stem}1-mmproj{suffix}", architecture="clip", metadata=kind)
    make_gguf(name=f"{stem}2-lora{suffix}", metadata={"general.type": "adapter"})
    checkpoint = open_checkpoint(model.parent)
    assert checkpoint.path == model
    assert check_tensors(checkpoint, shapes) == ()
    assert checkpoint.notes == (
        f"{stem}1-mmproj{suffix}, the vision side of a model (mmproj), is left out",
        f"{stem}2-lora{suffix}, of type 'adapter', is left out",
    )


def test_a_folder_of_vision_sides_alone_is_refused(make_gguf, assert_refused):
    for name in ("a.gguf", "b.gguf"):
        path = make_gguf(name=name, architecture="clip")
    assert_refused(path.parent, "holds 0 GGUF models", "a.gguf, b.gguf")
    assert_refused(path, "architecture 'clip' is not supported", "mmproj")


def test_vision_tensors_in_the_same_file_are_left_out_with_a_note(make_gguf, shapes):
    metadata = {"gemma3.vision.block_count": 27, "gemma3.mm.tokens_per_image": 256}
    checkpoint = open_checkpoint(make_gguf(VISION, metadata=metadata))
    assert check_tensors(checkpoint, shapes) == ()
    assert checkpoint.notes == (
        "2 tensors of the vision side (v.*, mm.*) are left out: export from the Hugging Face "
        "folder for images",
    )


@pytest.mark.parametrize(
    ("layers", "metadata", "factor", "cap", "notes"),
    [
        (26, {"rope.local.freq_base": 1e4, "final_logit_softcapping": 30.0}, None, None,
         ["final_logit_softcapping of 30.0 is left out"]),
        (26, {"final_logit_softcapping": 30.0}, None, 30.0, []),
        (27, {"rope.local.freq_base": 1e4, "final_logit_softcapping": 30.0}, None, 30.0, []),
        (34, {"vision.block_count": 27}, 8.0, None, ["rope.scaling.factor is missing"]),
        (48, {"mm.tokens_per_image": 256}, 8.0, None, ["rope.scaling.factor is missing"]),
        (62, {"rope.global.freq_base": 1e6}, 8.0, None, ["rope.scaling.factor is missing"]),
        (34, {"vision.block_count": 27, "rope.scaling.factor": 4.0}, 4.0, None, []),
        (34, {}, None, None, []),
    ],
)  # fmt: skip
def test_what_ollamas_converter_got_wrong_is_put_right_as_ollama_does_with_a_note(
    make_gguf, layers: int, metadata: dict, factor: float | None, cap: float | None, notes: list
):
    keys = {f"gemma3.{key}": value for key, value in metadata.items()}
    checkpoint = open_checkpoint(make_gguf(metadata={"gemma3.block_count": layers} | keys))
    scaling = None if factor is None else {"rope_type": "linear", "factor": factor}
    assert checkpoint.config["rope_scaling"] == scaling
    assert checkpoint.config["final_logit_softcapping"] == cap
    assert len(checkpoint.notes) == len(notes)
    for note, part in zip(checkpoint.notes, notes, strict=True):
        assert part in note


def embedder_metadata(prefix: str, **more: Any) -> dict[str, Any]:
    """The metadata of conftest's model under another prefix."""
    sizes = {
        "context_length": 256, "embedding_length": 32, "block_count": 1, "feed_forward_length": 64,
        "attention.head_count": 2, "attention.head_count_kv": 1, "attention.key_length": 32,
        "attention.value_length": 32, "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 16, "rope.freq_base": 1e6,
    }  # fmt: skip
    keys = {f"gemma3.{key}": None for key in sizes}
    return keys | {f"{prefix}.{key}": value for key, value in (sizes | more).items()}


def matrix(rows: int, columns: int) -> tuple[np.ndarray, T]:
    return np.ones((rows, columns), np.float32), T.F32


@pytest.mark.parametrize("prefix", ["gemma-embedding", "gemma3"])
def test_gemma_embedding_is_an_embedder_that_reads_both_ways(make_gguf, shapes, prefix: str):
    path = make_gguf(metadata=embedder_metadata(prefix), architecture="gemma-embedding")
    checkpoint, config = open_checkpoint(path), text_config(path)
    assert check_tensors(checkpoint, shapes) == ()
    assert config.use_bidirectional_attention
    assert config.sliding_window == 16
    assert read_purpose(checkpoint, config) == Embedding(EmbeddingHead())
    (note,) = checkpoint.notes
    assert "pooled by mean, as the file has no dense layers, and taken to be of length 1" in note


@pytest.mark.parametrize(
    ("kind", "pooling"), [(1, Pooling.MEAN), (2, Pooling.CLS), (3, Pooling.LAST_TOKEN)]
)
@pytest.mark.parametrize("names", [("dense_2", "dense_3"), ("dense.0", "dense.1")])
def test_pooling_and_dense_layers_of_an_embedder_are_those_of_the_file(
    make_gguf, shapes, kind: int, pooling: Pooling, names: tuple[str, str]
):
    dense = {f"{names[0]}.weight": matrix(48, 32), f"{names[1]}.weight": matrix(32, 48)}
    metadata = embedder_metadata(
        "gemma-embedding", pooling_type=kind, dense_2_feat_in=32, dense_2_feat_out=48,
        dense_3_feat_in=48, dense_3_feat_out=32,
    )  # fmt: skip
    path = make_gguf(dense, metadata, architecture="gemma-embedding")
    checkpoint = open_checkpoint(path)
    extra = {"dense.0.weight": (48, 32), "dense.1.weight": (32, 48)}
    assert check_tensors(checkpoint, shapes | extra) == ()
    layers = (DenseLayer(48, bias=False), DenseLayer(32, bias=False), Normalize())
    assert read_purpose(checkpoint, text_config(path)) == Embedding(
        EmbeddingHead((pooling,), layers)
    )


@pytest.mark.parametrize(
    ("more", "tensors", "message"),
    [
        ({"pooling_type": 0}, {}, "pooling_type: expected 1 (mean), 2 (cls), 3 (lasttoken), got 0"),
        ({"attention.causal": True}, {}, "attention.causal: expected false"),
        ({"dense_2_feat_out": 48}, {}, "dense_2_feat_out: expected None, as in the tensor"),
        ({"dense_2_feat_out": 7}, {"dense_2.weight": matrix(48, 32)}, "expected 48, as in"),
        ({}, {"dense_3.weight": matrix(32, 48)}, "tensor dense_2.weight before dense_3.weight"),
        ({}, {"dense_2.weight": matrix(48, 32), "dense.0.weight": matrix(48, 32)}, "once each"),
        ({}, {"dense_4.weight": matrix(48, 32)}, "tensor dense_4.weight is not part of Gemma 3"),
    ],
)
def test_an_embedder_that_is_not_computed_so_is_refused(
    make_gguf, assert_refused, more: dict, tensors: dict, message: str
):
    metadata = embedder_metadata("gemma-embedding", **more)
    assert_refused(make_gguf(tensors, metadata, architecture="gemma-embedding"), message)


def test_keys_of_two_prefixes_are_refused(make_gguf, assert_refused):
    metadata = {"gemma-embedding.pooling_type": 1}
    path = make_gguf(metadata=metadata, architecture="gemma-embedding")
    assert_refused(path, "gemma-embedding.*: expected one prefix")


def test_a_language_model_with_a_pooling_type_is_an_embedder_that_reads_one_way(make_gguf):
    for kind, head in ((0, None), (3, EmbeddingHead((Pooling.LAST_TOKEN,), (Normalize(),)))):
        path = make_gguf(metadata={"gemma3.pooling_type": kind})
        checkpoint, config = open_checkpoint(path), text_config(path)
        assert not config.use_bidirectional_attention
        expected = Generating() if head is None else Embedding(head)
        assert read_purpose(checkpoint, config) == expected


@pytest.mark.parametrize(
    ("metadata", "bos", "eos"),
    [
        ({}, True, False),
        ({"add_bos_token": False, "add_eos_token": True}, False, True),
        ({"add_bos_token": True, "add_eos_token": False}, True, False),
    ],
)
def test_what_is_put_around_a_text_is_what_the_file_says(
    make_gguf, metadata: dict, bos: bool, eos: bool
):
    keys = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    checkpoint = open_checkpoint(make_gguf(metadata=keys))
    assert (checkpoint.add_bos, checkpoint.add_eos) == (bos, eos)


def test_ids_that_end_a_text_are_all_those_of_the_file(make_gguf):
    keys = {"eos_token_ids": [1, 106], "eot_token_id": 9, "eom_token_id": 11}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    assert open_checkpoint(make_gguf(metadata=metadata)).eos_token_ids == (1, 9, 11, 106)


SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>"]
PIECES = ["\u2581", "a", "b", "c", "ab", "\u2581ab", "abc"]


def merges_metadata(**changes: Any) -> dict[str, Any]:
    """Gemma's kind of tokenizer.json as Ollama keeps it."""
    values = {
        "model": "gpt2", "pre": "default", "tokens": [*SPECIAL, *BYTES, *PIECES],
        "token_type": [3, 3, 3, 2, 4] + [6] * 256 + [1] * len(PIECES),
        "merges": ["a b", "\u2581 ab", "ab c"], "unknown_token_id": 3,
    } | changes  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def test_pieces_with_merges_become_the_sentencepiece_model_that_merges_the_same(make_gguf):
    model = open_checkpoint(make_gguf(metadata=merges_metadata())).tokenizer
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text, pieces in {
        " abc": ["\u2581ab", "c"],  # the earlier merge comes first
        "abc": ["abc"],
        "cab b": ["c", "ab", "\u2581", "b"],
        "a<turn>d": ["a", "<turn>", "<0x64>"],
    }.items():
        assert processor.encode(text, out_type=str) == pieces, text
    # A control token written out stays text.
    assert processor.encode("<eos>", out_type=str) == [
        "<0x3C>",
        "<0x65>",
        "<0x6F>",
        "<0x73>",
        "<0x3E>",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # GPT-2's own alphabet: a piece for each byte, with other names.
        ({"tokens": [*SPECIAL, *(chr(0x100 + n) for n in range(256)), *PIECES],
          "token_type": [3] * 5 + [1] * (256 + len(PIECES))}, "lacks some of the 256 byte pieces"),
        ({"merges": ["a b", "ab c"]}, "no merge of"),
        ({"merges": ["a b", "\u2581 ab", "ab c", "a b"]}, "different priorities"),
        ({"unknown_token_id": 999}, "unknown_token_id: expected less than 268"),
        ({"add_space_prefix": True}, "add_space_prefix: expected false"),
    ],
)  # fmt: skip
def test_merges_that_mean_something_else_are_refused(
    make_gguf, assert_refused, changes: dict, message: str
):
    assert_refused(make_gguf(metadata=merges_metadata(**changes)), message)


def test_keys_of_the_tokenizer_that_nobody_reads_are_named(make_gguf):
    metadata = merges_metadata(sorcery=1, seperator_token_id=7)
    assert open_checkpoint(make_gguf(metadata=metadata)).notes == (
        "metadata of the tokenizer is not used: sorcery",
    )


@pytest.mark.parametrize(
    "value", ["x", -1.0, float("nan"), 0, 2**31, True, [1, 2], ["a", "b"], [True, False]]
)
def test_a_value_of_any_kind_under_any_key_is_taken_or_refused(make_gguf, value: Any):
    general = ("general.type", "general.name", "split.no", "split.count", "split.tensors.count")
    keys = [f"gemma3.{key}" for key in sorted(USED)] + [*general, *merges_metadata(),
            "tokenizer.ggml.precompiled_charsmap", "tokenizer.ggml.eos_token_ids",
            "tokenizer.ggml.add_bos_token", "gemma3.expert_count"]  # fmt: skip
    refused = []
    for key in keys:
        path = make_gguf(metadata=merges_metadata() | {key: value})
        try:
            config = open_checkpoint(path).config
            assert config["model_type"] == "gemma3_text"
        except ArtifactError:
            refused.append(key)
    assert len(refused) > 10
