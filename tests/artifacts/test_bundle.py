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

SAMPLE_V1 = Path(__file__).parent / "data" / "v1-sample"
Edit = Callable[[dict[str, Any]], object]


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


def setter(*path: Any) -> Edit:
    """An edit that sets the value at a path; the last item is the value."""

    def edit(manifest: dict[str, Any]) -> None:
        *keys, last, value = path
        target: Any = manifest
        for key in keys:
            target = target[key]
        target[last] = value

    return edit


def repeat(*path: Any) -> Edit:
    """An edit that puts the first item of an array there once more."""

    def edit(manifest: dict[str, Any]) -> None:
        target: Any = manifest
        for key in path:
            target = target[key]
        target.insert(0, target[0])

    return edit


def drop_spec(manifest: dict[str, Any]) -> None:
    del manifest["meshes"][0]["weight_specs"]["model.norm.weight"]


def alias_other_shape(manifest: dict[str, Any]) -> None:
    aliases = manifest["programs"][0]["aliases"]
    aliases[0]["result"], aliases[2]["result"] = aliases[2]["result"], aliases[0]["result"]


def reverse_files(manifest: dict[str, Any]) -> None:
    manifest["files"].reverse()


def split_one_cache_otherwise(manifest: dict[str, Any]) -> None:
    program = next(program for program in manifest["programs"] if program["mesh"] == "2x4")
    for tensor in program["cache"]:
        tensor["spec"] = [[], [], [], []]


WEIGHTS, MESH, LAYER = ("weights", 1), ("meshes", 1), ("caches", 0, "layers", 1)
PROGRAM = ("programs", 0)

