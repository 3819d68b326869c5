"""C++ kernels: the same products as the portable forms, chosen where they are there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.artifacts import kernels
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.export import tuning
from gemma3_export.export.pipeline import export
from gemma3_export.model.choices import ProductCase
from gemma3_export.model.forms import Platform, int4_kernel, quantized_rows
from gemma3_export.model.quantized import Scheme
from gemma3_export.runtime.model import LoadedModel
from gemma3_export.runtime.score import score

from ..goldens.tiny import write_checkpoint
from ..model.quantized_weights import dequantized, random_weight
from ..parity.bundles import make_bundle, options, quiet

SOURCES = Path(__file__).resolve().parents[2] / "runtime" / "native" / "kernels"
TOKENS = [2, 17, 230, 5, 99, 64, 5, 12, 201, 77, 3, 150, 31]


def build(output: Path, *sources: Path, flags: tuple[str, ...] = ()) -> Path:
    compiler = [os.environ.get("CXX", "g++"), "-std=c++17", "-O2", "-I", str(SOURCES)]
    include = ["-isystem", jax.ffi.include_dir()]
    subprocess.run([*compiler, *include, *flags, *map(str, sources), "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kernels") / "libgemma3_kernels.so"
    return build(output, *sorted(SOURCES.glob("*.cc")), flags=("-shared", "-fPIC"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    checkpoint = write_checkpoint("default", folder / "checkpoint")
    return make_bundle(
        checkpoint, folder / "bundle", dtype="bfloat16", quantize="int4-pure", kernels=True,
        prefill=(16,),
    )  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    """Sets GEMMA3_KERNELS and forgets what an earlier test found."""

    def use(value: str) -> None:
        monkeypatch.setenv(kernels.ENVIRONMENT, value)
        kernels.register_kernel.cache_clear()

    yield use
    kernels.register_kernel.cache_clear()


def test_every_form_for_this_processor_gives_what_plain_code_gives(tmp_path: Path):
    program = build(tmp_path / "compare", Path(__file__).parent / "compare_dots.cc",
                    SOURCES / "dots.cc")  # fmt: skip
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("shape", [(1, 7, 64), (3, 16, 96), (5, 130, 640), (133, 66, 2048)])
def test_a_kernel_is_the_product_with_rounded_activations(
    shape: tuple[int, int, int], library: Path, environment
):
    environment(str(library))
    assert kernels.register_kernel("gemma3_int4_product")
    rows, outputs, inputs = shape
    weight = random_weight(Scheme.INT4, outputs, inputs, "bfloat16")
    x = np.random.default_rng(rows).normal(size=(rows, inputs)).astype(np.float32)
    x[0] *= np.repeat(np.geomspace(1e-3, 1e3, inputs // 32), 32)  # each group has its own scale
    numbers, scale = quantized_rows(jnp.asarray(x).reshape(rows, -1, 32))
    rounded = np.asarray(numbers, np.float64) * np.asarray(scale, np.float64)
    exact = rounded.reshape(rows, inputs) @ dequantized(weight.numbers, weight.scale).T
    got = np.asarray(int4_kernel(jnp.asarray(x), weight))
    # A number that lies between two steps may fall to either.
    largest = np.abs(exact).max(1, keepdims=True)
    assert np.all(np.abs(got - exact) <= 2e-3 * largest)


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
    assert np.abs(with_kernels - portable).mean() < 0.1


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
    empty = tmp_path / "empty.cc"
    empty.write_text("")
    environment(str(build(tmp_path / "other.so", empty, flags=("-shared", "-fPIC"))))
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
    [{"quantize": "int8"}, {"dtype": "float32"}, {"platforms": ("tpu",)}, {"meshes": ("2x4",)}],
    ids=str,
)
def test_kernels_are_refused_where_no_program_could_call_them(changes: dict, tmp_path: Path):
    import dataclasses

    checkpoint = write_checkpoint("default", tmp_path / "checkpoint")
    meshes = changes.pop("meshes", ("1x1",))
    wanted = {"dtype": "bfloat16", "quantize": "int4", "kernels": True} | changes
    with pytest.raises(UsageError, match="--kernels: expected --quantize int4"):
        export(dataclasses.replace(options(checkpoint, tmp_path / "out", *meshes), **wanted), quiet)
    assert not (tmp_path / "out").exists()
