"""libgemma3 and the Python runtime take the same mesh where none is named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.loading.bundle import choose_mesh

from ..runtime.toy_bundle import Toy, make_toy_bundle
from .library import ROOT

NATIVE = ROOT / "runtime" / "native"
MESHES = [("2x4", "1x2", "1x1", "4x1"), ("2x4", "1x2"), ("1x1",), ("1x2", "2x1", "2x4")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("choices") / "mesh_choices"
    sources = [Path(__file__).with_name("mesh_choices.cc"), NATIVE / "src" / "choose_mesh.cc"]
    includes = [f"-I{NATIVE / 'src'}", f"-I{NATIVE / 'include'}"]
    subprocess.run(["c++", "-std=c++20", *includes, *sources, "-o", out], check=True)
    return out


@pytest.mark.parametrize("meshes", MESHES, ids=" ".join)
def test_both_runtimes_take_the_same_mesh(program: Path, tmp_path: Path, meshes: tuple[str, ...]):
    toy = Toy(
        meshes=meshes, platforms=("cpu", "tpu"), batch=(1,), prefill=(4,),
        programs=(ProgramName.PREFILL,),
    )  # fmt: skip
    bundle = Bundle.open(make_toy_bundle(tmp_path / "b", toy))
    asked = [(None, None)] + [(name, count) for name in ("cpu", "tpu") for count in range(10)]
    lines = "".join(f"{name or '-'} {'-' if n is None else n}\n" for name, n in asked)
    sizes = [f"{r.mesh.name}={r.mesh.devices}" for r in bundle.manifest.meshes]
    done = subprocess.run([program, *sizes], input=lines.encode(), capture_output=True)
    expected = [choose_mesh(bundle, None, name, count).mesh.name for name, count in asked]
    assert done.stdout.decode().split() == expected
    assert subprocess.run([program], input=b"cpu 1\n", capture_output=True).stdout == b"none\n"
