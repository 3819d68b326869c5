"""Whole programs with kernels: what is left of a layer, and whether they give what others do."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from gemma3_export.artifacts.manifest import KERNELS, PORTABLE, Bucket, ProgramName, Tensor
from gemma3_export.export.lower import Job, Lowered, lower
from gemma3_export.export.options import parse_mesh
from gemma3_export.model.lowering.recipes import RECIPES

from ..export.test_compiled import CACHE, CONFIG

RECIPE = pytest.mark.parametrize(
    ("recipe", "kv_dtype"), [("none", None), ("int8", "int8"), ("int4-pure", None)]
)
PROMPT = [5, 17, 230, 99, 64, 12, 201, 77, 3, 150, 31, 8, 40]


@functools.cache
def lowered(name: ProgramName, recipe: str, kv_dtype: str | None, variant: str) -> Lowered:
    tokens = 1 if name == ProgramName.DECODE else 16
    return lower(
        Job(
            config=CONFIG, dtype="bfloat16", mesh=parse_mesh("1x1"), platform="cpu",
            bucket=Bucket(name, 1, tokens, CACHE), recipe=RECIPES[recipe], kv_dtype=kv_dtype,
            variant=variant,
        )
    )  # fmt: skip


def compiled(program: Lowered) -> tuple[jax.stages.Compiled, tuple[Any, ...]]:
    """The program for one device, and the shapes of its weights."""
    exported = jax.export.deserialize(bytearray(program.jaxexport))
    arguments = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    return jax.jit(exported.call, donate_argnums=(2,)).lower(*shapes).compile(), shapes[0]


@pytest.fixture
def with_kernels(registered: Callable[[str], None]) -> Callable[[Lowered], Lowered]:
    """Gives XLA the kernels that a program calls."""

    def prepare(program: Lowered) -> Lowered:
        for target in program.program.custom_calls:
            registered(target)
        return program

    return prepare


@RECIPE
@pytest.mark.parametrize("name", [ProgramName.PREFILL, ProgramName.DECODE, ProgramName.GENERATE])
def test_a_layer_is_five_calls_and_its_cache_is_written_in_place(
    name: ProgramName, recipe: str, kv_dtype: str | None,
    with_kernels: Callable[[Lowered], Lowered],
):  # fmt: skip
    program = with_kernels(lowered(name, recipe, kv_dtype, KERNELS))
    made, _ = compiled(program)
    text = made.as_text()
    # And the head.
    assert text.count('custom_call_target="gemma3_') == 5 * CONFIG.num_hidden_layers + 1
    *layers, tokens = program.program.cache
    assert tokens.name == "cache.tokens"  # 4 bytes a position, which no kernel writes
    for cache in layers:
        shape = ",".join(map(str, cache.shape))
        assert not re.search(rf" = \w+\[{shape}\]\S* (copy|fusion)\(", text)
    assert made.memory_analysis().alias_size_in_bytes == sum(
        cache.nbytes for cache in program.program.cache
    )


@RECIPE
def test_a_prompt_and_the_token_after_it_get_the_logits_of_portable_programs(
    recipe: str, kv_dtype: str | None, with_kernels: Callable[[Lowered], Lowered]
):
    results = {}
    for variant in (PORTABLE, KERNELS):
        prefill, decode = (
            with_kernels(lowered(name, recipe, kv_dtype, variant))
            for name in (ProgramName.PREFILL, ProgramName.DECODE)
        )
        run, shapes = compiled(prefill)
        weights = tuple(random_weight(i, shape, recipe) for i, shape in enumerate(shapes))
        cache = tuple(np.zeros(c.shape, np.dtype(c.dtype)) for c in prefill.program.cache)
        padded = np.array([PROMPT + [0] * 3], np.int32)
        given = {"tokens": padded, "start": [0], "length": [len(PROMPT)]}
        (_, first), cache = run(weights, inputs(prefill.program.inputs, given), cache)
        given = {"token": [7], "position": [len(PROMPT)]}
        (_, second), _ = compiled(decode)[0](weights, inputs(decode.program.inputs, given), cache)
        results[variant] = np.concatenate([first, second])
    portable, kernels = results[PORTABLE], results[KERNELS]
    assert np.abs(portable).max() > 1
    assert not np.array_equal(portable, kernels)
    error = np.linalg.norm(kernels - portable, axis=1) / np.linalg.norm(portable, axis=1)
    assert error.max() < 0.05  # activations are rounded to 8 bits beside integers


def inputs(tensors: tuple[Tensor, ...], given: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """The inputs of a program; those not given are 0, which is greedy."""
    return tuple(np.broadcast_to(np.array(given.get(t.name, 0), t.dtype), t.shape) for t in tensors)


def random_weight(number: int, shape: jax.ShapeDtypeStruct, recipe: str) -> np.ndarray:
    """Numbers with which activations neither vanish nor grow."""
    random = np.random.default_rng(number)
    if shape.dtype == np.int8:
        return random.integers(-127, 128, shape.shape).astype(np.int8)
    if shape.dtype == np.uint8:
        return random.integers(0, 256, shape.shape).astype(np.uint8)
    size = 0.1  # of norms
    if shape.dtype == np.float32:  # scales of int8
        size = 1e-3
    elif len(shape.shape) == 2:  # scales of int4, or weights
        size = 0.015 if recipe == "int4-pure" else 0.06
    return (random.normal(size=shape.shape) * size).astype(shape.dtype)
