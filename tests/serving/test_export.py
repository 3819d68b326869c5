"""What an export with a SavedModel writes, says and refuses."""

from __future__ import annotations

import contextlib
import filecmp
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.serving.signatures import program_signature_name, saved_model_programs
from gemma3_export.export.savedmodel.write import run_builder
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from ..goldens.hollow import write_hollow_checkpoint
from .conftest import SLOTS, export

Done = TypeVar("Done", bound=subprocess.CompletedProcess)


def test_a_bundle_for_two_devices_carries_a_saved_model_of_one_and_says_so(bundle: Path):
    manifest = Bundle.open(bundle).manifest
    assert [record.mesh.name for record in manifest.meshes] == ["1x2", "1x1"]
    record = manifest.saved_model
    assert record is not None
    assert (record.path, record.devices, record.slots) == ("saved_model/1", 1, SLOTS)


def test_the_manifest_names_the_cache_of_prefill_and_decode_in_order(bundle: Path):
    manifest = Bundle.open(bundle).manifest
    assert manifest.saved_model is not None
    described = {signature.name: signature for signature in manifest.saved_model.signatures}
    for program in saved_model_programs(manifest):
        if program.bucket.program not in ("prefill", "decode"):
            continue
        signature = described[program_signature_name(program.bucket)]
        for arrays in (signature.inputs, signature.outputs):
            cache = arrays[-len(program.cache) :]
            assert [(a.name, a.shape, a.dtype) for a in cache] == [
                (t.name.replace(".", "_"), t.shape, t.dtype) for t in program.cache
            ]
    assert described["serving_default"].inputs == described["generate"].inputs
    assert {"prefill_slot", "decode_slot", "release_slot", "score"} <= set(described)


def test_tools_see_the_shapes_that_clients_may_send(bundle: Path):
    """What saved_model_cli prints; the graph takes any shape, to refuse wrong ones by name."""
    code = (
        "import json, sys\n"
        "from tensorflow.core.protobuf import saved_model_pb2\n"
        "saved = saved_model_pb2.SavedModel.FromString(open(sys.argv[1], 'rb').read())\n"
        "def shape(info):\n"
        "    known = info.tensor_shape\n"
        "    return None if known.unknown_rank else [dim.size for dim in known.dim]\n"
        "print(json.dumps({name: [{n: shape(i) for n, i in side.items()}\n"
        "    for side in (signature.inputs, signature.outputs)]\n"
        "    for name, signature in saved.meta_graphs[0].signature_def.items()}))\n"
    )
    path = bundle / "saved_model" / "1" / "saved_model.pb"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    found.pop("__saved_model_init_op")  # TensorFlow's own, which has no tensors
    record = Bundle.open(bundle).manifest.saved_model
    assert record is not None
    assert found == {
        signature.name: [
            {array.name: list(array.shape) for array in arrays}
            for arrays in (signature.inputs, signature.outputs)
        ]
        for signature in record.signatures
    }
    assert found["generate"][0]["tokens"] == [-1, -1]


def test_every_file_of_the_saved_model_is_in_the_manifest(bundle: Path):
    opened = Bundle.open(bundle)
    opened.verify()
    on_disk = {
        path.relative_to(bundle).as_posix()
        for path in (bundle / "saved_model").rglob("*")
        if path.is_file()
    }
    recorded = {record.path for record in opened.manifest.files}
    assert on_disk <= recorded
    assert {f"saved_model/{name}" for name in ("models.config", "batching.config", "README.md")} | {
        "saved_model/1/saved_model.pb",
        "saved_model/1/assets.extra/tf_serving_warmup_requests",
    } <= on_disk


def test_the_saved_model_holds_one_copy_of_the_weights_and_its_programs(bundle: Path):
    manifest = Bundle.open(bundle).manifest
    variables = sum(p.stat().st_size for p in (bundle / "saved_model/1/variables").iterdir())
    weights = sum(weight.nbytes for weight in manifest.weights)
    assert weights <= variables < weights * 1.05


@pytest.fixture(scope="module")
def rebuilt(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The bundle with its SavedModel written once more, and the most bytes its builder had."""
    again = tmp_path_factory.mktemp("again") / "bundle"
    shutil.copytree(bundle, again)
    # The builder opens a whole bundle, as the exporter's unfinished one is: it has no such record.
    manifest = json.loads((again / "manifest.json").read_text())
    manifest["saved_model"] = None
    manifest["files"] = [f for f in manifest["files"] if not f["path"].startswith("saved_model/")]
    (again / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(again / "saved_model")
    done, peak = with_peak_of_builder(lambda: run_builder(again, SLOTS))
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return again, peak


def with_peak_of_builder(run: Callable[[], Done]) -> tuple[Done, int]:
    """What `run` gives, and the most bytes resident in the SavedModel's builder meanwhile."""
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, IndexError):
                    if "gemma3_export.export.savedmodel.build" in child.cmdline():
                        status = Path(f"/proc/{child.pid}/status").read_text()
                        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run()
    finally:
        ended.set()
        watcher.join()
    assert peak > 100e6, "the builder was not seen"
    return done, peak