REFUSED = {
    "absolute path": (setter("files", 0, "path", "/etc/passwd"), "a relative path inside"),
    "path leaving": (setter("files", 0, "path", "a/../../b"), "a relative path inside"),
    "path with backslash": (setter("files", 0, "path", "a\\b"), "a relative path inside"),
    "empty path": (setter("files", 0, "path", ""), "a relative path inside"),
    "manifest as its own file": (
        setter("files", 0, "path", "manifest.json"),
        "another file than the manifest",
    ),
    "file twice": (repeat("files"), "files: expected each name once"),
    "files unsorted": (reverse_files, "in the order of their paths"),
    "negative size": (setter("files", 0, "bytes", -1), "files[0].bytes: expected at least 0"),
    "short digest": (setter("files", 0, "sha256", "abc"), "64 lower-case hexadecimal digits"),
    "vocabulary of nothing": (setter("model", "vocab_size", 0), "vocab_size: expected at least 1"),
    "unknown model dtype": (setter("model", "dtype", "int3"), "model.dtype: expected one of"),
    "weight twice": (repeat("weights"), "weights: expected each name once"),
    "weight of unknown dtype": (setter(*WEIGHTS, "dtype", "F32"), "dtype: expected one of float32"),
    "weight of size 0": (setter(*WEIGHTS, "shape", [8, 0]), "shape: expected at least 1, got 0"),
    "weight of negative size": (setter(*WEIGHTS, "shape", [-8, -8]), "at least 1, got -8"),
    "weight of huge shape": (
        setter(*WEIGHTS, "shape", [2**40, 2**40]),
        "fewer than 2^63 bytes, got 1099511627776x1099511627776",
    ),
    "weight of rank 65": (setter(*WEIGHTS, "shape", [1] * 65), "at most 8 dimensions, got 65"),
    "weight not aligned": (setter(*WEIGHTS, "offset", 1000), "a multiple of 64, got 1000"),
    "weight before the file": (setter(*WEIGHTS, "offset", -64), "offset: expected at least 0"),
    "weight beyond the file": (setter(*WEIGHTS, "offset", 64 * 1000), "an end within"),
    "weight larger than the file": (setter(*WEIGHTS, "shape", [10**6, 10**6]), "an end within"),
    "weights overlapping": (setter("weights", 1, "shape", [8, 16]), "that do not overlap"),
    "weight in unknown file": (setter(*WEIGHTS, "file", "weights/other"), "file: expected one of"),
    "weight set of unknown weight": (
        setter("weight_sets", "text", 0, "lm_head.weight"),
        "weight_sets.text: expected one of model.embed_tokens.weight",
    ),
    "weight set with a weight twice": (repeat("weight_sets", "text"), "each name once"),
    "mesh twice": (repeat("meshes"), "meshes: expected each name once"),
    "axis twice": (repeat(*MESH, "mesh", "axes"), "axes: expected each name once"),
    "axis of nothing": (setter(*MESH, "mesh", "axes", 0, "size", 0), "data: expected at least 1"),
    "mesh of too many devices": (
        setter(*MESH, "mesh", "axes", 0, "size", 2**30),
        "at most 1048576 devices",
    ),
    "weight without a spec": (drop_spec, "a spec for each weight"),
    "spec of unknown weight": (
        setter(*MESH, "weight_specs", "lm_head.weight", [[]]),
        "weight_specs: expected one of",
    ),
    "spec of unknown axis": (
        setter(*MESH, "weight_specs", "model.norm.weight", [["tp"]]),
        "weight_specs.model.norm.weight: expected axes of mesh 2x4",
    ),
    "spec that does not divide": (
        setter(*MESH, "weight_specs", "model.layers.0.input_layernorm.weight", [["model"]]),
        "to divide into 4 parts, got size 5",
    ),
    "cache layout twice": (repeat("caches"), "caches: expected each name once"),
    "cache of nothing": (setter("caches", 0, "cache", 0), "cache: expected at least 1"),
    "ring longer than the cache": (
        setter("caches", 0, "layers", 0, "slots", 17),
        "slots: expected at most 16, got 17",
    ),
    "full layer that is too short": (setter(*LAYER, "slots", 15), "slots: expected 16, got 15"),
    "cache of unknown dtype": (setter(*LAYER, "dtype", "float7"), "dtype: expected one of"),
    "platform twice": (repeat("platforms"), "platforms: expected each name once"),
    "tokenizer missing": (setter("tokenizer", "path", "tokenizer/x"), "tokenizer.path: expected"),
    "tokenizer of unknown kind": (setter("tokenizer", "kind", "bpe"), "kind: expected sentence"),
    "chat template missing": (
        setter("tokenizer", "chat_template", "tokenizer/x"),
        "tokenizer.chat_template: expected one of",
    ),
    "program twice": (repeat("programs"), "programs: expected each name once"),
    "program of unknown name": (
        setter(*PROGRAM, "bucket", "program", "dance"),
        "expected one of prefill, decode, generate, score",
    ),
    "program for unknown mesh": (setter(*PROGRAM, "mesh", "8x8"), "mesh: expected one of 1x1"),
    "program for unknown platform": (
        setter(*PROGRAM, "platform", "tpu"),
        "platform: expected one of cpu, got tpu",
    ),
    "program with unknown weights": (
        setter(*PROGRAM, "weights", "vision"),
        "weights: expected one of text, got vision",
    ),
    "program without its file": (
        setter(*PROGRAM, "stablehlo", "programs/x.mlirbc"),
        "stablehlo: expected one of",
    ),
    "program without its export": (
        setter(*PROGRAM, "jaxexport", "programs/x.jaxexport"),
        "jaxexport: expected one of",
    ),
    "program with unknown cache": (
        setter(*PROGRAM, "bucket", "cache", 32),
        "bucket.cache: expected one of 16, got 32",
    ),
    "program of no rows": (setter(*PROGRAM, "bucket", "batch", 0), "batch: expected at least 1"),
    "program of no tokens": (
        setter(*PROGRAM, "bucket", "tokens", 0),
        "tokens: expected at least 1",
    ),
    "chunk longer than the cache": (
        setter(*PROGRAM, "bucket", "tokens", 17),
        "tokens: expected at most 16, got 17",
    ),
    "classes that have no name": (setter("model", "labels", []), "scores float32[2,0]"),
    "embedding of nothing": (setter("model", "embedding_size", 0), "embedding float32[2,0]"),
    "embedding of less than nothing": (
        setter("model", "embedding_size", -1),
        "model.embedding_size: expected at least 0",
    ),
    "embed with a cache": (
        setter("programs", 5, "bucket", "cache", 16),
        "bucket.cache: expected one of 0, got 16",
    ),
    "images that nothing describes": (
        setter("vision", None),
        "vision: expected an object, for program encode_image, got null",
    ),
    "pictures of no pixels": (setter("vision", "image_size", 0), "image_size: expected at least 1"),
    "channels in another order": (
        setter("vision", "channels", "BGR"),
        "vision.channels: expected RGB, got",
    ),
    "mean of too few channels": (setter("vision", "mean", [0.5]), "mean: expected a number for"),
    "deviation of nothing": (setter("vision", "std", [0.5, 0.0, 0.5]), "std: expected numbers abo"),
    "soft token that is no id": (
        setter("vision", "soft_token_id", -1),
        "vision.soft_token_id: expected at least 0",
    ),
    "image of another number of tokens": (
        setter("vision", "tokens_per_image", 9),
        "bucket.tokens: expected 9, got 4",
    ),
    "soft tokens of another size": (
        setter("vision", "soft_token_size", 9),
        "expected soft_tokens float32[2,4,9], got soft_tokens float32[2,4,8]",
    ),
    "decode of two tokens": (
        setter("programs", 1, "bucket", "tokens", 2),
        "tokens: expected at most 1, got 2",
    ),
    "input of another dtype": (
        setter(*PROGRAM, "inputs", 0, "dtype", "uint32"),
        "inputs[0]: expected tokens int32[2,4], got tokens uint32[2,4]",
    ),
    "input of another shape": (
        setter(*PROGRAM, "inputs", 1, "shape", [3]),
        "inputs[1]: expected start int32[2], got start int32[3]",
    ),
    "input missing": (
        setter(*PROGRAM, "inputs", []),
        "inputs: expected an input tokens int32[2,4], got none",
    ),
    "input twice": (
        lambda manifest: manifest["programs"][0]["inputs"].append(
            manifest["programs"][0]["inputs"][0]
        ),
        "inputs: expected each name once, got tokens twice",
    ),
    "input that must be known": (
        setter(*PROGRAM, "inputs", 1, "name", "new"),
        "inputs[1]: expected one of tokens, start, length, temperature, top_k, top_p, min_p, seed, "
        "or an input with a neutral value, got new int32[2]",
    ),
    "input with another neutral value": (
        setter(*PROGRAM, "inputs", 5, "neutral", 0),
        "inputs[5]: expected top_p float32[2], neutral 1, got top_p float32[2], neutral 0",
    ),
    "neutral value that its dtype does not hold": (
        lambda manifest: manifest["programs"][0]["inputs"].append(
            {"name": "new", "shape": [2], "dtype": "int32", "spec": [[]], "neutral": 0.5}
        ),
        "inputs[8].neutral: expected a value of float32, int32 or uint32, got new int32[2], neutr",
    ),
    "neutral value of another dtype": (
        lambda manifest: manifest["programs"][0]["inputs"].append(
            {"name": "new", "shape": [2], "dtype": "bfloat16", "spec": [[]], "neutral": 0}
        ),
        "inputs[8].neutral: expected a value of float32, int32 or uint32, got new bfloat16[2]",
    ),
    "convention that is unknown": (
        setter(*PROGRAM, "convention", 2),
        "convention: expected 1, got 2",
    ),
    "state of a shape that cannot be": (
        setter("caches", 0, "state", [{"name": "new", "shape": [0], "dtype": "int32"}]),
        "caches[0].state[0].shape: expected at least 1, got 0",
    ),
    "state that programs do not have": (
        setter("caches", 0, "state", [{"name": "new", "shape": [2], "dtype": "int32"}]),
        "cache: expected 5 tensors, got 4",
    ),
    "output of another name": (
        setter(*PROGRAM, "outputs", 0, "name", "next"),
        "outputs[0]: expected token int32[2], got next int32[2]",
    ),
    "cache other than its layout": (
        setter(*PROGRAM, "cache", 0, "shape", [2, 1, 16, 4]),
        "cache[0]: expected cache.0.key bfloat16[2,1,8,4], got cache.0.key bfloat16[2,1,16,4]",
    ),
    "input with a spec of unknown axis": (
        setter(*PROGRAM, "inputs", 0, "spec", [["tp"], []]),
        "inputs[0].spec: expected axes of mesh 1x1",
    ),
    "cache split unlike that of its neighbours": (
        split_one_cache_otherwise,
        "the specs of the other programs",
    ),
    "alias of a weight": (
        setter(*PROGRAM, "aliases", 0, "argument", 5),
        "aliases[0]: expected an argument from 6 to 17, got 5",
    ),
    "alias of no argument": (
        setter(*PROGRAM, "aliases", 0, "argument", 18),
        "aliases[0]: expected an argument from 6 to 17, got 18",
    ),
    "alias of no result": (
        setter(*PROGRAM, "aliases", 0, "result", -1),
        "aliases[0]: expected a result from 0 to 5, got -1",
    ),
    "alias twice": (repeat(*PROGRAM, "aliases"), "aliases: expected each name once"),
    "alias of other shape": (alias_other_shape, "the shape, dtype and spec of cache.0.key"),
}


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
