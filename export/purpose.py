"""What a checkpoint is for: which class of the model reads it, and which programs follow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ..artifacts.errors import ArtifactError, UsageError
from ..model.config import ConfigError, Gemma3TextConfig
from ..model.embedding import EmbeddingHead
from ..model.lowering.recipes import UNQUANTIZED, Recipe
from ..model.pure.causal_lm import CausalLM
from ..model.pure.classifier import SequenceClassifier
from ..model.pure.embedder import TextEmbedder
from ..model.pure.image_encoder import ImageEncoder
from ..model.vision_config import Gemma3Config, SiglipVisionConfig
from .arguments import NO_IMAGES
from .checkpoint import Checkpoint
from .checkpoint.image_processor import check_image_processor

_CLASSIFIERS = ("Gemma3ForSequenceClassification", "Gemma3TextForSequenceClassification")
_DEFAULT_LABELS = 2
_MAX_LABELS = 1 << 20


@dataclass(frozen=True)
class Generating:
    """Texts go on: Gemma3ForCausalLM, or with images in them Gemma3ForConditionalGeneration."""

    vision: Gemma3Config | None = None
    """How images are seen; None for a model of text."""

    @property
    def architecture(self) -> str:
        """The Hugging Face class."""
        return "Gemma3ForConditionalGeneration" if self.vision else "Gemma3ForCausalLM"


@dataclass(frozen=True)
class Classifying:
    """Texts are sorted into classes: Gemma3ForSequenceClassification."""

    labels: tuple[str, ...]
    """The name of each class, in the order of the scores."""
    vision: Gemma3Config | None = None
    """How images are seen; None for a model of text."""
    architecture = "Gemma3ForSequenceClassification"


@dataclass(frozen=True)
class Embedding:
    """Texts become vectors: Gemma3TextModel, read whole, pooled."""

    head: EmbeddingHead
    """Pooling and what follows it."""
    architecture = "Gemma3TextModel"


Purpose = Generating | Classifying | Embedding
GENERATING = Generating()
TextModel = CausalLM | SequenceClassifier | TextEmbedder
Model = TextModel | ImageEncoder

TEXT_WEIGHTS, VISION_WEIGHTS = "text", "vision"
"""The weight sets: of every other program, and of encode_image."""
_VISION_TENSORS = ("vision_tower.", "multi_modal_projector.")


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
    if checkpoint.head is not None or config.use_bidirectional_attention:
        return Embedding(checkpoint.head or EmbeddingHead())
    return GENERATING


def with_images(purpose: Purpose, checkpoint: Checkpoint, config: Gemma3TextConfig) -> Purpose:
    """`purpose` with the vision side of a checkpoint that has one; `config` is of its text.

    A checkpoint has one when it configures it and has any of its tensors; whether it has all
    is for check_tensors to say.

    Raises:
        ArtifactError: the configuration of the vision side makes no sense.
    """
    described = checkpoint.config.get("vision_config") is not None
    stored = any(name.startswith(_VISION_TENSORS) for name in checkpoint.tensors)
    if isinstance(purpose, Embedding) or not (described and stored):
        return purpose
    try:
        vision = dataclasses.replace(Gemma3Config.from_dict(checkpoint.config), text_config=config)
        _ = vision.patches_per_token_side
    except ConfigError as error:
        raise ArtifactError(
            f"{checkpoint.path}: {error}; fix the configuration, or pass {NO_IMAGES}"
        ) from error
    kind = checkpoint.config["vision_config"].get("model_type")
    if kind not in (None, SiglipVisionConfig.model_type):
        raise _refusal(checkpoint, "vision_config.model_type", SiglipVisionConfig.model_type, kind)
    check_image_processor(checkpoint.path, vision)
    if vision.vision_config.num_channels != 3:
        got = vision.vision_config.num_channels
        raise _refusal(checkpoint, "vision_config.num_channels", "3, red, green and blue", got)
    return dataclasses.replace(purpose, vision=vision)


def vision_of(purpose: Purpose) -> Gemma3Config | None:
    """The configuration of the vision side, None for a model without."""
    return None if isinstance(purpose, Embedding) else purpose.vision


def make_models(
    config: Gemma3TextConfig, purpose: Purpose, dtype: jnp.dtype, recipe: Recipe = UNQUANTIZED
) -> dict[str, Model]:
    """The models of the bundle by the name of their weight set, in the order of the store."""
    models: dict[str, Model] = {TEXT_WEIGHTS: make_model(config, purpose, dtype, recipe)}
    vision = vision_of(purpose)
    if vision is not None:
        models[VISION_WEIGHTS] = ImageEncoder(vision, dtype)
    return models


def make_model(
    config: Gemma3TextConfig, purpose: Purpose, dtype: jnp.dtype, recipe: Recipe = UNQUANTIZED
) -> TextModel:
    """The text model as pure functions of weights that are stored as the recipe says."""
    match purpose:
        case Generating():
            return CausalLM(config, dtype, recipe)
        case Classifying(labels, _):
            return SequenceClassifier(config, len(labels), dtype, recipe)
        case Embedding(head):
            return TextEmbedder(config, head, dtype, recipe)


def label_names(purpose: Purpose) -> tuple[str, ...]:
    """Names of the classes, none for a model without."""
    return purpose.labels if isinstance(purpose, Classifying) else ()


def embedding_size(purpose: Purpose, config: Gemma3TextConfig) -> int:
    """Numbers in the vector of a text, 0 for a model without."""
    if not isinstance(purpose, Embedding):
        return 0
    return purpose.head.size(config.hidden_size)


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
    labels = tuple(names[key] for key in keys)
    for name in labels:
        if not isinstance(name, str) or not name.isprintable():
            raise _refusal(checkpoint, "id2label", "names of printable text", name)
    return labels


def _refusal(checkpoint: Checkpoint, field: str, expected: str, got: Any) -> ArtifactError:
    return ArtifactError(
        f"{checkpoint.path}: config.json {field}: expected {expected}, got {repr(got)[:80]}; "
        "fix config.json"
    )
