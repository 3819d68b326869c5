"""The native suite under sanitizers, and over and over again."""

from __future__ import annotations

from pathlib import Path

import pytest
from gemma3_export.artifacts.convention import SCORE_OUTPUTS
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export import pipeline

from ..goldens.loader import output_cases
from ..goldens.tiny import write_checkpoint
from ..parity.bundles import make_bundle
from ..runtime.toy_bundle import Toy, make_toy_bundle
from .library import build
from .sanitizers import address_build, check_clean, run_suite, thread_build


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle; its programs are compiled once, by the first test, for all of them."""
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    toy = Toy(meshes=("1x1", "2x4"), batch=(1, 2), prefill=(4, 8))
    return make_toy_bundle(folder, toy)


@pytest.mark.parametrize("mesh", ["1x1", pytest.param("2x4", marks=pytest.mark.soak)])
def test_everything_once_with_the_address_and_undefined_behaviour_sanitizers(
    mesh: str, bundle: Path
) -> None:
    done = run_suite(address_build(), bundle, mesh, "scenario")
    check_clean(done)
    assert done.stdout == "ok\n"


def test_hidden_states_and_attentions_with_the_address_sanitizer(tmp_path: Path) -> None:
    case = output_cases()["default"]
    checkpoint = write_checkpoint(case.name, tmp_path / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_buckets", lambda *_: [Bucket(ProgramName.SCORE, 2, 8, 16)])
        outputs = make_bundle(checkpoint, tmp_path / "bundle", cache=(16,), prefill=(8,),
                              outputs=SCORE_OUTPUTS)  # fmt: skip
    layers, width = case.hidden_states.shape[0] - 1, case.hidden_states.shape[2]
    done = run_suite(
        address_build(), outputs, "1x1", "outputs", layers, width, case.attentions.shape[1]
    )
    check_clean(done)
    assert done.stdout == "ok\n"


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_eight_sessions_at_once_are_each_as_when_alone(mesh: str, bundle: Path) -> None:
    done = run_suite(build("tests"), bundle, mesh, "threads", 8)
    check_clean(done)
    assert done.stdout == "ok\n"


@pytest.mark.soak
@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_eight_sessions_at_once_with_the_thread_sanitizer(mesh: str, bundle: Path) -> None:
    done = run_suite(thread_build(), bundle, mesh, "threads", 8)
    check_clean(done)
    assert done.stdout == "ok\n"


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("open", 100),
        ("sessions", 400),
        pytest.param("open", 500, marks=pytest.mark.soak),
        pytest.param("sessions", 2000, marks=pytest.mark.soak),
    ],
)
def test_memory_does_not_grow(what: str, count: int, bundle: Path) -> None:
    """4 MiB are the noise of an allocator; what one model or session takes is many times more."""
    done = run_suite(build("tests"), bundle, "1x1", what, count)
    check_clean(done)
    *resident, end = done.stdout.splitlines()
    assert end == "ok"
    sizes = [int(line.split()[1]) for line in resident]
    assert len(sizes) == 5
    assert sizes[-1] - sizes[0] < 4096, sizes
