"""What a recipe of quantised weights needs, and what the manifest says of it.

The recipes, and how they store numbers, are model/lowering/recipes.py's; how the numbers are found
is model/lowering/quantize.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..artifacts.errors import UsageError
from ..artifacts.manifest import QuantizationRecord
from ..model.lowering.quantized import ParameterSpec
from ..model.lowering.recipes import FORMATS, UNQUANTIZED, Recipe, Scheme
from .arguments import PLATFORM, QUANTIZE

FLOAT8_PLATFORMS = ("cuda", "tpu")
"""Platforms whose hardware multiplies 8-bit floats."""


def check_recipe(recipe: Recipe, parameters: Sequence[ParameterSpec], platforms: Iterable[str]):
    """Refuse a recipe that a platform or a matrix cannot have.

    Raises:
        UsageError: 8-bit floats on a platform without, or inputs that are no multiple of 32.
    """
    without = [name for name in platforms if name not in FLOAT8_PLATFORMS]
    if Scheme.FP8 in (recipe.layers, recipe.embedding) and without:
        raise UsageError(
            f"{QUANTIZE} fp8: {without[0]} has no products of 8-bit floats: expected {PLATFORM} "
            f"{','.join(FLOAT8_PLATFORMS)}, got {','.join(platforms)}; use {QUANTIZE} int8"
        )
    for spec in parameters:
        if (group := recipe.scheme(spec.name).group) and spec.shape[1] % group:
            raise UsageError(
                f"{QUANTIZE} int4: {spec.name} has {spec.shape[1]} inputs: expected a multiple of "
                f"{group}, of which each {group} share a scale; use {QUANTIZE} int8"
            )


def record(recipe: Recipe, cache: str) -> QuantizationRecord | None:
    """What the manifest says of a recipe; `cache` is `none` or `int8`."""
    if recipe == UNQUANTIZED and cache == "none":
        return None
    return QuantizationRecord(
        str(recipe.layers), recipe.group, str(recipe.embedding), cache, _rule(recipe, cache)
    )


def _rule(recipe: Recipe, cache: str) -> str:
    layers, embedding = (FORMATS.get(s, "as they are") for s in (recipe.layers, recipe.embedding))
    sentence = (
        f"projections of the layers {layers}; embedding and head {embedding}; "
        "norms, biases, images, classes and dense layers as they are"
    )
    kept = "int8, a float32 scale for each head of a position" if cache == "int8" else "as they are"
    return f"{sentence}; keys and values {kept}"
