"""What `gemma3-bundle verify` says of this machine, and of goldens."""

from __future__ import annotations

import dataclasses
import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.artifacts.inspect.guarantee import guaranteed_until, released
from gemma3_export.artifacts.inspect.summary import format_bytes
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.artifacts.store import numpy_dtype
from gemma3_export.runtime.checks import preflight
from gemma3_export.runtime.checks.plugin import plugin_attributes
from gemma3_export.runtime.checks.preflight import (
    Status,
    check_mesh,
    check_versions,
    mesh_memory,
    verdict,
)
from gemma3_export.runtime.checks.temporaries import largest_programs, largest_temporaries
from gemma3_export.runtime.loading.devices import find_devices
from gemma3_export.runtime.loading.programs import compile_unbound, sharding_of
from gemma3_export.runtime.loading.variants import choose_variants

from .toy_bundle import copy_bundle

TODAY = datetime.date(2026, 7, 1)


@pytest.fixture(scope="module")
def bundle(toy: Path) -> Bundle:
    return Bundle.open(toy)


def with_versions(bundle: Bundle, **changes) -> Bundle:
    """The bundle as if it had been exported with other versions."""
    versions = dataclasses.replace(bundle.manifest.versions, **changes)
    return Bundle(bundle.root, dataclasses.replace(bundle.manifest, versions=versions))


def check_named(bundle: Bundle, name: str, today: datetime.date = TODAY):
    (found,) = [check for check in check_versions(bundle, None, today) if check.name == name]
    return found


@pytest.mark.parametrize(
    ("changes", "name", "status", "detail"),
    [
        ({}, "jax.export", Status.OK, "calling convention 10; jax"),
        ({"calling_convention": 8}, "jax.export", Status.FAILED, "calling convention 8; jax"),
        ({"calling_convention": 99}, "jax.export", Status.FAILED, "calling convention 99; jax"),
        ({"stablehlo": "1.15.0"}, "StableHLO", Status.OK, "1.15.0; jaxlib"),
        ({"stablehlo": "0.1.0"}, "StableHLO", Status.FAILED, "reads 0.9.0 to"),
        ({"stablehlo": "9.1.0"}, "StableHLO", Status.FAILED, "re-export with --stablehlo-version"),
        ({"stablehlo": "new"}, "StableHLO", Status.FAILED, "new; jaxlib"),
    ],
)
def test_versions_are_held_against_what_is_installed(
    bundle: Bundle, changes: dict, name: str, status: Status, detail: str
):
    check = check_named(with_versions(bundle, **changes), name)
    assert check.status is status
    assert detail in check.detail


