"""Quantising on the way into a bundle: how close numbers and scales come, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.store import map_weight
from gemma3_export.export.checkpoint import blocks, open_checkpoint
from gemma3_export.export.quantize import record
from gemma3_export.model.lowering.quantize import quantize
from gemma3_export.model.lowering.recipes import RECIPES, Scheme

from ..model.quantized_weights import dequantized
from .conftest import Command

SIZES = ("--prefill", "8", "--cache", "24", "--generate", "4", "--mesh", "1x1")


def rows(count: int = 64, size: int = 96) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 0.02, (count, size)).astype(np.float32)


def restored(matrix: np.ndarray, scheme: Scheme) -> np.ndarray:
    ((numbers, scale),) = quantize([matrix], scheme)
    return dequantized(numbers, scale)


def test_int8_is_within_half_a_step_of_each_rows_own_scale():
    matrix = rows() * np.geomspace(1e-3, 1e3, 64, dtype=np.float32)[:, None]
    step = np.abs(matrix).max(1, keepdims=True) / 127
    assert np.all(np.abs(restored(matrix, Scheme.INT8) - matrix) <= step * 0.501)


def test_float8_keeps_three_bits_of_each_number_above_the_smallest():
    matrix = rows()
    floor = np.abs(matrix).max(1, keepdims=True) / 448 * 2**-6
    error = np.abs(restored(matrix, Scheme.FP8) - matrix)
    assert np.all(error <= np.maximum(np.abs(matrix), floor) / 16)


def test_int4_is_no_worse_in_any_group_than_rounding_to_the_largest_number():
    """The plain way, Q4_0's: the largest number of a group becomes -8."""
    matrix = rows()
    groups = matrix.reshape(-1, 32).astype(np.float64)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], 1) / -8
    plain = np.clip(np.rint(groups / peak), -8, 7) * peak
    plain_error = np.square(plain - groups).sum(1)
    error = np.square(restored(matrix, Scheme.INT4).reshape(-1, 32) - groups).sum(1)
    assert np.all(error <= plain_error * 1.02)  # a bfloat16 scale is itself a little off
    assert error.sum() < 0.92 * plain_error.sum()


