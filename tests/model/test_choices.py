"""The table of forms: what was measured, what was not, and what may never be chosen."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.config import LayerType
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.forms import (
    FORMS,
    KERNEL_OF,
    Platform,
    float_product,
    integer_product,
    narrow_product,
    row_product,
    usable_forms,
)
from gemma3_export.model.lowering.recipes import Scheme
from gemma3_export.model.lowering.table import (
    SHIPPED,
    AttentionCase,
    Blocks,
    FormTable,
    ProductCase,
    blocks_name,
)

BFLOAT16, FLOAT32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
CASE = ProductCase(Platform.CPU, Scheme.NONE, "bfloat16", 24, 64, 1)
CHUNK = AttentionCase(Platform.CPU, LayerType.FULL, "bfloat16", "bfloat16", 1, 512, 4, 1, 256, 2048)
TABLE = FormTable(((CASE, narrow_product),), ((CHUNK, None),), "measured")


def test_a_measured_case_gets_its_form_and_any_other_the_shipped_one():
    assert TABLE.product(CASE) is narrow_product
    assert SHIPPED.product(CASE) is row_product
    for change in (
        {"platform": Platform.TPU}, {"dtype": "float32"}, {"rows": 2}, {"outputs": 25},
        {"inputs": 65}, {"scheme": Scheme.INT8},
    ):  # fmt: skip
        other = dataclasses.replace(CASE, **change)
        assert TABLE.product(other) is SHIPPED.product(other), change


def test_all_scores_at_once_may_be_what_was_measured_as_best():
    assert SHIPPED.blocks(CHUNK) == Blocks(256, 256)
    assert TABLE.blocks(CHUNK) is None
    longer = dataclasses.replace(CHUNK, slots=4096)
    assert TABLE.blocks(longer) == Blocks(256, 256)


def test_a_table_goes_to_another_process_as_a_value():
    _ = TABLE.product(CASE)
    copy = pickle.loads(pickle.dumps(TABLE))
    assert copy == TABLE
    assert hash(copy) == hash(TABLE)
    assert copy.product(CASE) is narrow_product
    assert copy.blocks(CHUNK) is None


def test_a_context_writes_the_product_in_the_form_of_its_table_and_says_so():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 64)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(24, 64)), jnp.bfloat16)
    results = {}
    for table in (SHIPPED, TABLE):
        context = LoweringContext(table=table)
        results[table.source] = context.product(x, weight, "role")
        assert context.recorder.cases == {CASE}
        assert context.recorder.forms == {"role": table.product(CASE).__name__}
    assert not np.array_equal(results["shipped"], results["measured"])
    np.testing.assert_array_equal(results["measured"], narrow_product(x, weight))
    np.testing.assert_allclose(results["shipped"], results["measured"], atol=0.2)


def test_blocks_are_named_as_people_read_them():
    assert blocks_name(None) == "whole"
    assert blocks_name(Blocks(256, 512)) == "blocks of 256x512"


@pytest.mark.parametrize("rows", [1, 3, 4, 8, 15, 16, 17, 128, 512])
@pytest.mark.parametrize("scheme", list(Scheme))
def test_what_the_shipped_table_says_may_be_chosen(scheme: Scheme, rows: int):
    for platform, dtype, kernels in itertools.product(
        Platform, (BFLOAT16, FLOAT32), (False, scheme in KERNEL_OF)
    ):
        case = ProductCase(platform, scheme, str(dtype), 24, 64, rows, kernels)
        assert SHIPPED.product(case) in usable_forms(scheme, dtype, rows, kernels)


def test_no_form_that_costs_accuracy_may_be_chosen_and_no_kernel_unasked():
    for scheme in Scheme:
        assert integer_product not in usable_forms(scheme, BFLOAT16, 1, True)
        kernels = set(KERNEL_OF.values())
        assert kernels.isdisjoint(usable_forms(scheme, BFLOAT16, 1))
        assert kernels.isdisjoint(usable_forms(scheme, FLOAT32, 1, True))
    for scheme, kernel in KERNEL_OF.items():
        assert kernel in usable_forms(scheme, BFLOAT16, 1, True)
    assert usable_forms(Scheme.NONE, BFLOAT16, 512) == (float_product, narrow_product)
    assert usable_forms(Scheme.NONE, BFLOAT16, 1, True) == FORMS[Scheme.NONE]


@pytest.mark.parametrize("scheme", list(Scheme))
def test_in_float32_no_form_that_may_be_chosen_rounds_an_activation(scheme: Scheme):
    from .quantized_weights import random_weight

    x = np.random.default_rng(3).normal(size=(3, 64)).astype(np.float32)
    weight = jax.random.normal(jax.random.key(0), (24, 64), jnp.float32)
    if scheme != Scheme.NONE:
        weight = random_weight(scheme, 24, 64, "float32")
    exact, *others = [form(jnp.asarray(x), weight) for form in usable_forms(scheme, FLOAT32, 3)]
    for other in others:
        np.testing.assert_allclose(other, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())
