"""Weights of a checkpoint in the modules that people use, quantised where the config says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..config import Gemma3TextConfig
from ..lowering.quantize import quantize
from ..lowering.quantized import Matrix, QuantizedWeight
from ..lowering.recipes import RECIPES, UNQUANTIZED, Recipe, Scheme, recipe_name
from ..vision_config import Gemma3Config

ModuleT = TypeVar("ModuleT", bound=nnx.Module)


def load_weights(module: ModuleT, weights: Mapping[str, np.ndarray]) -> ModuleT:
    """The module with the weights of a checkpoint.

    Args:
      module: one of this package's, with any weights or abstract ones.
      weights: by their names in the text-only layout of Hugging Face, `model.layers...`; of
        the vision side `vision_tower...` and `multi_modal_projector...`. What the module lacks
        is ignored. Cast to the module's dtype; with config.bits of 4 or 8, matrices of the text
        stack are quantised, which lowers memory and changes results by their rounding.

    Raises:
      KeyError: a weight is missing.
      ValueError: one has another shape, or cannot be quantised.
    """
    recipe = RECIPES[recipe_name(_bits(module))]
    graph, state = nnx.split(module)
    flat = []
    for path, variable in nnx.to_flat_state(state):
        name = weight_name(".".join(str(part) for part in path))
        value, expected = np.asarray(weights[name]), variable.get_value()
        if value.shape != tuple(expected.shape):
            raise ValueError(
                f"{name}: expected shape {list(expected.shape)}, got {list(value.shape)}"
            )
        flat.append((path, variable.replace(_store(name, value, expected.dtype, recipe))))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def quantize_weights(module: ModuleT) -> ModuleT:
    """The module itself, its matrices kept in the `bits` of its config; for 4 and 8.

    Models with random weights call it themselves. Weights already quantised stay as they are.
    Raises ValueError for weights that are not known: abstract ones, and while tracing.
    """
    recipe = RECIPES[recipe_name(_bits(module))]
    for path, variable in nnx.iter_graph(module):
        if not isinstance(variable, nnx.Param) or recipe == UNQUANTIZED:
            continue
        name, value = weight_name(".".join(str(part) for part in path)), variable.get_value()
        if recipe.scheme(name) == Scheme.NONE or isinstance(value, QuantizedWeight):
            continue
        variable.set_value(_store(name, _known_numbers(name, value), value.dtype, recipe))
    return module


def _known_numbers(name: str, value: jax.Array | jax.ShapeDtypeStruct) -> np.ndarray:
    """A weight's numbers; ValueError where they are not known."""
    try:
        if not isinstance(value, jax.ShapeDtypeStruct):
            return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        pass
    raise ValueError(
        f"{name}: bits asks for quantised numbers, and they are not known here; make the model "
        f"outside of transformations, or without rngs for load_weights"
    )


def require_bits(config: Gemma3TextConfig, matrix: Matrix) -> None:
    """Raise ValueError where a layer's matrix is not kept in the bits that the config asks for."""
    expected = RECIPES[recipe_name(config.bits)].layers
    actual = matrix.scheme if isinstance(matrix, QuantizedWeight) else Scheme.NONE
    if actual != expected:
        raise ValueError(
            f"config.bits is {config.bits}, and the weights are kept as {actual}: load them again "
            f"(load_weights), or quantise them (quantize_weights), after bits is set"
        )


def weight_name(path: str) -> str:
    """The canonical name of the weight at a module's path.

    The text stack is one level deeper in the multimodal modules, and one level higher in the text
    model without a head.
    """
    path = path.removeprefix("model.")
    if path.startswith(("vision_tower.", "multi_modal_projector.", "lm_head.", "score.")):
        return path
    return "model." + path.removeprefix("language_model.")


def _bits(module: nnx.Module) -> int | None:
    config: Gemma3TextConfig | Gemma3Config = getattr(module, "config")  # noqa: B009
    return config.get_text_config().bits


def _store(
    name: str, value: np.ndarray, dtype: jnp.dtype, recipe: Recipe
) -> jnp.ndarray | QuantizedWeight:
    scheme = recipe.scheme(name)
    if scheme == Scheme.NONE:
        return jnp.asarray(value).astype(dtype)
    if (group := scheme.group) and value.shape[1] % group:
        raise ValueError(f"{name}: bits=4 needs inputs in groups of {group}, got {value.shape[1]}")
    ((numbers, scale),) = quantize([value.astype(np.float32)], scheme)
    return QuantizedWeight(jnp.asarray(numbers), jnp.asarray(scale), scheme, dtype)
