"""Which checkpoints are classifiers or embedding models, and what they say of their heads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.artifacts.prompts import TaskPrompts, bundle_prompts
from gemma3_export.export.checkpoint import Checkpoint, open_checkpoint
from gemma3_export.export.purpose import Classifying, Embedding, Generating, read_purpose
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.embedding import DenseLayer, EmbeddingHead, Normalize, Pooling

from ..goldens.tiny_heads import write_classifier, write_embedder
from ..runtime.toy_bundle import toy_tokenizer
from .conftest import Command

CONFIG = Gemma3TextConfig()
CLASSIFIER = "Gemma3ForSequenceClassification"


def checkpoint(**config: Any) -> Checkpoint:
    return Checkpoint(Path("x"), "x", config, {}, None, None, {})


@pytest.mark.parametrize(
    "config",
    [{}, {"architectures": None}, {"architectures": []}, {"architectures": "strange"},
     {"architectures": ["Gemma3ForCausalLM"], "id2label": {"0": "a"}},
     {"architectures": ["Gemma3ForConditionalGeneration"]}],
)  # fmt: skip
def test_a_checkpoint_generates_unless_its_architecture_says_otherwise(config: dict[str, Any]):
    assert read_purpose(checkpoint(**config), CONFIG) == Generating()


@pytest.mark.parametrize("name", [CLASSIFIER, "Gemma3TextForSequenceClassification"])
def test_classes_are_named_by_number_whatever_their_order_in_the_file(name: str):
    labels = {"10": "k", **{str(n): chr(97 + n) for n in range(10)}}
    found = read_purpose(checkpoint(architectures=[name], id2label=labels), CONFIG)
    assert found == Classifying(tuple("abcdefghijk"))


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 1}, ("LABEL_0",)),
        ({"num_labels": 5, "id2label": {"0": "only"}}, ("only",)),
        ({"id2label": None, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_classes_without_names_get_those_of_transformers(
    config: dict[str, Any], labels: tuple[str, ...]
):
    assert read_purpose(checkpoint(architectures=[CLASSIFIER], **config), CONFIG) == Classifying(
        labels
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_labels": 0}, "num_labels: expected a whole number of at least 1, got 0"),
        ({"num_labels": True}, "num_labels: expected a whole number of at least 1, got True"),
        ({"num_labels": "3"}, "num_labels: expected a whole number"),
        ({"id2label": ["a"]}, "id2label: expected an object with keys 0, 1"),
        ({"id2label": {}}, "id2label: expected an object with keys 0, 1"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label: expected an object with keys 0, 1"),
        ({"id2label": {"0": "a", "1": 3}}, "id2label: expected names of printable text, got 3"),
        ({"id2label": {"0": "a\nb"}}, "id2label: expected names of printable text, got 'a"),
    ],
)
def test_classes_that_cannot_be_read_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(ArtifactError, match=r"config\.json") as raised:
        read_purpose(checkpoint(architectures=[CLASSIFIER], **config), CONFIG)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_head_of_another_number_of_classes_than_the_config_names_is_refused(
    gemma3_export: Command, tmp_path: Path
):
    folder = write_classifier("classifier", tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b"}}))
    status, out, err = gemma3_export("--mesh", "1x1", "--checkpoint", folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "score.weight has a wrong shape: expected 2x64 by the config, got 3x64" in err


def test_a_checkpoint_that_reads_both_ways_embeds_with_the_dense_layers_beside_it(tmp_path: Path):
    both_ways = Gemma3TextConfig(use_bidirectional_attention=True)
    with_dense = open_checkpoint(write_embedder("embedder", tmp_path / "embedder"))
    layers = (DenseLayer(96, bias=False), DenseLayer(48, bias=True), Normalize())
    assert read_purpose(with_dense, both_ways) == Embedding(EmbeddingHead((Pooling.MEAN,), layers))
    bare = open_checkpoint(write_embedder("bare", tmp_path / "bare"))
    assert read_purpose(bare, both_ways) == Embedding(EmbeddingHead())


@pytest.mark.parametrize("setting", [True, False, None])
def test_the_tokenizer_says_whether_a_text_ends_with_the_end_token(
    tmp_path: Path, setting: bool | None
):
    folder = write_embedder("bare", tmp_path / "bare")
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_eos_token": setting}))
    assert open_checkpoint(folder).add_eos is (setting is True)


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


DAMAGE = [
    (lambda f: change(f / "2_Dense" / "config.json", activation_function="torch.nn.PReLU"),
     "2_Dense/config.json: activation_function: expected torch's Identity, Tanh, ReLU, GELU"),
    (lambda f: (f / "2_Dense" / "config.json").write_text("{}"), "in_features: expected 64"),
    (lambda f: (f / "3_Dense" / "model.safetensors").unlink(),
     "3_Dense: expected model.safetensors, got no such file"),
    (lambda f: shutil.copy(f / "model.safetensors", f / "3_Dense"),
     "expected a matrix linear.weight and at most a vector linear.bias, got"),
    (lambda f: shutil.copytree(f / "2_Dense", f / "3_Dense", dirs_exist_ok=True),
     "dense.1.weight has a wrong shape: expected 96x96 by the config, got 96x64"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_dense_layers_that_are_not_as_expected_are_refused(
    gemma3_export: Command, tmp_path: Path, damage: Callable[[Path], object], message: str
):
    folder = write_embedder("embedder", tmp_path / "checkpoint")
    damage(folder)
    status, out, err = gemma3_export("--mesh", "1x1", "--checkpoint", folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


EMBEDDING_GEMMA = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "BitextMining": "task: search result | query: ",
    "Clustering": "task: clustering | query: ",
    "Retrieval-query": "task: search result | query: ",
    "Retrieval-document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
}
"""Some of those that EmbeddingGemma comes with."""


def test_task_prompts_are_a_file_of_the_bundle(gemma3_export: Command, tmp_path: Path):
    folder = write_embedder("bare", tmp_path / "checkpoint")
    (folder / "tokenizer.model").write_bytes(toy_tokenizer())
    config = {"prompts": EMBEDDING_GEMMA, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    out = tmp_path / "bundle"
    status, _, err = gemma3_export(
        "--mesh", "1x1", "--prefill", "16", "--checkpoint", folder, "--out", out
    )
    assert status == 0, err
    prompts = bundle_prompts(Bundle.open(out))
    assert prompts == TaskPrompts(EMBEDDING_GEMMA)
    assert prompts.text("Retrieval-query", "") == "task: search result | query: "


def test_the_tokenizers_ids_surround_a_text_whatever_the_config_says(tmp_path: Path):
    folder = write_embedder("bare", tmp_path / "bare")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [6, 1]}))
    data = Path(__file__).parent / "checkpoint" / "data" / "small_tied.json"
    parts = [
        {"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<eos>", "type_id": 0}},
    ]  # fmt: skip
    ids = {"<bos>": {"id": "<bos>", "ids": [5], "tokens": ["<bos>"]}}
    processor = {"type": "TemplateProcessing", "single": parts, "special_tokens": ids}
    document = json.loads(data.read_text()) | {"post_processor": processor}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    checkpoint = open_checkpoint(folder)
    assert Gemma3TextConfig.from_dict(checkpoint.config).bos_token_id == 5
    assert checkpoint.eos_token_ids == (1, 6)
    assert any("texts begin with id 5, as the tokenizer has it" in n for n in checkpoint.notes)


def test_a_classifier_says_that_modules_json_is_not_used(tmp_path: Path):
    folder = write_classifier("classifier", tmp_path / "checkpoint")
    assert open_checkpoint(folder).notes == ()
    (folder / "modules.json").write_text("[]")
    (note,) = open_checkpoint(folder).notes
    assert note.startswith("modules.json is not used")
