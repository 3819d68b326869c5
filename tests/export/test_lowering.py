"""Lowering for platforms and meshes that are not here."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import pytest
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export.lower import Job, Lowered, lower
from gemma3_export.export.options import parse_mesh
from gemma3_export.export.pinned import pinned
from gemma3_export.model.config import Gemma3TextConfig

from ..model.small import SMALL, small_config
from .conftest import Command
from .exporting import JAX_VARIABLES

GENERATE = Bucket(ProgramName.GENERATE, 2, 4, 16)


def job(
    mesh: str = "1x1", platform: str = "cpu", bucket: Bucket = GENERATE,
    config: Gemma3TextConfig = SMALL, dtype: str = "bfloat16",
) -> Job:  # fmt: skip
    return Job(config=config, dtype=dtype, mesh=parse_mesh(mesh), platform=platform, bucket=bucket)


def opened(lowered: Lowered) -> jax.export.Exported:
    return jax.export.deserialize(bytearray(lowered.jaxexport))


@pytest.mark.parametrize("mesh", ["1x1", "2x4", "16x32"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_no_device_of_the_platform_is_needed_nor_as_many_as_the_mesh_has(platform: str, mesh: str):
    assert {device.platform for device in jax.devices()} == {"cpu"}
    lowered = lower(job(mesh, platform))
    exported = opened(lowered)
    assert exported.platforms == (platform,)
    assert exported.nr_devices == parse_mesh(mesh).devices
    assert lowered.stablehlo.startswith(b"ML\xefR")  # MLIR bytecode
    assert lowered.program.stablehlo == f"programs/{mesh}/{platform}/generate-b2-t4-c16.mlirbc"


def test_programs_hold_no_weights():
    small = lower(job())
    wide = lower(job(config=small_config(vocab_size=9600, intermediate_size=4800)))
    assert len(wide.stablehlo) < len(small.stablehlo) * 1.1


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_a_manifest_record_matches_what_was_lowered(mesh: str):
    lowered = lower(job(mesh))
    exported, program = opened(lowered), lowered.program
    weights = len(exported.in_avals) - len(program.inputs) - len(program.cache)
    assert weights == 1 + 13 * SMALL.num_hidden_layers + 1
    records = [*program.inputs, *program.cache]
    for aval, tensor in zip(exported.in_avals[weights:], records, strict=True):
        assert (aval.shape, str(aval.dtype)) == (tensor.shape, tensor.dtype), tensor.name
    for aval, tensor in zip(exported.out_avals, [*program.outputs, *program.cache], strict=True):
        assert (aval.shape, str(aval.dtype)) == (tensor.shape, tensor.dtype), tensor.name
    donated = [(alias.argument, alias.result) for alias in program.aliases]
    first, outputs = weights + len(program.inputs), len(program.outputs)
    assert donated == [(first + i, outputs + i) for i in range(len(program.cache))]
    assert exported.mlir_module().count("tf.aliasing_output") == len(program.cache)


ALONE = """
import hashlib, pickle, sys
import jax
from gemma3_export.export.lower import lower
result = lower(pickle.load(sys.stdin.buffer))
assert jax.device_count() == 1
print(hashlib.sha256(result.stablehlo + result.jaxexport).hexdigest())
"""


@pytest.mark.parametrize(
    "variables",
    [{}, JAX_VARIABLES, {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}],
    ids=["plain", "JAX told otherwise", "XLA told otherwise"],
)
def test_one_device_lowers_a_mesh_of_eight_to_the_bytes_that_eight_devices_give(
    variables: dict[str, str],
):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    } | variables
    run = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment, capture_output=True,
        input=pickle.dumps(job("2x4")),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode()
    assert jax.device_count() == 8
    here = lower(job("2x4"))
    assert (
        run.stdout.decode().strip() == hashlib.sha256(here.stablehlo + here.jaxexport).hexdigest()
    )


def told() -> dict[str, Any]:
    """Everything that JAX is told in this thread."""
    names = [name for name in jax.config.values if hasattr(jax.config, name)]
    return {name: getattr(jax.config, name) for name in names}


def test_a_process_that_computes_otherwise_lowers_the_same_bytes_and_goes_on_as_before():
    expected = lower(job())
    with (
        jax.enable_x64(True), jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"), jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False), jax.default_matmul_precision("highest"),
        jax.debug_nans(True), jax.disable_jit(),
    ):  # fmt: skip
        jax.config.update("jax_random_seed_offset", 7)
        jax.config.update("jax_traceback_in_locations_limit", 3)
        try:
            before = told()
            got = lower(job())
            assert told() == before
        finally:
            jax.config.update("jax_random_seed_offset", 0)
            jax.config.update("jax_traceback_in_locations_limit", 100)
    assert (got.stablehlo, got.jaxexport) == (expected.stablehlo, expected.jaxexport)


def test_a_lowering_that_fails_leaves_jax_as_it_was():
    before = told()
    with pytest.raises(AssertionError, match="no such dtype"):
        _fail_inside(before)
    assert told() == before


@pinned()
def _fail_inside(before: dict[str, Any]) -> None:
    assert told() != before
    raise AssertionError("no such dtype")


def test_threads_lower_one_after_the_other_and_leave_jax_as_it_was():
    before = told()
    expected = lower(job())
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lower, [job()] * 3))
    assert {result.jaxexport for result in results} == {expected.jaxexport}
    assert told() == before


@pytest.fixture(scope="module")
def abstract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published 1B with room for 32,768 positions, and no weights."""
    out = tmp_path_factory.mktemp("abstract") / "bundle"
    command = "from gemma3_export.export.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", command, "--abstract", "1b", "--mesh", "1x1", "--cache", "32768",
         "--prefill", "512", "--platform", "tpu", "--jobs", "2", "--out", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert "programs only, no weights" in run.stdout
    return out


def main_of(
    module: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
) -> tuple[int, str, str]:  # fmt: skip
    """Run a command's main in this process: (exit status, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"gemma3_export.{module}").main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_rings_take_a_sixth_of_a_uniform_cache_in_the_1b(
    abstract: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    status, out, _ = main_of(
        "runtime.commands.bundle", monkeypatch, capsys, "inspect", str(abstract), "--json"
    )
    assert status == 0
    summary = json.loads(out)
    assert summary["abstract"] is True
    assert summary["model"]["parameters"] == 999_885_952
    (cache,) = summary["caches"]
    row = 2 * 256 * 2  # key and value of one position of one KV head, bfloat16
    tokens = 32768 * 4
    assert cache["uniform_bytes_per_row"] == 26 * 32768 * row + tokens
    assert cache["bytes_per_row"] == (22 * 512 + 4 * 32768) * row + tokens
    assert cache["bytes_per_row"] / cache["uniform_bytes_per_row"] == pytest.approx(1 / 6, abs=1e-3)
    assert {p["cache_bytes_per_device"] for p in summary["programs"]} == {cache["bytes_per_row"]}


def test_an_abstract_bundle_has_every_program_and_is_refused_by_the_runtime_with_the_reason(
    abstract: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert len(list(abstract.rglob("*.mlirbc"))) == 4
    assert not (abstract / "weights").exists()
    status, out, err = main_of(
        "runtime.commands.run", monkeypatch, capsys, str(abstract), "--prompt", "x"
    )
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "was exported with --abstract and has programs but no weights" in err


def test_every_published_size_is_known_by_its_name(gemma3_export: Command):
    status, _, err = gemma3_export("--mesh", "1x1", "--abstract", "2b")
    assert status == 2
    for size in ("270m", "1b", "4b", "12b", "27b"):
        assert size in err
