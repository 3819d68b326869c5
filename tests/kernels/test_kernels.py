"""C++ kernels: the same products as the portable forms, chosen where they are there."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.artifacts import kernels
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.export import tuning
from gemma3_export.export.pipeline import export
from gemma3_export.model.lowering.forms import (
    KERNEL_TARGETS,
    Platform,
    bfloat16_kernel,
    int4_kernel,
    int8_kernel,
    plain_kernel_products,
    quantized_rows,
)
from gemma3_export.model.lowering.recipes import Scheme
from gemma3_export.model.lowering.table import ProductCase
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.score import score

from ..goldens.tiny import write_checkpoint
from ..model.quantized_weights import dequantized, random_weight
from ..parity.bundles import make_bundle, options, quiet

TOKENS = [2, 17, 230, 5, 99, 64, 5, 12, 201, 77, 3, 150, 31]


@pytest.fixture(scope="session", params=["none", "int8", "int4-pure"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    checkpoint = write_checkpoint("default", folder / "checkpoint")
    return make_bundle(
        checkpoint, folder / "bundle", dtype="bfloat16", quantize=request.param, kernels=True,
        prefill=(2,),
    )  # fmt: skip


@pytest.mark.parametrize("compared", ["dots", "tiles", "layer"])
def test_every_form_for_this_processor_gives_what_plain_code_gives(compared: str, built: Path):
    program = built / "programs" / f"compare_{compared}"
    run = subprocess.run([program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


FORMS = {
    Scheme.NONE: bfloat16_kernel,
    Scheme.INT8: int8_kernel,
    Scheme.INT4: int4_kernel,
}


def operands(scheme: Scheme, outputs: int, inputs: int) -> tuple[Any, np.ndarray]:
    """A random weight as it is stored, and its values."""
    if scheme == Scheme.NONE:
        values = np.random.default_rng(outputs).normal(size=(outputs, inputs))
        weight = jnp.asarray(values, jnp.bfloat16)
        return weight, np.asarray(weight, np.float64)
    weight = random_weight(scheme, outputs, inputs, "bfloat16")
    return weight, dequantized(weight.numbers, weight.scale)


def few_rows(scheme: Scheme, x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The product with activations rounded as kernels do for few rows."""
    if scheme == Scheme.NONE:
        return x.astype(np.float64) @ values.T
    numbers, scale = quantized_rows(jnp.asarray(x).reshape(len(x), -1, 32))
    rounded = (np.asarray(numbers, np.float64) * np.asarray(scale, np.float64)).reshape(x.shape)
    return rounded @ values.T


