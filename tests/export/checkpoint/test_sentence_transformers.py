"""Folders of sentence-transformers: modules.json, pooling, dense layers and task prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.artifacts.prompts import TaskPrompts
from gemma3_export.export.checkpoint.sentence_transformers import Embedder, read_embedder
from gemma3_export.model.embedding import (
    Activation,
    DenseLayer,
    EmbeddingHead,
    Normalize,
    Pooling,
)
from safetensors.numpy import save_file

BASE = "sentence_transformers.base.modules."
HEAD = "sentence_transformers.sentence_transformer.modules."
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": BASE + "transformer.Transformer"}
HIDDEN = 8


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def module(kind: str, path: str = "", **more: Any) -> dict[str, Any]:
    return {"idx": 1, "name": "1", "path": path, "type": kind} | more


def add_dense(folder: Path, rows: int, columns: int, bias: bool = False, **config: Any) -> None:
    write(folder / "config.json", {
        "in_features": columns, "out_features": rows, "bias": bias,
        "activation_function": "torch.nn.modules.linear.Identity",
    } | config)  # fmt: skip
    tensors = {"linear.weight": np.ones((rows, columns), np.float32)}
    if bias:
        tensors["linear.bias"] = np.ones(rows, np.float32)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Modules as EmbeddingGemma has them, in folders of other names and order."""
    write(tmp_path / "modules.json", [
        TRANSFORMER,
        module("sentence_transformers.models.Pooling", "pool"),
        module("sentence_transformers.models.Dense", "up/"),
        module(BASE + "dense.Dense", "down"),
        module("sentence_transformers.models.Normalize", "4_Normalize"),
    ])  # fmt: skip
    write(tmp_path / "pool" / "config.json", {"embedding_dimension": HIDDEN})
    add_dense(tmp_path / "up", 24, HIDDEN)
    add_dense(tmp_path / "down", 6, 24, bias=True)
    # What is not listed does not count.
    add_dense(tmp_path / "2_Dense", 5, HIDDEN)
    return tmp_path


def read(folder: Path, assumed: bool = True) -> Embedder:
    return read_embedder(folder, HIDDEN, assumed)


def test_modules_json_says_which_layers_there_are_and_where(folder: Path):
    found = read(folder)
    up, down = DenseLayer(24, bias=False), DenseLayer(6, bias=True)
    assert found.head == EmbeddingHead((Pooling.MEAN,), (up, down, Normalize()))
    assert {name: source.path.parent.name for name, source in found.tensors.items()} == {
        "dense.0.weight": "up", "dense.1.weight": "down", "dense.1.bias": "down",
    }  # fmt: skip
    assert found.notes == ()
    assert found.prompts is None


def test_without_normalize_and_with_one_between_and_with_dropout(folder: Path):
    modules = json.loads((folder / "modules.json").read_text())
    dropout = module("sentence_transformers.models.Dropout", "5_Dropout")
    write(folder / "modules.json", [*modules[:3], modules[4], modules[3], dropout])
    up, down = DenseLayer(24, bias=False), DenseLayer(6, bias=True)
    assert read(folder).head == EmbeddingHead((Pooling.MEAN,), (up, Normalize(), down))


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({}, ["mean"]),
        ({"pooling_mode": "lasttoken", "include_prompt": True}, ["lasttoken"]),
        ({"pooling_mode": ["cls"]}, ["cls"]),
        ({"pooling_mode": ["max", "cls", "mean_sqrt_len_tokens"]},
         ["max", "cls", "mean_sqrt_len_tokens"]),
        # The new key decides.
        ({"pooling_mode": "weightedmean", "pooling_mode_cls_token": True}, ["weightedmean"]),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ["mean"]),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, ["lasttoken"]),
        # In an order of their own.
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True,
          "pooling_mode_cls_token": True, "word_embedding_dimension": HIDDEN},
         ["cls", "mean", "lasttoken"]),
        ({"pooling_mode_mean_tokens": False}, ["mean"]),
    ],
)  # fmt: skip
def test_pooling_in_the_old_form_and_the_new(folder: Path, config: dict, modes: list[str]):
    write(folder / "pool" / "config.json", config)
    head = read(folder).head
    assert head is not None
    assert head.pooling == tuple(map(Pooling, modes))
    bare = EmbeddingHead(head.pooling, ())
    assert (head.size(HIDDEN), bare.size(HIDDEN)) == (6, len(modes) * HIDDEN)


