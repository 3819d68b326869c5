"""The recipes of quantised weights that a user can ask for, and what the manifest says of them.

How the numbers are stored is said in model/lowering/quantized.py, how they are found in
model/lowering/quantize.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..artifacts.errors import UsageError
from ..artifacts.manifest import QuantizationRecord
from ..model.lowering.quantized import BY_BITS, GROUP, UNQUANTIZED, ParameterSpec, Recipe, Scheme
from .arguments import PLATFORM, QUANTIZE

RECIPES: dict[str, Recipe] = {
    "none": UNQUANTIZED,
    "int8": BY_BITS[8],
    "int4": BY_BITS[4],
    "int4-pure": Recipe(Scheme.INT4, Scheme.INT4),
    "fp8": Recipe(Scheme.FP8, Scheme.INT8),
}
"""By the name that --quantize takes."""

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
        if recipe.scheme(spec.name) == Scheme.INT4 and spec.shape[1] % GROUP:
            raise UsageError(
                f"{QUANTIZE} int4: {spec.name} has {spec.shape[1]} inputs: expected a multiple of "
                f"{GROUP}, of which each {GROUP} share a scale; use {QUANTIZE} int8"
            )


def record(recipe: Recipe, cache: str) -> QuantizationRecord | None:
    """What the manifest says of a recipe; `cache` is `none` or `int8`."""
    if recipe == UNQUANTIZED and cache == "none":
        return None
    group = GROUP if Scheme.INT4 in (recipe.layers, recipe.embedding) else 0
    return QuantizationRecord(
        str(recipe.layers), group, str(recipe.embedding), cache, _rule(recipe, cache)
    )


def _rule(recipe: Recipe, cache: str) -> str:
    how = {
        Scheme.NONE: "as they are",
        Scheme.INT8: "int8, a float32 scale for each output",
        Scheme.INT4: f"int4, a bfloat16 scale for each {GROUP} inputs of an output",
        Scheme.FP8: "float8_e4m3fn, a float32 scale for each output",
    }
    sentence = (
        f"projections of the layers {how[recipe.layers]}; embedding and head "
        f"{how[recipe.embedding]}; norms, biases, images, classes and dense layers as they are"
    )
    kept = "int8, a float32 scale for each head of a position" if cache == "int8" else "as they are"
    return f"{sentence}; keys and values {kept}"
