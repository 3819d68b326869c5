"""Which checkpoints are classifiers, and what their classes are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import Checkpoint
from gemma3_export.export.purpose import Classifying, Generating, read_purpose

from ..goldens.tiny_heads import write_classifier
from .conftest import Command

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
    assert read_purpose(checkpoint(**config)) == Generating()


@pytest.mark.parametrize("name", [CLASSIFIER, "Gemma3TextForSequenceClassification"])
def test_classes_are_named_by_number_whatever_their_order_in_the_file(name: str):
    labels = {"10": "k", **{str(n): chr(97 + n) for n in range(10)}}
    found = read_purpose(checkpoint(architectures=[name], id2label=labels))
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
    assert read_purpose(checkpoint(architectures=[CLASSIFIER], **config)) == Classifying(labels)


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
        read_purpose(checkpoint(architectures=[CLASSIFIER], **config))
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
