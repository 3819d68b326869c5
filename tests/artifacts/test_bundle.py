import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.codec import encode
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.kernels import TARGETS
from gemma3_export.artifacts.manifest import FORMAT_VERSION, ProgramName
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .refused_manifests import REFUSED, Edit, setter

SAMPLE_V1 = Path(__file__).parent / "data" / "v1-sample"


def edit_manifest(bundle: Path, edit: Edit) -> None:
    """Change the JSON of the manifest in place."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    edit(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def refusal(bundle: Path) -> str:
    """The one line with which opening the bundle is refused."""
    with pytest.raises(ArtifactError) as raised:
        Bundle.open(bundle)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_opened_bundle_has_the_manifest_that_was_written(tmp_path: Path, write_tiny: Callable):
    written = write_tiny(tmp_path / "b")
    assert Bundle.open(tmp_path / "b").manifest == written


def test_sample_of_version_1_opens_and_is_whole():
    bundle = Bundle.open(SAMPLE_V1)
    bundle.verify()
    written = json.loads((SAMPLE_V1 / "manifest.json").read_text())
    assert written["format_version"] == 1
    read = encode(bundle.manifest)
    assert read["format_version"] == FORMAT_VERSION
    for name in written.keys() - {"format_version", "programs", "caches"}:
        assert read[name] == written[name]
    for name, changed in (("programs", "inputs"), ("caches", "layers")):
        for new, old in zip(read[name], written[name], strict=True):
            assert {field: new[field] for field in old if field != changed} == {
                field: old[field] for field in old if field != changed
            }
    for new, old in zip(read["programs"], written["programs"], strict=True):
        neutral = {tensor["name"]: tensor.pop("neutral") for tensor in new["inputs"]}
        assert new["inputs"] == old["inputs"]
        assert {name: value for name, value in neutral.items() if value is not None} == (
            {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 0}
            if "seed" in neutral
            else {}
        )
    assert {program["variant"] for program in read["programs"]} == {"portable"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["programs"][0].update(variant="fast"), "one of portable, kernels, got fast"),
        (
            lambda m: m["programs"][0].update(variant="kernels", custom_calls=["row_product"]),
            "the portable variant",
        ),
        (lambda m: m["programs"][0].update(custom_calls=["row_product"]), "expected none, got row"),
        (
            lambda m: m["programs"].append({**m["programs"][0], "variant": "kernels"}),
            "custom_calls: expected at least one, got none",
        ),
        (lambda m: m["programs"].append(m["programs"][0]), "expected each name once"),
        (lambda m: m.update(goldens="goldens.json"), "goldens: expected one of"),
        (lambda m: m.update(score_outputs=["logits"]), "one of hidden_states, attentions"),
        (
            lambda m: m.update(score_outputs=["attentions"]),
            "model.config.num_hidden_layers: expected a whole number of at least 1, got None",
        ),
        (
            lambda m: m.update(
                saved_model={"path": "../1", "devices": 1, "slots": 0, "signatures": []}
            ),
            "saved_model.path: expected a relative path",
        ),
        (
            lambda m: m.update(
                saved_model={"path": "saved_model/1", "devices": 8, "slots": 0, "signatures": []}
            ),
            "saved_model.devices: expected 1, got 8",
        ),
        (
            lambda m: m.update(
                quantization={
                    "weights": "int3", "group": 0, "embedding": "none", "cache": "none", "rule": ""
                }
            ),
            "quantization.weights: expected one of none, int8, int4, fp8, got int3",
        ),
        (
            lambda m: m["caches"][0]["layers"][0].update(scale_dtype="int3"),
            "scale_dtype: expected one of",
        ),
    ],
)  # fmt: skip
def test_what_version_2_brought_is_checked(tiny: Path, edit: Edit, message: str):
    edit_manifest(tiny, edit)
    assert message in refusal(tiny)


def add_kernels(manifest: dict, *targets: str) -> None:
    """The first program once more, calling `targets`."""
    program = {**manifest["programs"][0], "variant": "kernels", "custom_calls": list(targets)}
    manifest["programs"].append(program)


@pytest.mark.parametrize(
    "name",
    ["abort", "exit", "_exit", "pause", "gets", "longjmp", "system", "memcpy", "_gemma3_x",
     "gemma3_", "", "Gemma3_x", "gemma3_X", "gemma3_x y", "gemma3_x@V", "gemma3_\u00e4",
     "gemma3_" + "x" * 58, "__init__", "_handle"],
)  # fmt: skip
def test_custom_calls_that_are_no_kernels_of_this_project_are_refused(tiny: Path, name: str):
    edit_manifest(tiny, lambda m: add_kernels(m, "gemma3_int4_linear", name))
    assert f".custom_calls: expected names of kernels, gemma3_..., got {name};" in refusal(tiny)


@pytest.mark.parametrize("name", [*TARGETS, "gemma3_int4_product", "gemma3_" + "x" * 57])
def test_kernels_of_this_and_of_other_versions_are_no_reason_to_refuse(tiny: Path, name: str):
    edit_manifest(tiny, lambda m: add_kernels(m, name))
    assert Bundle.open(tiny).manifest.programs[-1].custom_calls == (name,)


def test_abstract_bundle_opens_without_weight_files(abstract: Path):
    bundle = Bundle.open(abstract)
    assert bundle.manifest.weights
    assert not (abstract / "weights").exists()


def test_selects_meshes_programs_cache_layouts_and_weights(tiny: Path):
    bundle = Bundle.open(tiny)
    assert bundle.mesh("2x4").mesh.devices == 8
    programs = bundle.programs_for("2x4", "cpu")
    assert {program.mesh for program in programs} == {"2x4"}
    assert [program.bucket for program in programs] == sorted(p.bucket for p in programs)
    assert {program.bucket.program for program in programs} == set(ProgramName)
    assert bundle.cache_layout(16).layers[0].slots == 8
    names = [weight.name for weight in bundle.weight_set("text")]
    assert names == list(bundle.manifest.weight_sets["text"])


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (lambda b: b.mesh("8x1"), r"expected a mesh of the bundle \(1x1, 2x4\), got 8x1"),
        (lambda b: b.programs_for("3x1", "cpu"), "re-export with --mesh 3x1"),
        (lambda b: b.programs_for("2x4", "tpu"), r"\(cpu\), got tpu; re-export with --platform"),
        (lambda b: b.cache_layout(17), r"\(16\), got 17; re-export with --cache 17"),
        (lambda b: b.path("weights/other"), "expected a record of file weights/other"),
    ],
)
def test_asking_for_what_is_not_there_lists_what_is(
    tiny: Path, select: Callable[[Bundle], object], message: str
):
    with pytest.raises(UsageError, match=message):
        select(Bundle.open(tiny))


def test_missing_folder_file_and_empty_folder_are_no_bundles(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    assert "got nothing of that name" in refusal(tmp_path / "nothing")
    assert "got a file" in refusal(tmp_path / "file")
    assert "without manifest.json" in refusal(tmp_path / "empty")


def test_manifest_that_is_not_json_is_refused(tiny: Path):
    (tiny / "manifest.json").write_text("not json")
    assert "manifest.json: expected JSON" in refusal(tiny)


@pytest.mark.parametrize("version", [0, 4, "1", 1.0, True, None])
def test_unknown_format_version_is_refused_before_anything_else(tiny: Path, version: object):
    (tiny / "manifest.json").write_text(json.dumps({"format_version": version, "new": "field"}))
    message = refusal(tiny)
    assert f"expected format version 1, 2, 3, got {json.dumps(version)}" in message
    assert "re-export" in message


@pytest.mark.parametrize("case", REFUSED)
def test_manifest_is_refused_with(tiny: Path, case: str):
    edit, message = REFUSED[case]
    edit_manifest(tiny, edit)
    assert message in refusal(tiny)


def test_missing_file_is_named(tiny: Path):
    (tiny / "programs/2x4/cpu/decode-b2-t1-c16.mlirbc").unlink()
    assert "programs/2x4/cpu/decode-b2-t1-c16.mlirbc" in refusal(tiny)


@pytest.mark.parametrize("change", [-1, 1])
def test_file_of_wrong_length_is_named(tiny: Path, change: int):
    file = tiny / "weights/model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size + change)
    assert f"model.safetensors: expected {size} bytes, got {size + change}" in refusal(tiny)


def test_folder_or_pipe_in_place_of_a_file_is_refused(tiny: Path):
    file = tiny / "tokenizer/tokenizer.model"
    file.unlink()
    file.mkdir()
    assert "expected tokenizer/tokenizer.model to be a regular file" in refusal(tiny)
    file.rmdir()
    os.mkfifo(file)
    assert "expected tokenizer/tokenizer.model to be a regular file" in refusal(tiny)


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.model", "manifest.json"])
def test_link_out_of_the_bundle_is_refused_and_one_inside_is_not(tiny: Path, name: str):
    inside = tiny / "moved"
    (tiny / name).rename(inside)
    (tiny / name).symlink_to(inside)
    Bundle.open(tiny).verify()
    outside = tiny.parent / "outside"
    inside.rename(outside)
    (tiny / name).unlink()
    (tiny / name).symlink_to(outside)
    assert f"expected {name} inside the bundle, got a link out of it;" in refusal(tiny)


def test_links_in_a_loop_are_refused(tiny: Path):
    file = tiny / "tokenizer/tokenizer.model"
    file.unlink()
    file.symlink_to(file)
    assert "tokenizer.model" in refusal(tiny)


def test_changed_contents_of_the_same_length_are_named_by_verify(tiny: Path):
    (tiny / "tokenizer/tokenizer.model").write_bytes(b"PIECES")
    bundle = Bundle.open(tiny)
    bundle.verify_digest("weights/model.safetensors")
    name = "tokenizer/tokenizer.model"
    weights = bundle.read("weights/model.safetensors")
    assert weights == (tiny / "weights/model.safetensors").read_bytes()
    for check in (
        bundle.verify, lambda: bundle.verify_digest(name), lambda: bundle.read(name),
    ):  # fmt: skip
        with pytest.raises(ArtifactError, match=r"tokenizer\.model: contents changed"):
            check()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in items:
        found.append((*path, key))
        if isinstance(item, (dict, list)):
            found += places(item, (*path, key))
    return found


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_to_a_manifest_is_refused_or_harmless(tiny: Path, data: st.DataObject):
    original = (tiny / "manifest.json").read_text()
    manifest = json.loads(original)
    path = data.draw(st.sampled_from(places(manifest)))
    value = data.draw(
        st.sampled_from([None, True, 0, -1, 2**62, 2**64, 0.5, "", "../x", "\x00", [], {}, [[]]])
    )
    setter(*path, value)(manifest)
    try:
        (tiny / "manifest.json").write_text(json.dumps(manifest))
        Bundle.open(tiny).verify()
    except ArtifactError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        (tiny / "manifest.json").write_text(original)


def test_reading_a_bundle_imports_neither_jax_nor_the_command_line(tiny: Path):
    code = (
        "import sys; from gemma3_export.artifacts.bundle import Bundle; "
        f"Bundle.open({str(tiny)!r}).verify(); "
        "print(*sorted({'jax', 'flax', 'click', 'rich', 'safetensors'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "\n"
