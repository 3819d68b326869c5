"""`--tune` and `--tuned`: forms measured on one machine, and used on any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.export import measure, tuning
from gemma3_export.export.tuned_file import read_tuned
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.score import score

from .conftest import Command
from .test_refusals import left_in, refused

SIZES = ("--prefill", "8", "--cache", "24", "--generate", "4", "--mesh", "1x1", "--jobs", "1")
TOKENS = [2, 17, 230, 5, 99, 64, 5, 12, 201, 77, 3, 150, 31]


def product(form: str, rows: int, outputs: int, inputs: int, **case: Any) -> dict[str, Any]:
    return {
        "case": {
            "platform": "cpu", "scheme": "none", "dtype": "bfloat16", "rows": rows,
            "outputs": outputs, "inputs": inputs, "kernels": False, **case,
        },
        "form": form, "seconds": {},
    }  # fmt: skip


def attention(form: str, tokens: int, slots: int, kind: str, **case: Any) -> dict[str, Any]:
    """Of the tiny checkpoint `default`."""
    return {
        "case": {
            "platform": "cpu", "kind": kind, "dtype": "bfloat16", "kept": "bfloat16", "batch": 1,
            "tokens": tokens, "heads": 4, "kv_heads": 1, "head_dim": 16, "slots": slots, **case,
        },
        "form": form, "seconds": {},
    }  # fmt: skip


def tuned(products: list = [], attention: list = [], **changes: Any) -> dict[str, Any]:  # noqa: B006
    machine = {"processor": "p", "cores": 2, "jax": "0", "jaxlib": "0", "devices": {"cpu": "cpu"}}
    return {
        "tuned_version": 1, "machine": machine, "products": products, "attention": attention,
        **changes,
    }  # fmt: skip


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


# The head at one row, the MLP's way down for a chunk, and attention of both.
SWAPPED = tuned(
    [product("narrow_product", 1, 256, 64), product("float_product", 8, 64, 128)],
    [
        attention("blocks of 1x16", 1, 24, "full_attention"),
        attention("blocks of 4x8", 8, 24, "full_attention"),
    ],
)


def test_a_file_decides_the_forms_of_its_cases_and_of_no_other(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    file = write(tmp_path / "tuned.json", SWAPPED)
    arguments = (*SIZES, "--checkpoint", checkpoint)
    assert gemma3_export(*arguments, "--out", tmp_path / "shipped")[0] == 0
    status, out, err = gemma3_export(*arguments, "--tuned", file, "--out", tmp_path / "tuned")
    assert status == 0, err
    assert f"note: {file}: chose 4 of" in out
    shipped, swapped = (Bundle.open(tmp_path / name) for name in ("shipped", "tuned"))
    before, after = (
        {str(p.bucket.program): p.forms for p in bundle.manifest.programs}
        for bundle in (shipped, swapped)
    )
    assert all("table" not in forms for forms in before.values())
    assert read_tuned(file).source.startswith("tuned, sha256 ")
    source = {"table": read_tuned(file).source}
    head = {"embed to vocab": "narrow_product", "full_attention": "blocks of 1x16"}
    assert before["decode"]["embed to vocab"] == "row_product"
    assert before["decode"]["full_attention"] == "whole"
    assert after["decode"] == before["decode"] | head | source
    assert after["generate"] == before["generate"] | head | source
    chunk = {"ffw to embed": "float_product", "full_attention": "blocks of 4x8"}
    assert before["prefill"]["ffw to embed"] == "narrow_product"
    assert after["prefill"] == before["prefill"] | chunk | source | {
        "embed to vocab": "narrow_product"
    }


def stablehlo(bundle: Path, program: str) -> str:
    record = next(
        p for p in Bundle.open(bundle).manifest.programs if str(p.bucket.program) == program
    )
    exported = jax.export.deserialize(bytearray((bundle / record.jaxexport).read_bytes()))
    return exported.mlir_module()


def test_the_programs_are_written_as_the_file_says(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    file = write(tmp_path / "tuned.json", SWAPPED)
    arguments = (*SIZES, "--checkpoint", checkpoint)
    assert gemma3_export(*arguments, "--out", tmp_path / "shipped")[0] == 0
    assert gemma3_export(*arguments, "--tuned", file, "--out", tmp_path / "tuned")[0] == 0
    narrow_head = "(tensor<1x64xbf16>, tensor<256x64xbf16>) -> tensor<1x256xf32>"
    scores_of_a_block = "tensor<1x1x16x8xf32>"  # 4 queries of 4 heads, 8 keys
    for name, text, program in (
        ("tuned", narrow_head, "decode"), ("tuned", scores_of_a_block, "prefill")
    ):  # fmt: skip
        assert text in stablehlo(tmp_path / name, program)
        assert text not in stablehlo(tmp_path / "shipped", program)
    narrow_down = "tensor<64x128xbf16>) -> tensor<1x8x64xf32>"
    assert narrow_down in stablehlo(tmp_path / "shipped", "prefill")
    assert narrow_down not in stablehlo(tmp_path / "tuned", "prefill")


def test_other_forms_give_the_same_up_to_rounding(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    file = write(tmp_path / "tuned.json", SWAPPED)
    arguments = (*SIZES, "--checkpoint", checkpoint)
    logprobs = []
    for name, flags in (("shipped", ()), ("tuned", ("--tuned", file))):
        assert gemma3_export(*arguments, *flags, "--out", tmp_path / name)[0] == 0
        model = LoadedModel.load(tmp_path / name, "1x1", "cpu")
        logprobs.append(np.asarray(score(model, [TOKENS])[0].logprobs))
    assert not np.array_equal(*logprobs)
    np.testing.assert_allclose(*logprobs, atol=0.05)


def test_exports_by_one_file_are_the_same_bytes_whatever_the_number_of_processes(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    file = write(tmp_path / "tuned.json", SWAPPED)
    for jobs in ("1", "2"):
        status, _, err = gemma3_export(
            *SIZES[:-1], jobs, "--checkpoint", checkpoint, "--tuned", file, "--out", tmp_path / jobs
        )
        assert status == 0, err
    one, two = ((tmp_path / jobs / "manifest.json").read_bytes() for jobs in ("1", "2"))
    assert one == two  # it holds the digests of all other files
    assert b"blocks of 4x8" in one


def test_what_was_tuned_here_is_used_here_and_read_back_the_same(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tuning, "_CASE_SECONDS", 0.01)
    monkeypatch.setattr(measure, "ROTATED_BYTES", 1 << 16)
    arguments = (*SIZES, "--checkpoint", checkpoint, "--quantize", "int8")
    file = tmp_path / "tuned.json"
    status, out, err = gemma3_export(
        *arguments, "--tune", file, "--json", "--out", tmp_path / "tune"
    )
    assert status == 0, err
    data = json.loads(out)["tuning"]
    assert data["file"] == str(file)
    assert data["seconds"] > 0
    stored = json.loads(file.read_text())
    assert len(data["choices"]) == len(stored["products"]) + len(stored["attention"])
    assert stored["machine"]["jax"] == jax.__version__
    assert stored["machine"]["cores"] >= 1
    assert all(c["seconds"][c["form"]] > 0 for c in stored["products"] + stored["attention"])
    # Every product of every program was measured: one row, and the rows of the chunk.
    assert {c["case"]["rows"] for c in stored["products"]} == {1, 8}
    assert {c["case"]["scheme"] for c in stored["products"]} == {"int8"}
    assert {c["case"]["tokens"] for c in stored["attention"]} == {1, 8}
    status, out, err = gemma3_export(*arguments, "--tuned", file, "--out", tmp_path / "tuned")
    assert status == 0, err
    count = len(data["choices"])
    assert f"{file}: chose {count} of {count} forms" in out
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("tune", "tuned")]
    assert manifests[0] == manifests[1]
    assert json.loads(manifests[0])["programs"][0]["forms"]["table"] == read_tuned(file).source


def test_the_table_for_people_says_what_was_measured_and_chosen(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tuning, "_CASE_SECONDS", 0.01)
    monkeypatch.setattr(measure, "ROTATED_BYTES", 1 << 16)
    monkeypatch.setattr(tuning, "fastest", lambda times, shipped, margin: sorted(times)[0])
    file = tmp_path / "tuned.json"
    status, out, err = gemma3_export(
        *SIZES, "--mesh", "1x2", "--checkpoint", checkpoint, "--tune", file,
        "--out", tmp_path / "bundle",
    )  # fmt: skip
    assert status == 0, err
    line = next(line for line in out.splitlines() if line.startswith("bfloat16 1 x 256x64"))
    assert [word for word in line.split() if word.endswith("product")] == [
        "float_product", "row_product",
    ]  # fmt: skip
    assert line.endswith("x")
    assert "chosen otherwise than the shipped table does" in out
    assert f"{file}: for one device; 1x2 by the shipped table" in out
    forms = {p.mesh: p.forms for p in Bundle.open(tmp_path / "bundle").manifest.programs}
    assert "table" in forms["1x1"]
    assert "table" not in forms["1x2"]


PRODUCT = product("row_product", 1, 256, 64)
ATTENTION = attention("whole", 8, 24, "full_attention")
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no object": (lambda: [1], "expected an object"),
    "another version": (lambda: tuned(tuned_version=2), "tuned_version: expected 1, got 2"),
    "no version": (dict, "tuned_version: expected 1, got None"),
    "unknown field": (lambda: tuned(speed=1), "speed: expected only fields"),
    "field of another type": (
        lambda: tuned([product("row_product", "1", 256, 64)]),  # type: ignore[arg-type]
        "products[0].case.rows: expected an integer",
    ),
    "no rows": (lambda: tuned([product("row_product", 0, 256, 64)]), "case.rows: expected 1 to"),
    "unknown form": (
        lambda: tuned([product("fast_product", 1, 256, 64)]),
        "products[0].form: expected one of row_product, float_product, narrow_product, got fast",
    ),
    "form of another scheme": (
        lambda: tuned([product("row_product", 1, 256, 64, scheme="int8")]),
        "expected one of scaled_row_product, scaled_float_product, widened_product, got row",
    ),
    "form that costs accuracy": (
        lambda: tuned([product("integer_product", 8, 256, 64, scheme="int8")]),
        "got integer_product",
    ),
    "form that rounds in float32": (
        lambda: tuned([product("eighth_product", 8, 256, 64, scheme="fp8", dtype="float32")]),
        "expected one of scaled_float_product, widened_product, got eighth_product",
    ),
    "kernel where none may be called": (
        lambda: tuned([product("int4_kernel", 1, 256, 64, scheme="int4")]),
        "expected one of grouped_row_product, unpacked_product, got int4_kernel",
    ),
    "kernels of a scheme without": (
        lambda: tuned([product("widened_product", 1, 256, 64, scheme="fp8", kernels=True)]),
        "kernels: expected false for fp8, got true",
    ),
    "many rows one by one": (
        lambda: tuned([product("row_product", 512, 256, 64)]),
        "expected one of float_product, narrow_product, got row_product",
    ),
    "int4 of broken groups": (
        lambda: tuned([product("unpacked_product", 1, 256, 40, scheme="int4")]),
        "inputs: expected a multiple of 32, got 40",
    ),
    "unknown dtype": (
        lambda: tuned([product("row_product", 1, 256, 64, dtype="float16")]),
        "dtype: expected one of bfloat16, float32, got float16",
    ),
    "unknown platform": (
        lambda: tuned([product("row_product", 1, 256, 64, platform="rocm")]),
        "platform: expected one of cpu, cuda, tpu",
    ),
    "time of an unknown form": (
        lambda: tuned([PRODUCT | {"seconds": {"best": 1.0}}]), "seconds: expected one of row_pr",
    ),
    "no time at all": (
        lambda: tuned([PRODUCT | {"seconds": {"row_product": 0.0}}]),
        "seconds.row_product: expected more than 0, got 0.0",
    ),
    "a product twice": (lambda: tuned([PRODUCT, PRODUCT]), "products[1].case: expected each case"),
    "attention twice": (
        lambda: tuned([], [ATTENTION, ATTENTION]), "attention[1].case: expected each case once",
    ),
    "attention of unknown form": (
        lambda: tuned([], [ATTENTION | {"form": "blocks of 0x8"}]),
        "attention[0].form: expected whole or blocks of QUERIESxKEYS, got blocks of 0x8",
    ),
    "a cache of unknown dtype": (
        lambda: tuned([], [attention("whole", 8, 24, "full_attention", kept="int4")]),
        "kept: expected one of bfloat16, int8, got int4",
    ),
    "a layer of unknown kind": (
        lambda: tuned([], [attention("whole", 8, 24, "round_attention")]),
        "kind: expected one of",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("value", "reason"), WRONG.values(), ids=WRONG)
def test_a_file_that_makes_no_sense_is_refused_in_one_line(
    gemma3_export: Command, tmp_path: Path, value: Callable[[], Any], reason: str
):
    file = write(tmp_path / "tuned.json", value())
    line = refused(gemma3_export, *SIZES, "--abstract", "270m", "--tuned", file)
    assert line.startswith(f"error: {file}: ")
    assert reason in line
    assert line.endswith("fix it, or write it again with gemma3-export --tune\n")
    assert left_in(Path.cwd()) == []


def test_a_file_that_is_none_is_refused(gemma3_export: Command, tmp_path: Path):
    line = refused(gemma3_export, *SIZES, "--abstract", "270m", "--tuned", tmp_path / "none")
    assert "none: expected a file that gemma3-export --tune wrote, got nothing of that name" in line
    (tmp_path / "text").write_text("tuned")
    line = refused(gemma3_export, *SIZES, "--abstract", "270m", "--tuned", tmp_path / "text")
    assert "text: expected JSON" in line
    assert left_in(Path.cwd()) == []


TUNE = [
    (("--tuned", "b.json"), "--tune measures what --tuned would read: give one of them, not both"),
    (("--platform", "cpu,tpu"), "--tune: expected a device of tpu to measure on, got none"),
]


@pytest.mark.parametrize(("flags", "reason"), TUNE, ids=["both", "platform"])
def test_a_tuning_that_cannot_be_done_is_refused_before_any_work(
    gemma3_export: Command, flags: tuple[str, ...], reason: str
):
    line = refused(gemma3_export, *SIZES, "--abstract", "270m", "--tune", "a.json", *flags)
    assert reason in line
    assert left_in(Path.cwd()) == []


def test_forms_are_not_measured_for_meshes_of_several_devices_alone(gemma3_export: Command):
    line = refused(gemma3_export, "--mesh", "2x4", "--abstract", "270m", "--tune", "a.json")
    assert "expected a mesh of one, got 2x4; add --mesh 1x1" in line
    assert left_in(Path.cwd()) == []


@pytest.mark.parametrize("place", ["folder", "nowhere/a.json"])
def test_a_place_where_no_file_can_be_written_is_refused_before_measuring(
    gemma3_export: Command, place: str
):
    Path("folder").mkdir()
    line = refused(gemma3_export, *SIZES, "--abstract", "270m", "--tune", place)
    assert f"--tune {place}: expected a file to write, got" in line
    assert left_in(Path.cwd()) == ["folder"]


def test_a_fresh_process_refuses_a_platform_that_the_machine_lacks(tmp_path: Path):
    """Here jax has not looked for its devices yet, as it has in the tests above."""
    command = [sys.executable, "-m", "gemma3_export.export.cli", *SIZES, "--abstract", "270m",
               "--platform", "tpu", "--tune", "a.json"]  # fmt: skip
    code = "from gemma3_export.export.cli import main; main()"
    command = [sys.executable, "-c", code, *command[3:]]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: --tune: expected a device of tpu to measure on, got none")
    assert run.stderr.count("\n") == 1
    assert left_in(tmp_path) == []
