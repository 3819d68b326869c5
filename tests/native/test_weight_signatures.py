"""A program that takes other weights than the manifest says is refused by both runtimes.

PJRT compares arguments by their size in bytes: such a program would run and give nonsense.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from ..runtime.toy_bundle import Toy, copy_bundle, make_toy_bundle
from .damage import redeclare_weight
from .library import build, call, serve

TEXT = [2, 17, 18, 40]
# Weight, mesh, what the manifest claims, and on one device what the program takes and the claim.
CASES = {
    "rows for columns": (
        "embed", "1x1", (16, 384), "float32", "float32[384,16]", "float32[16,384]",
    ),
    "another dtype": ("head", "1x1", (384, 16), "int32", "float32[384,16]", "int32[384,16]"),
    "rows for columns of a shard": (
        "embed", "2x4", (16, 384), "float32", "float32[96,16]", "float32[4,384]",
    ),
    "another dtype of a shard": (
        "head", "2x4", (384, 16), "uint32", "float32[384,4]", "uint32[384,4]",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    return make_toy_bundle(folder, Toy(meshes=("1x1", "2x4"), batch=(1,), prefill=(4,)))


def damaged(toy: Path, out: Path, case: str) -> Path:
    weight, _, shape, dtype, _, _ = CASES[case]
    bundle = copy_bundle(toy, out)
    redeclare_weight(bundle, weight, shape, dtype)
    return bundle


@pytest.mark.parametrize("case", CASES)
def test_libgemma3_refuses_a_program_of_other_weights(toy: Path, tmp_path: Path, case: str) -> None:
    bundle = damaged(toy, tmp_path / "toy", case)
    Bundle.open(bundle).verify()  # sound but for its programs
    _, mesh, _, _, takes, claimed = CASES[case]
    replies = serve(
        build("tests") / "libgemma3.so",
        call("open", bundle=str(bundle), mesh=mesh, flags=1),
        call("generate", [TEXT], 4),
    )
    index = list(Bundle.open(bundle).manifest.weight_sets["all"]).index(CASES[case][0])
    message = replies.refused(1)
    assert f"argument {index} is {takes}, expected {claimed} (of " in message
    assert message.endswith("export the bundle again")


@pytest.mark.parametrize("case", CASES)
def test_the_python_runtime_refuses_a_program_of_other_weights(
    toy: Path, tmp_path: Path, case: str
) -> None:
    bundle = damaged(toy, tmp_path / "toy", case)
    _, mesh, shape, dtype, _, _ = CASES[case]
    model = LoadedModel.load(bundle, mesh)
    with pytest.raises(ArtifactError) as refused:
        generate(model, [TEXT], SamplingParameters(), max_new_tokens=4)
    claimed = f"{dtype}[{','.join(map(str, shape))}]"
    assert f"expected {claimed}: export the bundle again" in str(refused.value)