def many_rows(scheme: Scheme, x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The product with activations rounded as kernels do for many rows, and weights of int4."""
    if scheme == Scheme.INT4:
        values = as_bfloat16(values)
    return as_bfloat16(x) @ values.T


def as_bfloat16(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.float32).astype(jnp.bfloat16).astype(np.float64)


@pytest.mark.parametrize("scheme", FORMS)
@pytest.mark.parametrize(
    "shape",
    [(1, 7, 64), (3, 16, 96), (5, 130, 640), (17, 100, 32), (133, 66, 2048), (500, 200, 96)],
)
def test_a_kernel_is_the_product_with_rounded_activations(
    shape: tuple[int, int, int], scheme: Scheme, library: Path, environment
):
    environment(str(library))
    assert kernels.register_kernel(KERNEL_TARGETS[FORMS[scheme].__name__])
    rows, outputs, inputs = shape
    weight, values = operands(scheme, outputs, inputs)
    x = np.random.default_rng(rows).normal(size=(rows, inputs)).astype(np.float32)
    x[0] *= np.repeat(np.geomspace(1e-3, 1e3, inputs // 32), 32)  # each group has its own scale
    got = np.asarray(FORMS[scheme](jnp.asarray(x), weight))
    few, many = few_rows(scheme, x, values), many_rows(scheme, x, values)
    largest = np.abs(many).max(1, keepdims=True)
    # From how many rows on they are many depends on the processor. Of 8 bits, a number that lies
    # between two steps may fall to either.
    is_few = np.all(np.abs(got - few) <= 2e-3 * largest)
    assert is_few or np.all(np.abs(got - many) <= 1e-5 * largest)


@pytest.mark.parametrize("scheme", FORMS)
@pytest.mark.parametrize("rows", [3, 50])
def test_a_kernel_takes_several_matrices_of_unequal_size_at_once(
    rows: int, scheme: Scheme, library: Path, environment
):
    environment(str(library))
    assert kernels.register_kernel(KERNEL_TARGETS[FORMS[scheme].__name__])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(rows, 640)).astype(np.float32))
    weights = [operands(scheme, outputs, 640)[0] for outputs in (1024, 2, 257)]
    together = plain_kernel_products(FORMS[scheme], x, weights)
    for made, weight in zip(together, weights, strict=True):
        np.testing.assert_array_equal(made, FORMS[scheme](x, weight))


def test_a_kernel_refuses_arrays_that_do_not_belong_together(library: Path, environment):
    environment(str(library))
    assert kernels.register_kernel("gemma3_int8_linear")
    weight = random_weight(Scheme.INT8, 64, 96, "bfloat16")
    wrong = dataclasses.replace(weight, scale=jnp.ones(63))
    with pytest.raises(jax.errors.JaxRuntimeError, match="arrays do not belong together"):
        int8_kernel(jnp.ones((1, 96)), wrong).block_until_ready()


def test_programs_with_kernels_are_taken_where_the_kernels_are(
    bundle: Path, library: Path, environment
):
    variants = {p.variant for p in Bundle.open(bundle).manifest.programs}
    assert variants == {"portable", "kernels"}
    logprobs = {}
    for value in ("none", str(library)):
        environment(value)
        model = LoadedModel.load(bundle, "1x1", "cpu")
        taken = {program.variant for program in model._programs.values()}
        assert taken == {"portable" if value == "none" else "kernels"}
        logprobs[value] = np.asarray(score(model, [TOKENS])[0].logprobs)
    portable, with_kernels = logprobs.values()
    assert not np.array_equal(portable, with_kernels)
    # A random model makes much of little: its activations are rounded to 8 bits in each product.
    assert np.abs(with_kernels - portable).mean() < 0.2


def test_a_kernel_is_measured_where_it_is_and_left_to_the_shipped_table_where_not(
    library: Path, environment, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tuning, "_CASE_SECONDS", 0.01)
    case = ProductCase(Platform.CPU, Scheme.INT4, "bfloat16", 64, 128, 2, kernels=True)
    environment("none")
    assert tuning.measure_cases([case], 1, quiet) == []
    environment(str(library))
    (choice,) = tuning.measure_cases([case], 1, quiet)
    assert choice.case == case
    assert set(choice.seconds) == {"grouped_row_product", "unpacked_product", "int4_kernel"}


def test_a_library_without_the_kernel_leaves_the_portable_program(
    bundle: Path, tmp_path: Path, environment
):
    empty, other = tmp_path / "empty.c", tmp_path / "other.so"
    empty.write_text("")
    subprocess.run(["gcc", "-shared", "-o", other, empty], check=True)
    environment(str(other))
    model = LoadedModel.load(bundle, "1x1", "cpu")
    assert {program.variant for program in model._programs.values()} == {"portable"}


def test_a_library_that_cannot_be_loaded_is_the_users_mistake(
    bundle: Path, tmp_path: Path, environment
):
    environment(str(tmp_path / "missing.so"))
    with pytest.raises(UsageError, match=r"missing\.so: expected a library of kernels.*make nat"):
        LoadedModel.load(bundle, "1x1", "cpu")


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float32"}, {"platforms": ("tpu",)}, {"meshes": ("2x4",)}],
    ids=str,
)
def test_kernels_are_refused_where_no_program_could_call_them(changes: dict, tmp_path: Path):
    checkpoint = write_checkpoint("default", tmp_path / "checkpoint")
    meshes = changes.pop("meshes", ("1x1",))
    wanted = {"dtype": "bfloat16", "quantize": "int4", "kernels": True} | changes
    with pytest.raises(UsageError) as refused:
        export(dataclasses.replace(options(checkpoint, tmp_path / "out", *meshes), **wanted), quiet)
    assert "--kernels: expected --dtype bfloat16" in refused.value.for_command
    assert not (tmp_path / "out").exists()