@pytest.mark.parametrize("name", list(Activation))
def test_activations_of_torch_are_known_and_tanh_is_what_silence_means(folder: Path, name: str):
    add_dense(folder / "up", 24, HIDDEN, activation_function=f"torch.nn.modules.x.{name}")
    write(folder / "down" / "config.json", {"in_features": 24, "out_features": 6})
    head = read(folder).head
    assert head is not None
    assert [layer.activation for layer in head.dense] == [name, Activation.TANH]


def listed(*entries: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder / "modules.json", list(entries))


POOLING = module("sentence_transformers.models.Pooling", "pool")
REFUSED = [
    ("modules.json", listed(TRANSFORMER, module(HEAD + "cnn.CNN"), POOLING),
     "type: expected Transformer, Pooling, Dense, Normalize, Dropout of sentence_transformers, got "
     "sentence_transformers.sentence_transformer.modules.cnn.CNN"),
    ("modules.json", listed(TRANSFORMER, module("my_code.Pooling", "pool")), "got my_code.Pooling"),
    ("modules.json", listed(TRANSFORMER), "expected Transformer, Pooling, then any of Dense"),
    ("modules.json", listed(POOLING, TRANSFORMER), "got Pooling, Transformer"),
    ("modules.json", listed(TRANSFORMER, POOLING, POOLING), "got Transformer, Pooling, Pooling"),
    ("modules.json", listed(TRANSFORMER | {"path": "0_Transformer"}, POOLING),
     "path of Transformer: expected an empty one"),
    ("modules.json", listed(TRANSFORMER, POOLING | {"path": "../pool"}), "a folder inside"),
    ("modules.json", listed(TRANSFORMER, POOLING | {"path": "/pool"}), "a folder inside"),
    ("modules.json", listed(TRANSFORMER, POOLING | {"kwargs": ["task"]}), "kwargs of Pooling"),
    ("modules.json", listed(TRANSFORMER, POOLING | {"gate": 1}), "an unknown key 'gate'"),
    ("modules.json", listed(TRANSFORMER, 5), "expected a list of objects, got 5"),
    ("modules.json", listed(TRANSFORMER, {"path": "pool"}), "modules with a type and a path"),
    ("modules.json", lambda f: write(f / "modules.json", {}), "expected a JSON list, got dict"),
    ("modules.json", lambda f: write(f / "modules.json", "[" * 9999), "expected a JSON list"),
    ("pool/config.json", lambda f: (f / "pool" / "config.json").unlink(), "cannot be read"),
    ("pool/config.json", {"pooling_mode": "median"}, "expected one or a list of cls, max, mean"),
    ("pool/config.json", {"pooling_mode": []}, "expected one or a list of cls"),
    ("pool/config.json", {"pooling_mode": None}, "expected one or a list of cls"),
    ("pool/config.json", {"pooling_mode_cls_token": 1}, "expected true or false, got 1"),
    ("pool/config.json", {"pooling_mode_median_tokens": True}, "an unknown key 'pooling_mode_med"),
    ("pool/config.json", {"embedding_dimension": 7}, "expected the model's 8, got 7"),
    ("pool/config.json", {"word_embedding_dimension": 7}, "expected the model's 8, got 7"),
    ("pool/config.json", {"include_prompt": 0}, "include_prompt: expected true or false"),
    ("up/config.json", {"in_features": 9, "out_features": 24}, "expected 8, as in up/model.safe"),
    ("up/config.json", {"in_features": 8, "out_features": 24}, "bias: expected what model.safet"),
    ("up/config.json", {"use_residual": True}, "use_residual: expected false, got True"),
    ("up/config.json", {"module_input_name": "token_embeddings"}, "expected sentence_embedding"),
    ("up/config.json", {"activation": "x"}, "an unknown key 'activation'"),
    ("up/config.json", {"in_features": 8, "out_features": 24, "bias": False,
                        "activation_function": "my_code.Identity"}, "got 'my_code.Identity'"),
    ("4_Normalize/config.json", {"module_input_name": "token_embeddings"}, "sentence_embedding"),
    ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case: expected False"),
    ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "feature-extraction"),
    ("sentence_bert_config.json", {"truncate": 1}, "truncate: expected only"),
    ("sentence_bert_config.json", {"processing_kwargs": {"text": {"padding": 1}}}, "processing_kw"),
    ("sentence_bert_config.json", {"modality_config": {"text": {"method": "embed"}}}, "modality"),
    ("sentence_bert_config.json", {"modality_config": {
        "text": {"method": "forward", "method_output_name": "last_hidden_state"},
        "message": {"method": "forward", "method_output_name": "last_hidden_state"}}}, "modality"),
    ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SentenceTransformer"),
    ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts: expected an object"),
    ("config_sentence_transformers.json", {"prompts": {"a": 3}}, "prompts.a: expected a string"),
    ("config_sentence_transformers.json", {"prompts": {"a\n": ""}}, "printable characters"),
    ("config_sentence_transformers.json",
     {"prompts": {"a": "b"}, "default_prompt_name": "query"},
     'default: expected null or one of a, got "query"'),
    ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "prompts: expected"),
    ("config_sentence_transformers.json", {"prompts": {"a": "x" * 2**20}}, "at most 1048576 bytes"),
    ("config_sentence_transformers.json", {"prompts": {"a": "\ud800"}}, "prompts.a: expected a"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_what_is_not_computed_is_refused_by_name(
    folder: Path, name: str, change: Callable[[Path], None] | dict, message: str
):
    if isinstance(change, dict):
        write(folder / name, change)
    else:
        change(folder)
    with pytest.raises(ArtifactError) as raised:
        read(folder)
    assert str(raised.value).startswith(str(folder / name))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_task_prompts_are_kept_and_a_null_one_is_empty(folder: Path):
    prompts = {"query": "task: search result | query: ", "document": None, "x": "a\nb: "}
    write(folder / "config_sentence_transformers.json", {
        "__version__": {}, "prompts": prompts, "default_prompt_name": "query",
        "similarity_fn_name": "cosine", "truncate_dim": 4,
    })  # fmt: skip
    found = read(folder)
    assert found.prompts == TaskPrompts(prompts | {"document": ""}, "query")
    assert found.notes == (
        "config_sentence_transformers.json: truncate_dim is not used",
        "vectors are meant to be compared by cosine, which no program computes",
    )


@pytest.mark.parametrize(("text", "refused"), [("q: ", True), ("", False)])
def test_pooling_without_the_prompt_is_refused_where_there_is_one(
    folder: Path, text: str, refused: bool
):
    write(folder / "pool" / "config.json", {"include_prompt": False})
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": text}})
    if not refused:
        assert read(folder).prompts == TaskPrompts({"query": ""})
        return
    with pytest.raises(ArtifactError, match=r"include_prompt is false\), got query"):
        read(folder)


def test_settings_of_the_transformer_that_change_nothing_are_taken(folder: Path):
    write(folder / "sentence_bert_config.json", {
        "max_seq_length": 2048, "do_lower_case": False, "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward",
                                     "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings", "processing_kwargs": {}, "unpad_inputs": None,
    })  # fmt: skip
    (note,) = read(folder).notes
    assert note.startswith("sentence-transformers cuts texts at 2048 tokens")


def test_a_folder_without_modules_json_says_what_is_taken_for_granted(folder: Path):
    (folder / "modules.json").unlink()
    found = read(folder)
    assert found.head == EmbeddingHead((Pooling.MEAN,), (DenseLayer(5, bias=False), Normalize()))
    assert found.notes == (
        "no modules.json: the vector of a text is taken to be pooled by mean over its tokens, "
        "through 2_Dense, of length 1",
    )
    assert read(folder, assumed=False) == Embedder()
