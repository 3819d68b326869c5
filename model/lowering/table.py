"""What a program meets that can be written in several ways, and the table that says how.

The table that comes with the package is `choose_product` and `choose_blocks`. A `FormTable` that
was tuned on a machine answers the cases that were measured there and leaves the others to them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from ..config import LayerType
from .forms import Form, choose_product
from .recipes import Scheme
from .target import Platform


@dataclass(frozen=True, order=True)
class ProductCase:
    """A product x [rows,inputs] times weight [outputs,inputs] transposed, on one device."""

    platform: Platform
    scheme: Scheme
    dtype: str
    """Of the computation: activations may be rounded to it."""
    outputs: int
    inputs: int
    rows: int
    kernels: bool = False
    """Whether a C++ kernel may be called, for a scheme that has one."""


@dataclass(frozen=True, order=True)
class AttentionCase:
    """The attention of one layer: a chunk of tokens over a cache of slots and over itself."""

    platform: Platform
    kind: LayerType
    dtype: str
    """Of the products with keys and values."""
    kept: str
    """Of the keys and values in the cache: `dtype`, or int8."""
    batch: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    slots: int


Case = ProductCase | AttentionCase


class Blocks(NamedTuple):
    """How many queries and keys meet at a time in `blocked_attention`."""

    queries: int
    keys: int


LARGE_SCORES = 1 << 28
"""Bytes of scores that are too many to be made at once."""
_SMALL_CHUNK = 1 << 14
"""Scores of a head."""


def scores_bytes(case: AttentionCase) -> int:
    """What the float32 scores of a layer take where all are made at once."""
    return 4 * case.batch * case.heads * case.tokens * (case.slots + case.tokens)


def choose_blocks(case: AttentionCase) -> Blocks | None:
    """The blocks to attend in, or None where all scores at once are better.

    Measured for CPU, a layer by itself (tests/benchmarks/attention.py). Elsewhere a loop whose
    length is only known at run time is kept for scores that would not fit.
    """
    tokens, slots = case.tokens, case.slots
    if case.platform != Platform.CPU:
        large = scores_bytes(case) > LARGE_SCORES
        return Blocks(512, 1024) if large and tokens > 1 else None
    if tokens == 1:
        return Blocks(1, 512) if slots > 512 else None
    return Blocks(256, 256) if tokens * (slots + tokens) >= _SMALL_CHUNK else None


def blocks_name(blocks: Blocks | None) -> str:
    """What people read: `whole`, or `blocks of 256x512` (queries x keys)."""
    return "whole" if blocks is None else f"blocks of {blocks.queries}x{blocks.keys}"


@dataclass(frozen=True)
class FormTable:
    """The form of each case that was measured; of any other the shipped table's."""

    products: tuple[tuple[ProductCase, Form], ...] = ()
    attention: tuple[tuple[AttentionCase, Blocks | None], ...] = ()
    source: str = "shipped"
    """Where it is from, for people."""

    @functools.cached_property
    def _products(self) -> dict[ProductCase, Form]:
        return dict(self.products)

    @functools.cached_property
    def _attention(self) -> dict[AttentionCase, Blocks | None]:
        return dict(self.attention)

    def product(self, case: ProductCase) -> Form:
        """The form to write this product in."""
        form = self._products.get(case)
        return form or choose_product(
            case.platform, case.rows, case.scheme, jnp.dtype(case.dtype), case.kernels
        )

    def blocks(self, case: AttentionCase) -> Blocks | None:
        """The blocks to attend in, None for all scores at once."""
        return self._attention[case] if case in self._attention else choose_blocks(case)

    def known(self, cases: Iterable[Case]) -> list[Case]:
        """Those of `cases` that this table answers itself."""
        return [case for case in cases if case in self._products or case in self._attention]


SHIPPED = FormTable()
"""The table that comes with the package."""
