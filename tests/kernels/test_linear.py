"""What a product's kernel does before and after it, against the same written out for XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.forms import (
    KERNEL_OF,
    KERNEL_TARGETS,
    Form,
    kernel_products,
    plain_kernel_products,
)
from gemma3_export.model.lowering.fusions import AddNorm, Gate, Norm, Operand, kernel_arguments
from gemma3_export.model.lowering.recipes import Scheme

from ..model.quantized_weights import random_weight

INPUTS, OUTPUTS = 96, 64
SCHEMES = pytest.mark.parametrize("scheme", KERNEL_OF)
ROWS = pytest.mark.parametrize("rows", [1, 5, 70])


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32))


def weight_of(scheme: Scheme) -> Any:
    if scheme == Scheme.NONE:
        return normal(OUTPUTS, INPUTS).astype(jnp.bfloat16)
    return random_weight(scheme, OUTPUTS, INPUTS, "bfloat16")


def operands(rows: int) -> dict[str, Operand]:
    x, up = normal(1, rows, INPUTS), normal(1, rows, INPUTS) + 1
    weight = normal(INPUTS) * 0.1
    return {"norm": Norm(x, weight.astype(jnp.bfloat16), 1e-6), "gate": Gate(x * 3, up)}


@SCHEMES
@ROWS
@pytest.mark.parametrize("before", ["norm", "gate"])
def test_what_is_multiplied_is_made_in_the_same_call(
    before: str, rows: int, scheme: Scheme, registered: Callable[[str], None]
):
    form, weight = prepared(scheme, registered)
    operand = operands(rows)[before]
    written = operand.lower(LoweringContext()) if not isinstance(operand, jax.Array) else operand
    (expected,) = plain_kernel_products(form, written.reshape(rows, -1), [weight])
    (got,) = kernel_products(form, *kernel_arguments(operand, None, rows), [weight])
    # Rounded activations may fall to either of two steps.
    assert np.abs(got - expected).max() <= 4e-3 * np.abs(expected).max()


@SCHEMES
@ROWS
def test_a_product_is_normed_and_added_in_the_same_call(
    rows: int, scheme: Scheme, registered: Callable[[str], None]
):
    form, weight = prepared(scheme, registered)
    x = normal(1, rows, INPUTS)
    after = AddNorm(normal(1, rows, OUTPUTS), normal(OUTPUTS) * 0.1, 1e-6)
    (product,) = plain_kernel_products(form, x.reshape(rows, -1), [weight])
    (got,) = kernel_products(form, *kernel_arguments(x, after, rows), [weight])
    expected = after.apply(product.reshape(1, rows, OUTPUTS))[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_arrays_that_do_not_belong_together_are_refused(registered: Callable[[str], None]):
    form, weight = prepared(Scheme.INT8, registered)
    operand = Norm(normal(1, 3, INPUTS), normal(INPUTS - 1), 1e-6)
    with pytest.raises(jax.errors.JaxRuntimeError, match="arrays do not belong together"):
        jax.block_until_ready(kernel_products(form, *kernel_arguments(operand, None, 3), [weight]))


def prepared(scheme: Scheme, registered: Callable[[str], None]) -> tuple[Form, Any]:
    form = KERNEL_OF[scheme]
    registered(KERNEL_TARGETS[form.__name__])
    return form, weight_of(scheme)
