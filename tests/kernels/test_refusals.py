"""Kernels called by a hostile program through XLA: errors of the call, and numbers that stay so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

F32 = jnp.float32
B, T, N, K, S, H = 1, 40, 4, 1, 64, 64
"""Sizes of the calls below: README of model/ has the letters."""


def attend(
    T: int = T, width: int = N * H, value: float = 1.0, start: int = 0, length: int = T,
    kept: Any = jnp.bfloat16, aliased: bool = True, **numbers: float,
) -> list[np.ndarray]:  # fmt: skip
    """gemma3_cached_attention of arrays full of ones; the results."""
    cache = jnp.zeros((B, K, S, H), kept)
    scales = [jnp.ones((B, K, S), F32)] * 2 if kept == jnp.int8 else []
    arguments = [
        jnp.ones((B, T, width), F32), jnp.ones((B, T, K * H), F32),
        jnp.full((B, T, K * H), value, F32), jnp.zeros(H, F32), jnp.zeros(H, F32),
        jnp.ones((B, T, H // 2), F32), jnp.zeros((B, T, H // 2), F32),
        jnp.array([start], jnp.int32), jnp.array([length], jnp.int32), cache, cache, *scales,
    ]  # fmt: skip
    results = [jax.ShapeDtypeStruct((B, T, width), F32)]
    results += [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments[9:]]
    aliases = {9 + i: 1 + i for i in range(len(results) - 1)} if aliased else {}
    call = jax.ffi.ffi_call("gemma3_cached_attention", results, input_output_aliases=aliases)
    attributes = {"epsilon": 1e-6, "scale": 0.1, "cap": 0.0, "reach": 30, **numbers}
    typed = {
        name: np.int32(number) if name == "reach" else np.float32(number)
        for name, number in attributes.items()
    }
    run = jax.jit(lambda *a: call(*a, ring=True, grouped=False, **typed))
    return [np.asarray(result) for result in run(*arguments)]


@pytest.fixture
def attention(registered: Callable[[str], None]) -> None:
    registered("gemma3_cached_attention")


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize(
    "numbers",
    [
        {"reach": 0}, {"reach": -1}, {"reach": -100000}, {"reach": -(2**31)},
        {"cap": NAN}, {"cap": INFINITE}, {"cap": -1.0}, {"scale": NAN}, {"scale": -INFINITE},
        {"epsilon": NAN}, {"epsilon": INFINITE}, {"epsilon": -1.0},
        {"width": 0}, {"width": 0, "T": 1}, {"width": 96}, {"T": 0}, {"aliased": False},
    ],
    ids=str,
)  # fmt: skip
def test_attention_that_cannot_be_is_refused(numbers: dict[str, Any]):
    with pytest.raises(jax.errors.JaxRuntimeError, match="or a number is out of range"):
        attend(**numbers)


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("start", [-5, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("length", [-1, 0, 1, T, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("tokens", [1, T])
def test_any_start_and_length_leave_the_result_what_it_is_of_ones(
    start: int, length: int, tokens: int
):
    mixed = attend(T=tokens, start=start, length=length)[0][0]
    valid = min(max(length, 0), tokens)
    # Keys of the cache are zeros, so that a token never sees less than a part of its own value.
    assert np.all((mixed[:valid] > 0) & (mixed[:valid] <= 1.001))
    assert np.all(mixed[valid:] == 0)


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_a_cache_of_int8_keeps_that_a_number_was_not_finite(value: float):
    _, _, values, _, scales = attend(value=value, kept=jnp.int8)
    written = np.isin(np.arange(S), np.arange(T))
    assert np.all(~np.isfinite(scales[0, 0, written]))
    assert np.all(values[0, 0, written] == 0)
    assert np.all(scales[0, 0, ~written] == 1)


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize(
    ("inputs", "outputs", "epsilon", "after"),
    [(0, 64, 1e-6, ""), (64, 0, 1e-6, ""), (64, 64, NAN, ""), (64, 64, INFINITE, ""),
     (64, 64, -1.0, ""), (0, 64, 1e-6, "norm"), (48, 64, 1e-6, "")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_products_that_cannot_be_are_refused(
    kind: str, inputs: int, outputs: int, epsilon: float, after: str, rows: int,
    registered: Callable[[str], None],
):  # fmt: skip
    registered(f"gemma3_{kind}_linear")
    arguments = [jnp.ones((rows, inputs), F32)]
    if after:
        arguments += [jnp.ones(outputs, F32), jnp.ones((rows, outputs), F32)]
    arguments += {
        "bfloat16": [jnp.ones((outputs, inputs), jnp.bfloat16)],
        "int8": [jnp.ones((outputs, inputs), jnp.int8), jnp.ones(outputs, F32)],
        "int4": [jnp.ones((outputs, inputs // 2), jnp.uint8),
                 jnp.ones((outputs, inputs // 32), jnp.bfloat16)],
    }[kind]  # fmt: skip
    results = [jax.ShapeDtypeStruct((rows, outputs), F32)]
    # An empty result that nobody needs would not be asked for.
    call = jax.ffi.ffi_call(f"gemma3_{kind}_linear", results, has_side_effect=True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="or a number is out of range"):
        jax.jit(lambda *a: call(*a, before="", after=after, epsilon=np.float32(epsilon)))(
            *arguments
        )[0].block_until_ready()
