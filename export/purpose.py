"""What a checkpoint is for: which class of the model reads it, and which programs follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ..artifacts.errors import ArtifactError, UsageError
from ..model.classification import SequenceClassifier
from ..model.config import Gemma3TextConfig
from ..model.embedding import DenseLayer, TextEmbedder
from ..model.functional import CausalLM
from .checkpoint import Checkpoint

_CLASSIFIERS = ("Gemma3ForSequenceClassification", "Gemma3TextForSequenceClassification")
_DEFAULT_LABELS = 2
_MAX_LABELS = 1 << 20


@dataclass(frozen=True)
class Generating:
    """Texts go on: Gemma3ForCausalLM."""

    architecture = "Gemma3ForCausalLM"


@dataclass(frozen=True)
class Classifying:
    """Texts are sorted into classes: Gemma3ForSequenceClassification."""

    labels: tuple[str, ...]
    """The name of each class, in the order of the scores."""
    architecture = "Gemma3ForSequenceClassification"


@dataclass(frozen=True)
class Embedding:
    """Texts become vectors: Gemma3TextModel, read in both directions, pooled."""

    dense: tuple[DenseLayer, ...]
    """The dense layers after the pooling, in order."""
    architecture = "Gemma3TextModel"


Purpose = Generating | Classifying | Embedding
GENERATING = Generating()
Model = CausalLM | SequenceClassifier | TextEmbedder


def read_purpose(checkpoint: Checkpoint, config: Gemma3TextConfig) -> Purpose:
    """What config.json says; texts go on where it says nothing else.

    Raises:
        ArtifactError: the classes of a classifier cannot be read.
        UsageError: a classifier that reads in both directions.
    """
    names = checkpoint.config.get("architectures")
    if isinstance(names, list) and any(name in _CLASSIFIERS for name in names):
        if config.use_bidirectional_attention:
            raise UsageError(
                f"{checkpoint.path}: config.json use_bidirectional_attention: expected false for a "
                "classifier, got true; export a classifier that reads from left to right"
            )
        return Classifying(_labels(checkpoint))
    if config.use_bidirectional_attention:
        return Embedding(_dense_layers(checkpoint))
    return GENERATING


def make_model(config: Gemma3TextConfig, purpose: Purpose, dtype: jnp.dtype) -> Model:
    """The model as pure functions."""
    match purpose:
        case Generating():
            return CausalLM(config, dtype)
        case Classifying(labels):
            return SequenceClassifier(config, len(labels), dtype)
        case Embedding(dense):
            return TextEmbedder(config, dense, dtype)


def label_names(purpose: Purpose) -> tuple[str, ...]:
    """Names of the classes, none for a model without."""
    return purpose.labels if isinstance(purpose, Classifying) else ()


def embedding_size(purpose: Purpose, config: Gemma3TextConfig) -> int:
    """Numbers in the vector of a text, 0 for a model without."""
    if not isinstance(purpose, Embedding):
        return 0
    return purpose.dense[-1].size if purpose.dense else config.hidden_size


def _dense_layers(checkpoint: Checkpoint) -> tuple[DenseLayer, ...]:
    tensors, layers = checkpoint.tensors, []
    while (name := f"dense.{len(layers)}") + ".weight" in tensors:
        layers.append(DenseLayer(tensors[f"{name}.weight"].shape[0], f"{name}.bias" in tensors))
    return tuple(layers)


def _labels(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names from id2label, or LABEL_0, LABEL_1, ... as transformers makes them."""
    names = checkpoint.config.get("id2label")
    if names is None:
        count = checkpoint.config.get("num_labels", _DEFAULT_LABELS)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MAX_LABELS:
            raise _refusal(checkpoint, "num_labels", "a whole number of at least 1", count)
        return tuple(f"LABEL_{number}" for number in range(count))
    keys = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if not keys or set(names) != set(keys):
        raise _refusal(
            checkpoint, "id2label", "an object with keys 0, 1, ... for its classes", names
        )
    found = tuple(names[key] for key in keys)
    for name in found:
        if not isinstance(name, str) or not name.isprintable():
            raise _refusal(checkpoint, "id2label", "names of printable text", name)
    return found


def _refusal(checkpoint: Checkpoint, field: str, expected: str, got: Any) -> ArtifactError:
    return ArtifactError(
        f"{checkpoint.path}: config.json {field}: expected {expected}, got {repr(got)[:80]}; "
        "mend config.json"
    )
