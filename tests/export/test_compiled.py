"""What XLA:CPU makes of decode and generate: weights read where they lie, caches written in place.

Speed hangs on this and shows nowhere else: one careless form and every step first writes a
converted copy of a weight, or of a whole cache, ten times slower with the same numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import NamedTuple

import jax
import numpy as np
import pytest
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export.lower import Job, lower
from gemma3_export.export.options import parse_mesh
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.lowering.recipes import RECIPES

CONFIG = Gemma3TextConfig(
    vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=1, head_dim=64, query_pre_attn_scalar=64,
    sliding_window=48, sliding_window_pattern=3, max_position_embeddings=4096,
)  # fmt: skip
CACHE = 192  # no cache has as many numbers as a weight or as the logits

# These make no new array: they name, choose or pass on one that is there.
_NAMING = ("parameter", "get-tuple-element", "bitcast", "tuple", "while", "conditional", "call")


class Compiled(NamedTuple):
    text: str
    weights: set[int]
    """Numbers in each matrix."""
    caches: set[int]
    """Numbers in each key or value of a layer."""
    cache_bytes: int
    aliased_bytes: int


@functools.lru_cache
def compiled(
    name: ProgramName, dtype: str, batch: int, slots: int = CACHE, recipe: str = "none",
    kv_dtype: str | None = None, periods: int = 1,
) -> Compiled:  # fmt: skip
    """The program as the runtime compiles it: for one device, from the exported bytes.

    `periods` repeats the layers of CONFIG.
    """
    bucket = Bucket(name, batch, 1 if name == ProgramName.DECODE else 16, slots)
    lowered = lower(
        Job(
            config=dataclasses.replace(CONFIG, num_hidden_layers=3 * periods, layer_types=()),
            dtype=dtype,
            mesh=parse_mesh("1x1"),
            platform="cpu",
            bucket=bucket,
            recipe=RECIPES[recipe],
            kv_dtype=kv_dtype,
        )
    )
    exported = jax.export.deserialize(bytearray(lowered.jaxexport))
    arguments = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    result = jax.jit(exported.call, donate_argnums=(2,)).lower(*shapes).compile()
    weights, _, cache = shapes
    layers = cache[:-1]  # the last are the tokens, 4 bytes a position
    return Compiled(
        result.as_text(),
        {math.prod(w.shape) for w in weights if len(w.shape) == 2},
        {math.prod(c.shape) for c in layers},
        sum(math.prod(c.shape) * c.dtype.itemsize for c in cache),
        result.memory_analysis().alias_size_in_bytes,
    )


def made(program: Compiled, sizes: set[int]) -> list[str]:
    """Instructions outside fusions that make an array of one of these sizes."""
    found, inside_fusion = [], False
    for line in program.text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside_fusion = re.match(r"%?(fused|wrapped)_\w*computation", line) is not None
        match = re.match(r"\s+(?:ROOT )?(%\S+) = (\w+)\[([\d,]+)\]\S* ([\w-]+)\(", line)
        if match is None or inside_fusion or match[4] in _NAMING:
            continue
        if math.prod(map(int, match[3].split(","))) in sizes:
            found.append(f"{match[1]} = {match[2]}[{match[3]}] {match[4]}")
    return found


STEPS = [ProgramName.DECODE, ProgramName.GENERATE]
CASES = [(dtype, batch) for dtype in ("bfloat16", "float32") for batch in (1, 8)]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(("dtype", "batch"), CASES)
def test_no_weight_is_converted_transposed_or_copied(name: ProgramName, dtype: str, batch: int):
    program = compiled(name, dtype, batch)
    assert program.weights == {4096 * 256, 1024 * 256, 256 * 256, 64 * 256}
    assert not program.weights & program.caches
    assert made(program, program.weights) == []


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(("dtype", "batch"), CASES)
def test_no_cache_is_copied(name: ProgramName, dtype: str, batch: int):
    program = compiled(name, dtype, batch)
    assert [line for line in made(program, program.caches) if line.endswith(" copy")] == []
    assert program.aliased_bytes == program.cache_bytes


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_for_one_row_nothing_as_large_as_a_cache_is_made_but_its_update_in_place(
    name: ProgramName, dtype: str
):
    program = compiled(name, dtype, 1)
    updates = made(program, program.caches)
    assert len(updates) == 2 * CONFIG.num_hidden_layers
    # A slice update of 16-bit floats would go through float32, and rewrite all of the cache.
    update = "select_bitcast-convert" if dtype == "bfloat16" else "dynamic-update-slice"
    assert all(update in line for line in updates), updates


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("batch", [1, 8])
def test_no_cache_goes_through_float32_even_inside_a_kernel(name: ProgramName, batch: int):
    """A scatter or a slice update of bfloat16 would: there and back, in every layer."""
    program = compiled(name, "bfloat16", batch)
    found = re.findall(r"= f32\[([\d,]+)\]", program.text)
    assert not program.caches & {math.prod(map(int, shape.split(","))) for shape in found}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_long_cache_is_read_block_by_block_without_another_copy_of_it(dtype: str):
    program = compiled(ProgramName.DECODE, dtype, 1, slots=1536)
    # Of integers are the places where a penalty of repetitions would be written.
    found = [line for line in made(program, program.caches) if "= s32[" not in line]
    assert len(found) == 2 * CONFIG.num_hidden_layers, found
    update = "select_bitcast-convert" if dtype == "bfloat16" else "dynamic-update-slice"
    assert all(update in line for line in found), found
    assert re.search(r"\[1,1,512,64\]|\[512,64\]", program.text)
    assert program.aliased_bytes == program.cache_bytes


_MOVES = {"dot", "parameter", "bitcast", "convert", "copy", "transpose"}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_o_proj_and_down_proj_do_not_recompute_their_operand_for_every_output(
    name: ProgramName, dtype: str
):
    """XLA:CPU pulls the producer of a vector into its product, where it runs once per row."""
    computations = re.split(r"\n(?=%?\w[^\n]*\{\n)", compiled(name, dtype, 1).text)
    fused = [text for text in computations if re.match(r"%?fused_computation", text)]
    operations = [set(re.findall(r"\]\S* ([\w-]+)\(", text)) for text in fused]
    plain = [found for found in operations if {"dot", "transpose"} <= found <= _MOVES]
    assert len(plain) >= 2 * CONFIG.num_hidden_layers


MATRICES = {4096 * 256, 1024 * 256, 256 * 256, 64 * 256}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("recipe", ["int8", "int4-pure"])
def test_no_quantised_weight_is_unpacked_or_converted_whole(name: ProgramName, recipe: str):
    program = compiled(name, "bfloat16", 1, recipe=recipe)
    assert made(program, MATRICES | {size // 2 for size in MATRICES}) == []


@pytest.mark.parametrize("name", STEPS)
def test_no_quantised_cache_is_copied(name: ProgramName):
    program = compiled(name, "bfloat16", 1, recipe="int8", kv_dtype="int8")
    assert [line for line in made(program, program.caches) if line.endswith(" copy")] == []
    assert program.aliased_bytes == program.cache_bytes


def kernels(program: Compiled) -> int:
    """Instructions outside fusions that make an array of more than one number: a kernel each."""
    count, inside_fusion = 0, False
    for line in program.text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside_fusion = re.match(r"%?(fused|wrapped)_\w*computation", line) is not None
        match = re.match(r"\s+(?:ROOT )?%\S+ = (\(.*?\)|\S+) ([\w-]+)\(", line)
        if match is None or inside_fusion or match[2] in (*_NAMING, "constant"):
            continue
        count += re.search(r"\[\d", match[1]) is not None
    return count


# Each costs about 10 microseconds whatever it does. Seen with jaxlib 0.10.2: 65, 68 and 99.
KERNELS_OF_A_LAYER = {"none": 67, "int8": 70, "int4-pure": 101}


@pytest.mark.parametrize("recipe", KERNELS_OF_A_LAYER)
def test_a_layer_takes_no_more_kernels_than_it_did(recipe: str):
    period = CONFIG.sliding_window_pattern
    assert period == CONFIG.num_hidden_layers
    one, two = (
        kernels(compiled(ProgramName.DECODE, "bfloat16", 1, recipe=recipe, periods=periods))
        for periods in (1, 2)
    )
    assert 30 < (two - one) / period <= KERNELS_OF_A_LAYER[recipe]


@pytest.mark.parametrize("name", [ProgramName.PREFILL, *STEPS])
def test_each_kind_of_layer_calculates_its_rope_tables_once(name: ProgramName):
    """Left to itself XLA calculates them again for every layer's queries and keys."""
    text = compiled(name, "bfloat16", 1).text
    assert [len(re.findall(rf" {function}\(", text)) for function in ("cosine", "sine")] == [2, 2]