@pytest.mark.parametrize(
    ("version", "today", "status", "detail"),
    [
        ("0.10.2", datetime.date(2026, 7, 1), Status.OK, "released until 2026-12-17"),
        ("0.10.2", datetime.date(2026, 12, 1), Status.WARNING, "16 days from now"),
        ("0.10.2", datetime.date(2027, 1, 1), Status.WARNING, "that day is past"),
        ("0.10.0.dev20250101", TODAY, Status.WARNING, "export the bundle again"),
        ("77.1", TODAY, Status.WARNING, "when it was released is not known here"),
    ],
)
def test_the_day_until_which_jax_promises_to_read_is_told(
    bundle: Bundle, version: str, today: datetime.date, status: Status, detail: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(jax, "__version__", "0.10.2")
    check = check_named(with_versions(bundle, jax=version), "guarantee", today)
    assert check.status is status
    assert detail in check.detail


def test_dates_of_versions():
    assert released("0.11.0.dev20260831") == datetime.date(2026, 8, 31)
    assert released("0.11.0.dev20261399") is None
    assert guaranteed_until("0.11.0.dev20260831") == datetime.date(2027, 2, 28)
    assert guaranteed_until("0.12.0.1") == datetime.date(2027, 4, 20)
    assert released("0.0") is guaranteed_until("0.0") is None


def test_memory_of_a_mesh_is_that_of_its_shards(bundle: Bundle):
    one = mesh_memory(bundle, bundle.mesh("1x1"), "cpu", None)
    eight = mesh_memory(bundle, bundle.mesh("2x4"), "cpu", None)
    stored = sum(weight.nbytes for weight in bundle.manifest.weights)
    assert one.weights == stored
    assert one.device == one.host == stored + one.largest_call
    # embed and head are cut over `model`, near and far lie on every device whole.
    assert eight.weights == (2 * 384 * 16 // 4 + 2 * 16 * 16) * 4
    assert eight.host == stored + 8 * eight.largest_call
    assert mesh_memory(bundle, bundle.mesh("1x1"), "tpu", None).device == 0
    more = mesh_memory(bundle, bundle.mesh("2x4"), "cpu", 1000)
    assert (more.device, more.host) == (eight.device + 1000, eight.host + 8 * 1000)


def test_temporaries_are_what_the_compiler_says_of_the_largest_programs(bundle: Bundle):
    record = bundle.mesh("2x4")
    found = largest_temporaries(bundle, record, "cpu")
    mesh = find_devices("cpu", record.mesh)
    expected = {}
    for program in choose_variants(bundle, "2x4", "cpu"):
        weights = tuple(
            jax.ShapeDtypeStruct(
                w.shape,
                numpy_dtype(w.dtype),
                sharding=sharding_of(mesh, record.weight_specs[w.name]),
            )
            for w in bundle.weight_set(program.weights)
        )
        memory = compile_unbound(bundle, program, mesh, weights).memory_analysis()
        assert memory is not None
        expected[program.bucket] = memory.temp_size_in_bytes
    assert found.bytes == max(expected.values()) > 0
    assert expected[found.program] == found.bytes
    assert found.compiled == len(largest_programs(choose_variants(bundle, "2x4", "cpu")))


def test_of_each_kind_the_program_of_most_tokens_and_longest_cache_is_compiled(bundle: Bundle):
    programs = [
        dataclasses.replace(bundle.manifest.programs[0], bucket=Bucket(ProgramName(name), *sizes))
        for name, *sizes in (
            ("prefill", 1, 512, 1024), ("prefill", 8, 32, 2048), ("prefill", 1, 512, 2048),
            ("generate", 1, 64, 4096), ("generate", 2, 8, 2048), ("decode", 1, 1, 2048),
            ("score", 1, 128, 2048), ("classify", 1, 8, 64), ("prefill_images", 1, 64, 2048),
            ("score_images", 1, 64, 2048),
        )
    ]  # fmt: skip
    chosen = [program.bucket for program in largest_programs(programs)]
    assert chosen == [
        Bucket(ProgramName.PREFILL, 1, 512, 2048), Bucket(ProgramName.GENERATE, 2, 8, 2048),
        Bucket(ProgramName.SCORE, 1, 128, 2048), Bucket(ProgramName.CLASSIFY, 1, 8, 64),
        Bucket(ProgramName.SCORE_IMAGES, 1, 64, 2048),
    ]  # fmt: skip


def test_a_mesh_is_refused_by_its_temporaries_and_told_without_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    record = bundle.mesh("2x4")
    most = largest_temporaries(bundle, record, "cpu").bytes
    least = mesh_memory(bundle, record, "cpu", most).host
    for free, status in ((least, Status.OK), (least - 1, Status.FAILED)):
        monkeypatch.setattr(preflight, "free_memory", lambda free=free: free)
        check = check_mesh(bundle, record, "cpu", True)
        assert check.status is status, check.detail
        assert f" + {format_bytes(most)} temporaries) each" in check.detail
        check = check_mesh(bundle, record, "cpu", False)
        assert check.status is Status.OK
        assert "without temporaries" in check.detail


def test_a_mesh_that_does_not_fit_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    assert check_mesh(bundle, bundle.mesh("2x4"), "cpu", False).status is Status.OK
    monkeypatch.setattr(preflight, "free_memory", lambda: 4096)
    check = check_mesh(bundle, bundle.mesh("2x4"), "cpu", False)
    assert check.status is Status.FAILED
    assert "4.0 KiB free" in check.detail
    monkeypatch.setattr(preflight, "free_memory", lambda: None)
    assert check_mesh(bundle, bundle.mesh("1x1"), "cpu", False).status is Status.WARNING


def test_devices_that_are_not_here_are_told(bundle: Bundle):
    check = check_mesh(bundle, bundle.mesh("1x1"), "tpu", True)
    assert check.status is Status.FAILED
    assert check.detail == "the bundle has no programs for it"
    programs = tuple(dataclasses.replace(p, platform="tpu") for p in bundle.manifest.programs)
    manifest = dataclasses.replace(bundle.manifest, programs=programs, platforms=("tpu",))
    check = check_mesh(Bundle(bundle.root, manifest), bundle.mesh("1x1"), "tpu", True)
    assert check.detail == "JAX finds no tpu devices here"
    assert not verdict([check])


class Device:
    """An accelerator's device as JAX shows it."""

    def __init__(self, stats: dict | None):
        self._stats = stats

    def memory_stats(self) -> dict | None:
        return self._stats


@pytest.mark.parametrize(
    ("stats", "count", "status", "detail"),
    [
        ({"bytes_limit": 1 << 30, "bytes_in_use": 1 << 29}, 1, Status.OK, "512.0 MiB free"),
        ({"bytes_limit": 1 << 30, "bytes_in_use": 1 << 30}, 1, Status.FAILED, "0 B free"),
        (None, 1, Status.WARNING, "does not tell what is free"),
        ({}, 0, Status.FAILED, "1 devices needed, 0 found"),
    ],
)
def test_memory_of_accelerators_is_asked_of_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, stats: dict | None, count: int,
    status: Status, detail: str,
):  # fmt: skip
    programs = tuple(dataclasses.replace(p, platform="cuda") for p in bundle.manifest.programs)
    manifest = dataclasses.replace(bundle.manifest, programs=programs, platforms=("cuda",))
    monkeypatch.setattr(jax, "devices", lambda platform: [Device(stats)] * count)
    check = check_mesh(Bundle(bundle.root, manifest), bundle.mesh("1x1"), "cuda", True)
    assert check.status is status
    assert detail in check.detail


def test_a_file_that_is_no_plugin_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="expected a PJRT plugin library, got no file"):
        plugin_attributes(tmp_path / "none.so")
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(UsageError, match=r"text.so is no PJRT plugin: .*name another library"):
        plugin_attributes(text)


