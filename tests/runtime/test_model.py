from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import jax
import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.runtime.loading import programs
from gemma3_export.runtime.loading.buckets import Shape
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score

from .toy_bundle import Toy, copy_bundle, make_toy_bundle
from .toy_model import VOCAB

PREFILL = Bucket(ProgramName.PREFILL, 1, 4, 64)
DECODE = Bucket(ProgramName.DECODE, 1, 1, 64)


@pytest.fixture
def copy(small_toy: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return copy_bundle(small_toy, tmp_path / "copy")


def replace_file(bundle: Path, path: str, content: bytes) -> None:
    """Change a file and its record, as someone who rebuilt the manifest would."""
    (bundle / path).write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for record in manifest["files"]:
        if record["path"] == path:
            record |= {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def program_file(bundle: Path, bucket: Bucket) -> str:
    (found,) = bundle.glob(f"programs/*/*/{bucket.program}-*-t{bucket.tokens}-*.jaxexport")
    return str(found.relative_to(bundle))


def test_the_first_mesh_is_the_default(toy: Path):
    assert LoadedModel.load(toy).mesh.shape == {"data": 1, "model": 1}


def test_a_mesh_the_bundle_lacks_is_refused(toy: Path):
    with pytest.raises(UsageError, match=r"1x1, 2x4.*got 8x1"):
        LoadedModel.load(toy, "8x1", None)


def test_a_mesh_larger_than_the_machine_is_refused(tmp_path: Path):
    bundle = make_toy_bundle(tmp_path / "b", Toy(meshes=("4x4",), batch=(1,), prefill=(4,)))
    with pytest.raises(UsageError, match=r"^mesh 4x4 needs 16 cpu devices, found 8; .*before JAX"):
        LoadedModel.load(bundle)


def test_a_platform_the_bundle_lacks_is_refused(toy: Path):
    with pytest.raises(UsageError, match=r"\(cpu\).*got tpu.*--platform tpu"):
        LoadedModel.load(toy, None, "tpu")


def test_a_bundle_for_another_platform_than_this_machine_has_is_refused(tmp_path: Path):
    bundle = make_toy_bundle(
        tmp_path / "b", Toy(batch=(1,), prefill=(4,), platforms=("cuda", "tpu"))
    )
    with pytest.raises(UsageError, match=r"has programs for cuda, tpu, but JAX runs on cpu here"):
        LoadedModel.load(bundle)
    with pytest.raises(UsageError, match=r"platform cuda: JAX finds no such devices here"):
        LoadedModel.load(bundle, None, "cuda")


def test_an_abstract_bundle_is_refused_saying_why(tmp_path: Path):
    bundle = make_toy_bundle(tmp_path / "b", Toy(batch=(1,), prefill=(4,), abstract=True))
    with pytest.raises(UsageError, match=r"--abstract and has programs but no weights"):
        LoadedModel.load(bundle)


def test_a_program_that_changed_is_not_even_parsed(copy: Path):
    path = copy / program_file(copy, PREFILL)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(ArtifactError, match=r"prefill-.*contents changed"):
        LoadedModel.load(copy).program(PREFILL)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not an export" * 100])
def test_a_program_that_cannot_be_read_is_refused_by_name(copy: Path, content: bytes):
    replace_file(copy, program_file(copy, PREFILL), content)
    with pytest.raises(ArtifactError, match=r"prefill-b1-t4-c64\.jaxexport cannot be read by jax"):
        LoadedModel.load(copy).program(PREFILL)


def test_a_program_in_the_place_of_another_is_refused_before_it_runs(copy: Path):
    decode = (copy / program_file(copy, DECODE)).read_bytes()
    replace_file(copy, program_file(copy, PREFILL), decode)
    with pytest.raises(ArtifactError, match=r"argument 4 of 16 is int32\[1\], expected int32\[1,4"):
        LoadedModel.load(copy).program(PREFILL)


def test_a_program_for_another_mesh_is_refused_before_it_runs(copy: Path, toy: Path):
    other = next(toy.glob("programs/2x4/cpu/prefill-b1-t4-c64.jaxexport"))
    replace_file(copy, program_file(copy, PREFILL), other.read_bytes())
    with pytest.raises(ArtifactError, match=r"is for 8 devices of cpu.*says 1x1 on cpu"):
        LoadedModel.load(copy).program(PREFILL)


def test_a_bundle_without_a_tokenizer_runs_and_has_no_tokenizer(tmp_path: Path):
    bundle = make_toy_bundle(tmp_path / "b", Toy(batch=(1,), prefill=(4,), tokenizer=False))
    model = LoadedModel.load(bundle)
    with pytest.raises(ArtifactError, match=r"names no tokenizer"):
        _ = model.tokenizer


def test_threads_that_ask_for_one_program_share_one_compilation(small_toy: Path):
    model = LoadedModel.load(small_toy)
    with ThreadPoolExecutor(4) as pool:
        programs = list(pool.map(model.program, [PREFILL] * 4))
    assert len({id(program) for program in programs}) == 1


def test_compiling_ahead_tells_of_each_program_once(small_toy: Path):
    model = LoadedModel.load(small_toy)
    told: list[Bucket] = []
    model.compile([PREFILL, DECODE, PREFILL], told.append)
    assert sorted(told) == sorted([PREFILL, DECODE])


def test_compiling_ahead_raises_what_compiling_raises(copy: Path):
    replace_file(copy, program_file(copy, PREFILL), b"")
    with pytest.raises(ArtifactError, match=r"cannot be read"):
        LoadedModel.load(copy).compile([PREFILL, DECODE])


@pytest.mark.parametrize("which", ["model", "sharded_model"])
def test_a_new_cache_is_zeros_placed_as_the_manifest_says(
    which: str, request: pytest.FixtureRequest
):
    model: LoadedModel = request.getfixturevalue(which)
    cache = model.new_cache(Shape(4, 64))
    assert [tensor.shape for tensor in cache] == [(4, 1, 8, 16)] * 2 + [(4, 1, 64, 16)] * 2
    rows = 4 // model.mesh.shape["data"]
    assert {tensor.addressable_shards[0].data.shape[0] for tensor in cache} == {rows}
    assert all(not np.asarray(tensor).any() for tensor in cache)


@pytest.mark.parametrize("which", ["model", "sharded_model"])
def test_the_cache_is_updated_in_place_on_every_device(which: str, request: pytest.FixtureRequest):
    model: LoadedModel = request.getfixturevalue(which)
    cache = model.new_cache(Shape(4, 64))
    before = pointers(cache)
    zeros = np.zeros(4, np.int32)
    inputs = {"token": zeros, "position": zeros}  # the rest is neutral
    (token, logits), updated = model.program(Bucket(ProgramName.DECODE, 4, 1, 64))(inputs, cache)
    assert pointers(updated) == before
    assert all(tensor.is_deleted() for tensor in cache)
    assert (token.shape, logits.shape) == ((4,), (4, VOCAB))


def test_inputs_and_state_that_no_host_knows_change_nothing(tmp_path: Path, model: LoadedModel):
    """As a bundle of a later version has them: the inputs are filled with their neutral values, the
    state is passed on from call to call."""
    later = LoadedModel.load(make_toy_bundle(tmp_path / "later", Toy(later=True)))
    for sampling in (SamplingParameters(), SamplingParameters(temperature=1.5, top_k=50, seed=3)):
        ours, theirs = (
            generate(each, [[2, 7, 9], [2, 5]], sampling, max_new_tokens=12, ignore_eos=True)
            for each in (model, later)
        )
        assert [c.tokens for c in ours] == [c.tokens for c in theirs]
    assert score(model, [[2, 7, 9]]) == score(later, [[2, 7, 9]])
    bucket = Bucket(ProgramName.DECODE, 4, 1, 64)
    inputs = {"token": np.zeros(4, np.int32), "position": np.zeros(4, np.int32)}
    cache = later.new_cache(Shape(4, 64))
    for _ in range(2):
        _, cache = later.program(bucket)(inputs, cache)
    np.testing.assert_array_equal(cache[-1], 2)


def pointers(cache: tuple[jax.Array, ...]) -> list[int]:
    return [
        shard.data.unsafe_buffer_pointer()
        for tensor in cache
        for shard in tensor.addressable_shards
    ]


def test_a_program_that_the_compiler_refuses_is_one_line(
    small_toy: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        raise jax.errors.JaxRuntimeError("INTERNAL: no such thing\nand a stack")

    monkeypatch.setattr(programs, "_compile", refuse)
    with pytest.raises(ArtifactError) as caught:
        LoadedModel.load(small_toy).program(PREFILL)
    assert str(caught.value).endswith(
        ".jaxexport cannot be compiled (INTERNAL: no such thing): export the bundle again"
    )