WIDE = dataclasses.replace(
    CONFIG, vocab_size=512, hidden_size=512, intermediate_size=4096, layer_types=()
)


def temporaries(
    config: Gemma3TextConfig, bucket: Bucket, recipe: str, mesh: str = "1x1",
    dtype: str = "bfloat16",
) -> int:  # fmt: skip
    """Bytes that a program takes beside arguments and results, on each device of the mesh."""
    job = Job(config, dtype, parse_mesh(mesh), "cpu", bucket, recipe=RECIPES[recipe])
    exported = jax.export.deserialize(bytearray(lower(job).jaxexport))
    axes = parse_mesh(mesh).axes
    devices = np.array(jax.devices()[: exported.nr_devices]).reshape([axis.size for axis in axes])
    shardings = exported.in_shardings_jax(jax.sharding.Mesh(devices, [axis.name for axis in axes]))
    flat = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)
        for aval, sharding in zip(exported.in_avals, shardings, strict=True)
    ]
    arguments = jax.tree.unflatten(exported.in_tree, flat)[0]
    compiled = jax.jit(exported.call, donate_argnums=(2,)).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("recipe", "mesh", "batch", "dtype"),
    [
        ("int8", "1x1", 1, "bfloat16"), ("int8", "1x1", 1, "float32"),
        ("int4", "1x1", 1, "bfloat16"), ("int8", "2x4", 1, "bfloat16"),
        ("int8", "2x4", 2, "bfloat16"),
    ],
)  # fmt: skip
def test_weights_are_widened_layer_by_layer(recipe: str, mesh: str, batch: int, dtype: str):
    """XLA:CPU widens all of them before it uses the first, unless each waits for its operand."""
    bucket = Bucket(ProgramName.PREFILL, batch, 32, CACHE)
    few, many = (
        temporaries(
            dataclasses.replace(WIDE, num_hidden_layers=layers, layer_types=()),
            bucket,
            recipe,
            mesh,
            dtype,
        )
        for layers in (2, 6)
    )
    matrices = 3 * WIDE.hidden_size * WIDE.intermediate_size // parse_mesh(mesh).axes[1].size
    assert many - few < matrices, (few, many)  # widened, the three of one layer take twice that


def test_the_head_over_the_vocabulary_is_widened_in_parts():
    config = dataclasses.replace(WIDE, vocab_size=1 << 19, num_hidden_layers=1, layer_types=())
    head = config.vocab_size * config.hidden_size
    taken = temporaries(config, Bucket(ProgramName.DECODE, 4, 1, CACHE), "int8")
    assert taken < head // 4, taken  # widened, it takes 2 bytes a number
