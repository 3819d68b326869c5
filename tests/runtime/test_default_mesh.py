"""Which mesh of a bundle runs where nobody names one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.loading.bundle import choose_mesh
from gemma3_export.runtime.loading.devices import default_mesh

import gemma3_export as g3

from .toy_bundle import Toy, make_toy_bundle

MESHES = ("2x4", "1x2", "1x1", "4x1")
CASES = [
    (None, None, "1x1"),
    ("cpu", 8, "1x1"),
    ("tpu", 16, "2x4"),
    ("tpu", 8, "2x4"),
    ("tpu", 7, "4x1"),
    ("tpu", 3, "1x2"),
    ("tpu", 1, "1x1"),
    ("tpu", 0, "1x1"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    toy = Toy(
        meshes=MESHES, platforms=("cpu", "tpu"), batch=(1,), prefill=(4,),
        programs=(ProgramName.PREFILL,),
    )  # fmt: skip
    return Bundle.open(make_toy_bundle(tmp_path_factory.mktemp("meshes") / "b", toy))


@pytest.mark.parametrize(("platform", "devices", "mesh"), CASES)
def test_accelerators_take_the_largest_mesh_that_fits_and_a_cpu_one_of_one_device(
    bundle: Bundle, platform: str | None, devices: int | None, mesh: str
):
    assert choose_mesh(bundle, None, platform, devices).mesh.name == mesh
    assert choose_mesh(bundle, "1x2", platform, devices).mesh.name == "1x2"


def test_a_bundle_without_a_mesh_of_one_device_runs_on_its_first(tmp_path: Path):
    toy = Toy(meshes=("2x4", "1x2"), batch=(1,), prefill=(4,))
    out = make_toy_bundle(tmp_path / "b", toy)
    assert choose_mesh(Bundle.open(out), None, "cpu", 8).mesh.name == "2x4"
    with g3.load(out) as model:
        assert model.mesh == "2x4"


def test_the_devices_of_this_machine_are_counted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    """As on a machine whose default devices are four TPUs; it has eight virtual ones of the CPU."""
    assert default_mesh(bundle, None).mesh.name == "1x1"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "devices", lambda name: [SimpleNamespace(platform=name)] * 4)
    assert default_mesh(bundle, None).mesh.name == "4x1"
    assert default_mesh(bundle, "cpu").mesh.name == "1x1"