def test_the_same_saved_model_comes_out_byte_for_byte(bundle: Path, rebuilt: tuple[Path, int]):
    for name in (
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets.extra/tf_serving_warmup_requests",
    ):
        first, second = bundle / "saved_model/1" / name, rebuilt[0] / "saved_model/1" / name
        assert filecmp.cmp(first, second, shallow=False), name


def test_the_graph_names_no_folder_of_the_machine_it_was_made_on(bundle: Path):
    graph = (bundle / "saved_model/1/saved_model.pb").read_bytes()
    assert b"XlaCallModule" in graph
    assert b"site-packages" not in graph
    assert b"/build.py" not in graph


def test_the_builder_holds_no_more_of_a_model_that_is_300_times_as_large(
    rebuilt: tuple[Path, int], tmp_path: Path
):
    out = tmp_path / "bundle"
    done, peak = with_peak_of_builder(
        lambda: export(
            "--mesh", "1x1", "--checkpoint", write_hollow_checkpoint(tmp_path / "checkpoint"),
            "--out", out, "--prefill", 8, "--cache", 16, "--generate", 4, "--jobs", 1,
            "--format", "savedmodel",
        )
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    weights = sum(weight.nbytes for weight in Bundle.open(out).manifest.weights)
    assert weights > 300e6
    assert peak < rebuilt[1] + weights / 10
    files = sorted((out / "saved_model/1/variables").glob("*.data-*"))
    assert sum(path.stat().st_size for path in files) < 1.05 * weights
    assert max(path.stat().st_size for path in files) < 10e6  # what was held at a time
    shutil.rmtree(out)


def test_the_readme_has_the_commands_and_the_contract_of_slots(bundle: Path):
    text = (bundle / "saved_model" / "README.md").read_text()
    assert "docker run" in text
    assert "kubectl apply" in text
    assert "--xla_cpu_compilation_enabled=true" in text
    assert "one call at a time for a slot" in text
    body = text.split("-d '")[1].split("'")[0]
    assert set(json.loads(body)["inputs"]) >= {"tokens", "lengths", "max_new_tokens", "seed"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--savedmodel-mesh", "2x4"), "--savedmodel-mesh: expected one device, such as 1x1"),
        (("--abstract", "270m"), "--format savedmodel needs weights"),
        (("--platform", "tpu"), "--format savedmodel: expected a platform from cpu,cuda"),
        (("--stateful-slots", 4, "--batch", 2), "--stateful-slots: expected 1 among the batch"),
        (("--format", "tflite"), "--format: expected names from stablehlo,savedmodel"),
    ],
)
def test_what_no_saved_model_can_be_made_of_is_one_line(flags, message, checkpoint, tmp_path):
    source = () if "--abstract" in flags else ("--checkpoint", checkpoint)
    done = export(
        "--mesh", "1x1", *source, "--out", tmp_path / "out", "--prefill", 4, "--cache", 8,
        "--format", "savedmodel", *flags,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_slots_without_a_saved_model_are_refused(checkpoint, tmp_path):
    done = export("--mesh", "1x1", "--checkpoint", checkpoint, "--stateful-slots", 4,
                  "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 2
    assert "--stateful-slots is about the SavedModel: add --format savedmodel" in done.stderr


def test_models_config_parses_with_the_official_message(bundle: Path):
    code = """
import sys
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
config = text_format.Parse(open(sys.argv[1]).read(), ModelServerConfig())
(model,) = config.model_config_list.config
print(model.name, model.base_path, model.model_platform)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, bundle / "saved_model" / "models.config"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["gemma3", "/models/gemma3", "tensorflow"], done.stderr


def test_batching_config_parses_and_allows_the_batches_there_are_programs_for(bundle: Path):
    # tensorflow-serving-api has no BatchingParameters: its fields, from
    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto.
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", dependency=["google/protobuf/wrappers.proto"], syntax="proto3"
    )
    message = file.message_type.add(name="BatchingParameters")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(
        ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"), 1
    ):
        message.field.add(
            name=name, number=number, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )  # fmt: skip
    message.field.add(name="allowed_batch_sizes", number=6, label=kinds.LABEL_REPEATED,
                      type=kinds.TYPE_INT64)  # fmt: skip
    message.field.add(name="pad_variable_length_inputs", number=7, label=kinds.LABEL_OPTIONAL,
                      type=kinds.TYPE_BOOL)  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    parameters = message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))()
    text_format.Parse((bundle / "saved_model" / "batching.config").read_text(), parameters)
    assert list(parameters.allowed_batch_sizes) == [1, 2]
    assert parameters.max_batch_size.value == 2
    assert parameters.pad_variable_length_inputs