def plain_int4(group: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """The numbers and the scale of a group [32], tried one scale after the other."""

    def steps(scale: np.float32) -> np.ndarray:
        inverse = np.float32(1) / scale if scale else np.float32(0)
        return np.clip(np.rint(group * inverse), -8, 7)

    peak = -group[np.abs(group).argmax()]
    unit = np.float32(1) / peak if peak else np.float32(0)
    best = (np.float32(np.inf), np.zeros(32, np.float32), np.float32(0))
    for most in (8, 7, 7.4, 7.7, 8.3, 8.6, 9, 9.5, 10):
        numbers = steps(peak / np.float32(most))
        weight = np.square(numbers).sum()
        fitted = (group * numbers).sum() / weight if weight else np.float32(0)
        scale = fitted.astype(ml_dtypes.bfloat16).astype(np.float32)
        numbers = steps(scale)
        error = np.square((group - numbers * scale) * unit).sum()
        if error < best[0]:
            best = error, numbers, scale
    return best[1:]


@pytest.mark.parametrize("workers", [1, 3])
def test_int4_takes_the_best_of_the_scales_to_the_bit_whoever_works(workers: int):
    matrix = rows(6, 96)
    matrix[0], matrix[1, :32], matrix[2, 32:64] = 0, 0.5, np.resize([0.5, -0.5], 32)
    matrix = np.concatenate([matrix, rows(1500, 96).astype(ml_dtypes.bfloat16).astype(np.float32)])
    ((packed, scale),) = quantize([matrix], Scheme.INT4, workers)
    pairs = packed.reshape(-1, 16)
    numbers = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.float32) - 8
    for place in [*range(30), *range(30, len(numbers), 37)]:
        expected, step = plain_int4(matrix.reshape(-1, 32)[place])
        np.testing.assert_array_equal(numbers[place], expected)
        assert scale.reshape(-1)[place] == step


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT4, Scheme.FP8])
def test_zeros_stay_zeros_and_huge_and_tiny_numbers_stay_finite(scheme: Scheme):
    matrix = rows(4)
    matrix[0] = 0
    matrix[1] *= 1e30
    matrix[2] *= 1e-34
    got = restored(matrix, scheme)
    assert np.all(np.isfinite(got))
    assert not np.any(got[0])
    np.testing.assert_allclose(got[1], matrix[1], atol=0.15 * np.abs(matrix[1]).max())


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT4])
def test_blocks_give_the_same_as_the_whole(scheme: Scheme):
    matrix = rows()
    whole = restored(matrix, scheme)
    pieces = [dequantized(*pair) for pair in quantize([matrix[:10], matrix[10:]], scheme)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("recipe", ["int8", "int4", "int4-pure"])
def test_a_bundle_holds_the_checkpoint_in_fewer_bits(
    recipe: str, gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    arguments = (*SIZES, "--checkpoint", checkpoint, "--quantize", recipe, "--jobs", "1")
    status, _, err = gemma3_export(*arguments, "--out", tmp_path / "bundle")
    assert status == 0, err
    bundle = Bundle.open(tmp_path / "bundle")
    stored = {weight.name: weight for weight in bundle.manifest.weights}
    for name, source in open_checkpoint(checkpoint).tensors.items():
        values = np.concatenate(list(blocks(source, "float32")))
        got = map_weight(bundle, stored[name])
        scales = stored.get(f"{name}_scale")
        if scales is None:
            assert "proj" not in name
            assert "embed" not in name
            np.testing.assert_array_equal(got, values.astype(got.dtype))
            continue
        coarse = got.dtype == np.uint8
        assert coarse == (recipe == "int4-pure" or (recipe == "int4" and "embed" not in name))
        error = dequantized(got, map_weight(bundle, scales)) - values
        assert np.sqrt(np.mean(error**2) / np.mean(values**2)) < (0.12 if coarse else 0.012)
    parameters = sum(s.size for s in map(shape_of, open_checkpoint(checkpoint).tensors.values()))
    assert bundle.manifest.model.parameters == parameters
    quantization = bundle.manifest.quantization
    assert quantization is not None
    assert quantization.group == (0 if recipe == "int8" else 32)
    assert quantization.embedding == ("int4" if recipe == "int4-pure" else "int8")


def shape_of(source) -> np.ndarray:
    return np.empty(source.shape, np.int8)


@pytest.mark.parametrize(
    ("name", "group", "layers", "embedding"),
    [
        ("int8", 0, "int8, a float32 scale for each output", "int8, a float32 scale"),
        ("int4", 32, "int4, a bfloat16 scale for each 32 inputs of an output", "int8, a float32"),
        ("fp8", 0, "float8_e4m3fn, a float32 scale for each output", "int8, a float32 scale"),
    ],
)
def test_the_manifest_says_how_a_recipe_stores(name: str, group: int, layers: str, embedding: str):
    said = record(RECIPES[name], "none")
    assert said is not None
    assert (said.weights, said.group, said.cache) == (name, group, "none")
    assert f"projections of the layers {layers}; embedding and head {embedding}" in said.rule
    assert record(RECIPES["none"], "none") is None


def test_two_exports_are_the_same_bytes(gemma3_export: Command, checkpoint: Path, tmp_path: Path):
    arguments = (*SIZES, "--checkpoint", checkpoint, "--quantize", "int4", "--jobs", "1")
    for name in ("one", "two"):
        assert gemma3_export(*arguments, "--out", tmp_path / name)[0] == 0
    one, two = ((tmp_path / name / "manifest.json").read_bytes() for name in ("one", "two"))
    assert one == two  # it holds the digests of all other files
    forms = {p["bucket"]["program"]: p["forms"] for p in json.loads(one)["programs"]}
    assert forms["decode"]["ffw to embed"] == "grouped_row_product"
    assert forms["prefill"]["ffw to embed"] == "unpacked_product"
    assert forms["decode"]["embed to vocab"] == "scaled_row_product"


def test_fp8_is_refused_where_no_hardware_multiplies_it(gemma3_export: Command, checkpoint: Path):
    status, out, err = gemma3_export(
        *SIZES, "--checkpoint", checkpoint, "--quantize", "fp8", "--platform", "cpu,cuda"
    )
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "--platform cuda,tpu, got cpu,cuda; use --quantize int8" in err
    assert not list(Path.cwd().iterdir())


def test_fp8_is_lowered_for_platforms_that_have_it(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    flags = ("--quantize", "fp8", "--platform", "cuda,tpu", "--jobs", "1")
    status, _, err = gemma3_export(
        *SIZES, "--checkpoint", checkpoint, *flags, "--out", tmp_path / "bundle"
    )
    assert status == 0, err
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert {w.dtype for w in manifest.weights} == {"float8_e4m3fn", "int8", "float32", "bfloat16"}
    assert {p.forms["ffw to embed"] for p in manifest.programs} == {"eighth_product"}


def test_int4_is_refused_where_inputs_do_not_fill_groups(gemma3_export: Command, tmp_path: Path):
    from ..goldens.tiny import TINY, write_checkpoint

    assert "layer_types" in TINY
    folder = write_checkpoint("default", tmp_path / "narrow")
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 100
    (folder / "config.json").write_text(json.dumps(config))
    status, _, err = gemma3_export(*SIZES, "--checkpoint", folder, "--quantize", "int4")
    assert status == 2
    assert "model.layers.0.mlp.down_proj.weight has 100 inputs: expected a multiple of 32" in err
