"""Every form of a product computes the product."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.config import PUBLISHED_SIZES
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.forms import (
    FORMS,
    Platform,
    choose_product,
    float_product,
    narrow_product,
    row_product,
)
from gemma3_export.model.lowering.recipes import Scheme

# float32 rounds the sum; a bfloat16 activation is rounded to 8 bits on top.
TOLERANCE = {"float32": 2e-6, "bfloat16": 4e-3}
CONTRACTIONS = [1, 7, 2048, 2049, 4096, 6912, 10240]


def operands(rows: int, size: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    numbers = np.random.default_rng(size + rows)
    x = jnp.asarray(numbers.normal(size=(rows, size)), jnp.float32)
    return x, jnp.asarray(numbers.normal(size=(24, size)), jnp.dtype(dtype))


def check(form: Callable, x: jax.Array, weight: jax.Array, tolerance: float) -> None:
    got = form(x, weight)
    exact = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    assert got.dtype == jnp.float32
    assert got.shape == (*x.shape[:-1], weight.shape[0])
    np.testing.assert_allclose(got, exact, atol=tolerance * 4 * np.sqrt(x.shape[-1]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", CONTRACTIONS)
@pytest.mark.parametrize("rows", [1, 3])
def test_one_row_at_a_time_is_the_product_in_full_precision(rows: int, size: int, dtype: str):
    check(row_product, *operands(rows, size, dtype), TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [7, 4096])
def test_the_plain_form_is_the_product_in_full_precision(size: int, dtype: str):
    check(float_product, *operands(5, size, dtype), TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [7, 4096])
def test_the_narrow_form_rounds_activations_and_nothing_else(size: int, dtype: str):
    x, weight = operands(5, size, dtype)
    check(narrow_product, x, weight, TOLERANCE[dtype])
    rounded = x.astype(weight.dtype).astype(jnp.float32)
    exact = np.asarray(rounded, np.float64) @ np.asarray(weight, np.float64).T
    np.testing.assert_allclose(narrow_product(x, weight), exact, atol=5e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", list(Platform))
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 9), (4, 3)])
def test_whatever_is_chosen_takes_any_leading_dimensions(
    shape: tuple[int, ...], platform: Platform, dtype: str
):
    x, weight = operands(shape[0] * shape[1], 4096, dtype)
    context = LoweringContext(platform)
    check(
        lambda x, weight: context.product(x, weight, "a role"),
        x.reshape(*shape, -1), weight, TOLERANCE[dtype],
    )  # fmt: skip
    assert context.recorder.forms["a role"] in {form.__name__ for form in FORMS[Scheme.NONE]}


@pytest.mark.parametrize("platform", list(Platform))
def test_a_float32_weight_is_never_rounded(platform: Platform):
    for rows in (1, 4, 512):
        form = choose_product(platform, rows, Scheme.NONE, jnp.dtype(jnp.float32))
        check(form, *operands(2, 2048, "float32"), TOLERANCE["float32"])


def test_no_published_contraction_is_cut_into_crumbs():
    """A row product is cut into pieces that fuse; the fewer the better."""
    for config in PUBLISHED_SIZES.values():
        width = config.num_attention_heads * config.head_dim
        for size in (config.hidden_size, config.intermediate_size, width):
            x = jax.ShapeDtypeStruct((1, size), jnp.float32)
            weight = jax.ShapeDtypeStruct((8, size), jnp.bfloat16)
            products = str(jax.make_jaxpr(row_product)(x, weight)).count("dot_general")
            assert products <= -(-size // 1024)