def build_plugin(folder: Path, *defines: str) -> Path:
    """The fake plugin as a library."""
    source = Path(__file__).with_name("fake_plugin.c")
    library = folder / "plugin.so"
    subprocess.run(["cc", "-shared", "-fPIC", *defines, "-o", library, source], check=True)
    return library


def test_a_plugin_is_asked_which_stablehlo_it_reads(bundle: Bundle, tmp_path: Path):
    plugin = build_plugin(tmp_path)
    assert plugin_attributes(plugin) == {
        "pjrt_api_version": [0, 77], "stablehlo_current_version": [1, 14, 2],
        "stablehlo_minimum_version": [0, 9, 0], "vendor": "tests", "xla_version": 2, "fast": True,
    }  # fmt: skip
    check, _ = check_versions(bundle, plugin, TODAY)
    assert check.status is Status.FAILED
    assert f"1.15.0; plugin {plugin} reads 0.9.0 to 1.14.2; re-export with" in check.detail
    check, _ = check_versions(with_versions(bundle, stablehlo="1.14.0"), plugin, TODAY)
    assert check.status is Status.OK


@pytest.mark.parametrize(
    ("define", "reason"), [("-DCRASHES", "it ended the process"), ("-DFAILS", "it fails to init")]
)
def test_a_plugin_that_fails_takes_nothing_with_it(tmp_path: Path, define: str, reason: str):
    with pytest.raises(UsageError, match=reason):
        plugin_attributes(build_plugin(tmp_path, define))


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gemma3_bundle(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `gemma3-bundle` in this process: exit status, stdout, stderr."""
    from gemma3_export.runtime.commands.bundle import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gemma3-bundle", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_verify_refuses_a_bundle_that_no_jax_here_reads(gemma3_bundle: Command, small_toy: Path,
                                                        tmp_path: Path):  # fmt: skip
    bundle = copy_bundle(small_toy, tmp_path / "toy")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["versions"]["stablehlo"] = "99.0.0"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    status, out, err = gemma3_bundle("verify", bundle)
    assert status == 2
    assert "StableHLO" in out
    assert err.startswith(f"error: {bundle}: StableHLO: 99.0.0; jaxlib ")
    assert err.count("\n") == 1
    status, out, err = gemma3_bundle("verify", bundle, "--json")
    report = json.loads(out)
    assert (status, report["ok"]) == (2, False)
    assert [c["status"] for c in report["versions"]][:2] == ["ok", "failed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mesh", "9x9"), "expected a mesh of the bundle (1x1), got 9x9"),
        (("--platform", "tpu"), "--platform: expected one of the bundle's (cpu), got tpu"),
        (("--plugin", "/none.so"), "--plugin: expected a PJRT plugin library, got no file /none"),
        (("--run",), "--run needs goldens and the bundle has none; re-export with --goldens run"),
        (("--key", "a", "--certificate", "b"), "--key and --certificate exclude each other"),
        (("--key", "a"), "model.sig: expected a signature, got none"),
    ],
)
def test_verify_refuses_what_it_cannot_do(
    gemma3_bundle: Command, small_toy: Path, arguments: tuple[str, ...], message: str
):
    status, out, err = gemma3_bundle("verify", small_toy, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
