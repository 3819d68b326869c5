"""Quantised weights: every form computes the product, and the stored parts are what they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.forms import (
    FORMS,
    KERNEL_TARGETS,
    Platform,
    choose_product,
    unpacked_product,
)
from gemma3_export.model.lowering.quantized import take_rows
from gemma3_export.model.lowering.recipes import Recipe, Scheme
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.sharding import Sharder

from .quantized_weights import dequantized, random_weight
from .small import small_config

SCHEMES = [Scheme.INT8, Scheme.INT4, Scheme.FP8]
# The kernels need a library: tests/kernels.
EVERY_FORM = [
    (scheme, form)
    for scheme in SCHEMES
    for form in FORMS[scheme]
    if form.__name__ not in KERNEL_TARGETS
]
# Of the largest result: rounding activations to bfloat16, to int8, to float8.
ROUNDED = {"widened_product": 4e-3, "integer_product": 2e-2, "eighth_product": 1e-1}


def operands(rows: int, size: int, scheme: Scheme, dtype: str = "float32"):
    x = np.random.default_rng(rows).normal(size=(rows, size)).astype(np.float32)
    weight = random_weight(scheme, 24, size, dtype)
    exact = x.astype(np.float64) @ dequantized(weight.numbers, weight.scale).T
    return jnp.asarray(x), weight, exact


def error(got: jax.Array, exact: np.ndarray) -> float:
    """The largest error, of the largest result."""
    assert got.dtype == jnp.float32
    assert got.shape == exact.shape
    return float(np.abs(np.asarray(got) - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("size", [32, 96, 2048, 6912])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("scheme", "form"), EVERY_FORM)
def test_each_form_is_the_product_with_the_dequantised_weight(scheme, form, rows: int, size: int):
    x, weight, exact = operands(rows, size, scheme)
    assert error(form(x, weight), exact) < ROUNDED.get(form.__name__, 4e-6)


@pytest.mark.parametrize("platform", list(Platform))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 40])
def test_no_activation_is_rounded_where_the_computation_is_in_float32(
    rows: int, scheme: Scheme, platform: Platform
):
    x, weight, exact = operands(rows, 64, scheme)
    assert error(LoweringContext(platform).product(x, weight, "role"), exact) < 2e-6


@pytest.mark.parametrize("platform", list(Platform))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8, 1)])
def test_what_is_chosen_for_bfloat16_takes_any_leading_dimensions(
    shape: tuple[int, int], scheme: Scheme, platform: Platform
):
    x, weight, exact = operands(shape[0] * shape[1], 64, scheme, "bfloat16")
    context = LoweringContext(platform)
    got = context.product(x.reshape(*shape, 64), weight, "role")
    assert got.shape == (*shape, 24)
    assert error(got.reshape(-1, 24), exact) < 1e-1
    assert context.recorder.forms["role"] in {form.__name__ for form in FORMS[scheme]}


def test_a_row_of_zeros_has_a_product_of_zeros():
    for scheme, form in EVERY_FORM:
        x, weight, _ = operands(4, 64, scheme, "bfloat16")
        assert not np.any(np.asarray(form(x * 0, weight)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_of_a_quantised_embedding_are_dequantised(scheme: Scheme):
    weight = random_weight(scheme, 24, 96, "float32")
    index = jnp.asarray([[3, 0], [23, 3]], jnp.int32)
    expected = dequantized(weight.numbers, weight.scale)[np.asarray(index)]
    np.testing.assert_allclose(take_rows(weight, index), expected, rtol=1e-6)


def test_scales_follow_their_matrices_and_nothing_else_is_quantised():
    config = small_config(tie_word_embeddings=False, intermediate_size=64)
    recipe = Recipe(Scheme.INT4, Scheme.INT8)
    plain = CausalLM(config, jnp.dtype(jnp.bfloat16)).parameters()
    model = CausalLM(config, jnp.dtype(jnp.bfloat16), recipe)
    assert model.checkpoint_parameters() == plain
    stored = {spec.name: spec for spec in model.parameters()}
    matrices = {s.name for s in plain if s.name.endswith(("proj.weight", "lm_head.weight"))}
    matrices.add("model.embed_tokens.weight")
    assert stored.keys() == {s.name for s in plain} | {f"{name}_scale" for name in matrices}
    for spec in plain:
        found = stored[spec.name]
        if spec.name not in matrices:
            assert found == spec
        elif "layers" in spec.name:
            assert (found.shape, found.dtype) == ((spec.shape[0], spec.shape[1] // 2), jnp.uint8)
            assert stored[f"{spec.name}_scale"].shape == (spec.shape[0], spec.shape[1] // 32)
        else:
            assert (found.shape, found.dtype) == (spec.shape, jnp.int8)
            assert stored[f"{spec.name}_scale"].shape == spec.shape[:1]


def test_a_mesh_cuts_scales_where_it_cuts_their_numbers_and_groups_stay_whole():
    config = small_config(hidden_size=64, intermediate_size=192, head_dim=32, num_attention_heads=4)
    model = CausalLM(config, jnp.dtype(jnp.bfloat16), Recipe(Scheme.INT4, Scheme.INT4))
    sharder = Sharder({"data": 2, "model": 4})
    specs = {p.name: sharder.spec(p.name, p.axes, p.counts) for p in model.parameters()}
    for name, spec in specs.items():
        if name.endswith("_scale"):
            assert spec == specs[name.removesuffix("_scale")], name
    # 128 inputs are 4 groups, one a device; 192 are 6, which 4 devices cannot share.
    assert tuple(specs["model.layers.0.self_attn.o_proj.weight"]) == (None, "model")
    assert tuple(specs["model.layers.0.mlp.down_proj.weight"]) == (None, None)
    assert tuple(specs["model.layers.0.mlp.up_proj.weight"]) == ("model", None)


def test_the_platform_the_rows_and_the_kernels_decide_the_form():
    bfloat16 = jnp.dtype(jnp.bfloat16)

    def chosen(platform: Platform, rows: int, scheme: Scheme, kernels: bool = False) -> str:
        return choose_product(platform, rows, scheme, bfloat16, kernels).__name__

    assert chosen(Platform.CPU, 3, Scheme.INT8) == "scaled_row_product"
    assert chosen(Platform.CPU, 512, Scheme.INT8) == "widened_product"
    assert chosen(Platform.TPU, 1, Scheme.INT8) == "widened_product"
    assert chosen(Platform.CPU, 1, Scheme.INT4) == "grouped_row_product"
    assert chosen(Platform.CPU, 8, Scheme.INT4) == "unpacked_product"
    assert chosen(Platform.CPU, 8, Scheme.INT4, kernels=True) == "int4_kernel"
    assert chosen(Platform.CPU, 512, Scheme.INT4, kernels=True) == "int4_kernel"
    assert chosen(Platform.CPU, 512, Scheme.FP8, kernels=True) == "eighth_product"
    assert (
        choose_product(Platform.CPU, 512, Scheme.INT4, jnp.dtype(jnp.float32), kernels=True)
        == unpacked_product
    )
