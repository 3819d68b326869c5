"""The modules that people use, made of the tiny checkpoints, and called compiled without haste."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gemma3_export.model.api import (
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ForSequenceClassification,
    load_weights,
)
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.vision_config import Gemma3Config

from ...goldens import tiny
from ...goldens.tiny_vision import TINY_VISION, vision_weights
from ..small import small_config, small_weights


def small_model(**changes: Any) -> Gemma3ForCausalLM:
    """Gemma3ForCausalLM of `small_config`, with weights in which everything matters."""
    config = small_config(**changes)
    weights = {name: np.asarray(value) for name, value in small_weights(config).items()}
    return load_weights(Gemma3ForCausalLM(config, jnp.dtype(jnp.float32)), weights)


def tiny_model(name: str, **changes: Any) -> Gemma3ForCausalLM:
    """The tiny checkpoint `name` of text."""
    config = Gemma3TextConfig.from_dict(tiny.TINY[name] | changes)
    return load_weights(Gemma3ForCausalLM(config, jnp.dtype(jnp.float32)), dict(tiny.weights(name)))


def tiny_seeing(name: str) -> Gemma3ForConditionalGeneration:
    """The tiny multimodal checkpoint `name`."""
    model = Gemma3ForConditionalGeneration(
        Gemma3Config.from_dict(TINY_VISION[name]), jnp.dtype(jnp.float32)
    )
    return load_weights(model, dict(vision_weights(name)))


def classifier(config: dict[str, Any], weights: dict) -> Gemma3ForSequenceClassification:
    """A tiny classifier from its config.json and weights."""
    kind = Gemma3Config if "vision_config" in config else Gemma3TextConfig
    made = Gemma3ForSequenceClassification(kind.from_dict(config), jnp.dtype(jnp.float32))
    return load_weights(made, weights)


def compiled(model: Callable, **fixed: Any) -> Callable:
    """model(..., **fixed), jitted without the compiler's optimisations: half the time."""
    return jax.jit(
        lambda *args, **kwargs: model(*args, **kwargs, **fixed),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def ids(*rows: Any) -> jax.Array:
    """Rows of token ids, as they are."""
    return jnp.asarray(rows, jnp.int32)


def left_padded(rows: Any, pad: int = 0) -> tuple[jax.Array, jax.Array]:
    """Unequal rows as one batch padded on the left: ids and attention_mask, both [B,T]."""
    width = max(map(len, rows))
    tokens = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return ids(*tokens), ids(*mask)
