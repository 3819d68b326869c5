"""`diff` says in words what differs, and nothing when nothing does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.inspect.diff import diff_bundles
from gemma3_export.artifacts.manifest import Bucket, ProgramName, Versions
from gemma3_export.artifacts.store import write_weights
from gemma3_export.artifacts.writer import BundleWriter

from . import conftest as tiny_parts


def write(out: Path, change: Callable = lambda manifest: manifest, values: dict | None = None,
          program: bytes = b"program") -> Bundle:  # fmt: skip
    """The tiny bundle with another manifest or other weights."""
    with BundleWriter(out) as writer:
        stored = tiny_parts.weight_values() | (values or {})
        with write_weights(writer, tiny_parts.TENSORS) as store:
            for name, _, _ in tiny_parts.TENSORS:
                store.write(name, stored[name])
        manifest = change(tiny_parts.make_manifest(store.weights))
        for record in manifest.programs:
            writer.add_file(record.stablehlo, program)
            writer.add_file(record.jaxexport, program + b" too")
        writer.add_file("tokenizer/tokenizer.model", b"pieces")
        writer.commit(manifest)
    return Bundle.open(out)


def test_equal_bundles_do_not_differ(tmp_path: Path):
    assert diff_bundles(write(tmp_path / "a"), write(tmp_path / "b")) == []


def test_a_manifest_that_is_only_laid_out_otherwise_is_told(tmp_path: Path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    file = tmp_path / "b" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert diff_bundles(first, second) == ["manifest.json is written otherwise and says the same"]


def add_bucket(manifest):
    bucket = Bucket(ProgramName.PREFILL, 2, 8, tiny_parts.CACHE)
    program = tiny_parts.make_program(tiny_parts.MESHES[0], bucket)
    return dataclasses.replace(manifest, programs=(*manifest.programs, program))


def other_versions(manifest):
    versions = Versions("0.1.0", "0.11.1", "0.11.1", "1.15.0", 10)
    return dataclasses.replace(manifest, versions=versions)


def one_mesh(manifest):
    return dataclasses.replace(
        manifest, meshes=manifest.meshes[:1],
        programs=tuple(p for p in manifest.programs if p.mesh == "1x1"),
    )  # fmt: skip


def other_model(manifest):
    config = {**manifest.model.config, "rope_theta": 1e4}
    model = dataclasses.replace(manifest.model, eos_token_ids=(1, 107), config=config)
    return dataclasses.replace(manifest, model=model)


def other_places(manifest):
    record = manifest.meshes[1]
    specs = {**record.weight_specs, "model.embed_tokens.weight": ((), ())}
    return dataclasses.replace(
        manifest, meshes=(manifest.meshes[0], dataclasses.replace(record, weight_specs=specs))
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (add_bucket, ["program prefill batch 2 tokens 8 cache 16 for 1x1 on cpu added"]),
        (
            other_versions,
            [
                "jax version changed from \"0.10.2\" to \"0.11.1\"",
                "jaxlib version changed from \"0.10.2\" to \"0.11.1\"",
            ],
        ),
        (
            other_model,
            [
                "model.config.rope_theta changed from 1000000.0 to 10000.0",
                "model.eos_token_ids changed from an array of 2 to an array of 2, first at [1]: "
                "106 to 107",
            ],
        ),
        (other_places, ["mesh 2x4 places 1 weight (model.embed_tokens.weight) otherwise"]),
    ],
)  # fmt: skip
def test_what_changed_is_said_in_words(tmp_path: Path, change: Callable, expected: list[str]):
    assert diff_bundles(write(tmp_path / "a"), write(tmp_path / "b", change)) == expected


def test_what_is_missing_is_said_once_for_a_mesh_and_for_each_program(tmp_path: Path):
    found = diff_bundles(write(tmp_path / "a"), write(tmp_path / "b", one_mesh))
    assert found[0] == "mesh 2x4 removed"
    assert len(found) == 1 + len(tiny_parts.BUCKETS)
    assert all(line.endswith("for 2x4 on cpu removed") for line in found[1:])


def test_weights_whose_contents_changed_are_named(tmp_path: Path):
    name = "model.norm.weight"
    values = {name: np.full((8,), 3, np.float32)}
    found = diff_bundles(write(tmp_path / "a"), write(tmp_path / "b", values=values))
    assert found == ["contents of 1 weight (model.norm.weight) changed"]


def test_programs_whose_bytes_changed_are_named(tmp_path: Path):
    found = diff_bundles(write(tmp_path / "a"), write(tmp_path / "b", program=b"other"))
    assert len(found) == 2 * 2 * len(tiny_parts.BUCKETS)
    assert "program decode batch 2 tokens 1 cache 16 for 2x4 on cpu: StableHLO changed" in found


def test_other_parts_of_the_manifest_are_named(tmp_path: Path):
    first = write(tmp_path / "a")
    second = write(tmp_path / "b", lambda m: dataclasses.replace(m, tokenizer=None))
    assert diff_bundles(first, second) == ["tokenizer changed from an object to null"]


def test_files_besides_are_named(tmp_path: Path):
    first = write(tmp_path / "a")
    digests = {"tokenizer/tokenizer.model": "0" * 64}
    changed = tuple(
        dataclasses.replace(record, sha256=digests.get(record.path, record.sha256))
        for record in first.manifest.files
    )
    fewer = tuple(record for record in first.manifest.files if record.path not in digests)
    for files, expected in ((changed, "changed"), (fewer, "removed")):
        second = Bundle(first.root, dataclasses.replace(first.manifest, files=files))
        assert diff_bundles(first, second) == [f"file tokenizer/tokenizer.model {expected}"]
