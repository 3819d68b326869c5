from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.compiled import CompiledStore
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.runtime.loading import programs
from gemma3_export.runtime.loading.compiled import entry_name, identity
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from .conftest import Command, run_python
from .toy_bundle import Toy, copy_bundle, make_toy_bundle
from .toy_model import reference_greedy

PROMPT = [2, 70, 65, 71, 80]
PREFILL = Bucket(ProgramName.PREFILL, 1, 4, 64)


@pytest.fixture
def bundle(small_toy: Path, tmp_path: Path) -> Path:
    """A bundle that nobody has compiled yet."""
    return copy_bundle(small_toy, tmp_path / "bundle")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch):
    """From here on compiling is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    return lambda: monkeypatch.setattr(programs, "_compile", refuse)


def load(bundle: Path, mesh: str | None = None) -> LoadedModel:
    return LoadedModel.load(bundle, mesh, keep_compiled=True)


def tokens(model: LoadedModel) -> list[int]:
    (completion,) = generate(
        model, [PROMPT], SamplingParameters(), max_new_tokens=6, ignore_eos=True
    )
    model.close()
    return completion.tokens


def entries(bundle: Path) -> list[Path]:
    return sorted(bundle.glob("compiled/*/*.bin"))


def test_a_second_start_compiles_nothing_and_gives_the_same(bundle: Path, no_compiler):
    first = tokens(load(bundle))
    assert [path.name.rsplit("-", 1)[0] for path in entries(bundle)] == [
        "generate-b1-t8-c64", "prefill-b1-t4-c64",
    ]  # fmt: skip
    no_compiler()
    assert tokens(load(bundle)) == first == reference_greedy(PROMPT, 6)


def test_a_process_of_its_own_uses_them_on_eight_devices(tmp_path: Path, user_cache: Path):
    bundle = make_toy_bundle(tmp_path / "b", Toy(meshes=("2x4",), batch=(4,), prefill=(4,)))
    code = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
from gemma3_export.runtime.loading import programs
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.sampling import SamplingParameters
if sys.argv[2] == "second":
    programs._compile = None
model = LoadedModel.load(sys.argv[1], keep_compiled=True)
rows = generate(model, [[2, 70, 65], [2, 71]], SamplingParameters(), max_new_tokens=9)
print([row.tokens for row in rows])
"""
    first, second = (run_python(code, bundle, which) for which in ("first", "second"))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert len(entries(bundle)) == 2


def test_the_cache_is_still_updated_in_place(bundle: Path, no_compiler):
    decode = Bucket(ProgramName.DECODE, 1, 1, 64)
    first = load(bundle)
    first.program(decode)
    first.close()
    no_compiler()
    model = load(bundle)
    (shape,) = model.grid.generating()
    cache = model.new_cache(shape)
    before = [tensor.unsafe_buffer_pointer() for tensor in cache]
    inputs = {"token": np.zeros(1, np.int32), "position": np.zeros(1, np.int32)}
    _, updated = model.program(decode)(inputs, cache)
    assert [tensor.unsafe_buffer_pointer() for tensor in updated] == before


def test_a_damaged_one_is_compiled_again_and_said_once(
    bundle: Path, caplog: pytest.LogCaptureFixture, no_compiler
):
    expected = tokens(load(bundle))
    entries(bundle)[0].write_bytes(b"damaged")
    assert tokens(load(bundle)) == expected
    assert [record.message for record in caplog.records] == [
        f"{entries(bundle)[0]} is damaged: compiling again"
    ]
    no_compiler()
    assert tokens(load(bundle)) == expected


def test_one_that_xla_refuses_is_compiled_again_and_said_once(
    bundle: Path, caplog: pytest.LogCaptureFixture
):
    model = load(bundle)
    store = CompiledStore.open(bundle, identity(model.mesh))
    opened = Bundle.open(bundle)
    (record,) = [program for program in opened.manifest.programs if program.bucket == PREFILL]
    assert store is not None
    store.write(entry_name(opened, record), b"not machine code")
    assert tokens(model) == reference_greedy(PROMPT, 6)
    assert [record.message for record in caplog.records] == [
        f"{entries(bundle)[1]} is damaged: compiling again"
    ]
    caplog.clear()
    assert tokens(load(bundle)) == reference_greedy(PROMPT, 6)
    assert not caplog.records


@pytest.mark.parametrize("change", ["program", "alias", "weights"])
def test_another_program_of_the_same_name_is_not_mistaken_for_it(bundle: Path, change: str):
    before = Bundle.open(bundle)
    record = before.manifest.programs[0]
    name = entry_name(before, record)
    value = json.loads((bundle / "manifest.json").read_text())
    if change == "program":
        (file,) = [f for f in value["files"] if f["path"] == record.jaxexport]
        file["sha256"] = "0" * 64
    elif change == "alias":
        value["programs"][0]["aliases"].pop()
    else:
        value["meshes"][0]["weight_specs"]["head"] = [["model"], []]
    (bundle / "manifest.json").write_text(json.dumps(value))
    after = Bundle.open(bundle)
    assert entry_name(after, after.manifest.programs[0]) != name


def test_without_being_asked_nothing_is_kept(bundle: Path):
    assert tokens(LoadedModel.load(bundle)) == reference_greedy(PROMPT, 6)
    assert not (bundle / "compiled").exists()


def test_the_command_keeps_them_unless_told_not_to(bundle: Path, gemma3_run: Command):
    arguments = (bundle, "--tokens", "2,70,65", "--max-new-tokens", "3", "--json")
    status, out, err = gemma3_run(*arguments, "--no-cache")
    assert (status, err, (bundle / "compiled").exists()) == (0, "", False)
    again = gemma3_run(*arguments)
    assert (again[0], json.loads(again[1])["tokens"]) == (0, json.loads(out)["tokens"])
    assert (bundle / "compiled").exists()


def test_the_command_says_once_that_nothing_can_be_kept(
    bundle: Path, gemma3_run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    arguments = (bundle, "--tokens", "2,70", "--max-new-tokens", "2", "--json")
    assert gemma3_run(*arguments, "--no-cache")[0] == 0
    assert not caplog.records
    assert gemma3_run(*arguments)[0] == 0
    folder = tmp_path / "file" / "gemma3-export"
    assert [record.message for record in caplog.records] == [
        f"compiled programs cannot be kept: no key can be made in {folder}; set XDG_CACHE_HOME "
        "to a folder that you can write"
    ]


def test_a_bundle_with_compiled_programs_is_still_whole(bundle: Path):
    tokens(load(bundle))
    Bundle.open(bundle).verify()


def test_the_identity_names_build_machine_and_devices(toy: Path):
    one, eight = (identity(LoadedModel.load(toy, mesh).mesh) for mesh in ("1x1", "2x4"))
    assert {"jax", "jaxlib", "platform", "device", "devices", "cpu", "cores", "options"} <= set(one)
    assert one == eight  # the same machine: which devices a program takes is in its own record
    assert len(one["jaxlib"].split()[1]) == 16
