"""Ways of storing a matrix in fewer bits, and the recipes that say which matrix gets which.

A matrix W [O,I] is kept as small numbers and scales, W = numbers * scale:

    int8   numbers int8 [O,I], one scale float32 for each output: [O]
    fp8    numbers float8_e4m3fn [O,I], one scale float32 for each output: [O]
    int4   numbers -8..7, a scale bfloat16 for each group of 32 inputs of an output: [O,I/32].
           Two numbers lie in a byte, each plus 8: byte b of a group holds number b of the group
           in its low half and number b + 16 in its high half (as GGML's Q4_0): uint8 [O,I/2]

Needs no JAX: commands list the names before they load it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NamedTuple

_LAYER_MATRIX = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


class Scheme(enum.StrEnum):
    """How the numbers of a matrix are stored."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"

    @property
    def group(self) -> int:
        """Inputs of an output that share a scale; 0 where all do, or where there is none."""
        return FORMATS[self].group if self in FORMATS else 0


class Format(NamedTuple):
    """How a scheme stores a matrix; dtypes by their names."""

    number: str
    """What a number is."""
    array: str
    """What numbers lie in."""
    scale: str
    group: int = 0
    """See Scheme.group."""

    def __str__(self) -> str:
        """A phrase for people."""
        inputs = f"{self.group} inputs of an output" if self.group else "output"
        return f"{self.number}, a {self.scale} scale for each {inputs}"


FORMATS = {
    Scheme.INT8: Format("int8", "int8", "float32"),
    Scheme.INT4: Format("int4", "uint8", "bfloat16", group=32),
    Scheme.FP8: Format("float8_e4m3fn", "float8_e4m3fn", "float32"),
}
"""Of every scheme but NONE."""


@dataclass(frozen=True)
class Recipe:
    """Which scheme each matrix gets. Norms, biases, the vision side and small heads get none."""

    layers: Scheme = Scheme.NONE
    """The projections of attention and MLP in every layer of the text stack."""
    embedding: Scheme = Scheme.NONE
    """The embedding, and the head over the vocabulary, tied or not."""

    def scheme(self, name: str) -> Scheme:
        """The scheme of the weight called `name`."""
        if name in _VOCABULARY:
            return self.embedding
        return self.layers if _LAYER_MATRIX.fullmatch(name) else Scheme.NONE

    @property
    def group(self) -> int:
        """Inputs that share a scale where a matrix has groups; 0 where none has."""
        return self.layers.group or self.embedding.group

    @property
    def bits(self) -> int | None:
        """The `bits` of a config that mean this of the layers; None where none do."""
        return {Scheme.INT8: 8, Scheme.INT4: 4}.get(self.layers)


UNQUANTIZED = Recipe()
RECIPES = {
    "none": UNQUANTIZED,
    "int8": Recipe(Scheme.INT8, Scheme.INT8),
    "int4": Recipe(Scheme.INT4, Scheme.INT8),
    "int4-pure": Recipe(Scheme.INT4, Scheme.INT4),
    "fp8": Recipe(Scheme.FP8, Scheme.INT8),
}
"""By the name that --quantize takes."""


def recipe_name(bits: int | None) -> str:
    """The name of what a config's `bits` ask for: the first recipe that has as many."""
    return next(name for name, recipe in RECIPES.items() if recipe.bits == bits)
