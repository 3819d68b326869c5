"""One small bundle with a SavedModel, and one server of it, for the whole run.

TensorFlow never enters the process of the tests: it would meet their JAX with its eight devices.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..goldens.tiny import write_checkpoint

HERE = Path(__file__).parent
SLOTS = 8
EXPORT = "from gemma3_export.export.cli import main; main()"
Answer = dict[str, Any]
"""`outputs` by name, or `error` and its `code`."""


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run gemma3-export in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", EXPORT, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("default", tmp_path_factory.mktemp("served-checkpoint"))


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batches of 1 and 2, chunks of 4 and 16, 64 positions, 8 slots; made for a mesh of two."""
    out = tmp_path_factory.mktemp("served") / "bundle"
    done = export(
        "--mesh", "1x2", "--checkpoint", checkpoint, "--out", out, "--batch", "1,2",
        "--prefill", "4,16", "--cache", 64, "--generate", 8, "--dtype", "float32",
        "--format", "stablehlo,savedmodel", "--stateful-slots", SLOTS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the SavedModel is of one device" in done.stdout
    return out


def ask_tensorflow(folder: Path, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[Answer]:
    """What tf.saved_model.load's signatures answer, in a process of their own."""
    done = subprocess.run(
        [sys.executable, HERE / "tf_requests.py", folder],
        input=json.dumps(requests), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Built:
    """The C loader: a program and a library."""

    program: Path
    library: Path


@pytest.fixture(scope="session")
def c_loader(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Compiled against the installed wheel, warnings being errors."""
    found = importlib.util.find_spec("tensorflow")
    assert found is not None
    assert found.origin is not None
    wheel = Path(found.origin).parent
    out, source = tmp_path_factory.mktemp("c-loader"), HERE / "native"
    built = Built(out / "tf_generate", out / "libtf_model.so")
    common = ["cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1"]
    libraries = [
        f"-I{wheel / 'include'}", f"-L{wheel}", "-l:libtensorflow_cc.so.2",
        "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{wheel}",
    ]  # fmt: skip
    model = source / "tf_model.c"
    for target in (
        [model, source / "tf_generate.c", "-o", built.program],
        ["-fPIC", "-shared", model, "-o", built.library],
    ):
        subprocess.run([*common, *target, *libraries], check=True)
    return built


@dataclass(frozen=True)
class Server:
    """Where a server listens."""

    grpc: str
    rest: str


@pytest.fixture(scope="session")
def serve(
    c_loader: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Server]]:
    """Start servers of bundles: TensorFlow's own where it is installed, else that of the tests."""
    running: list[subprocess.Popen[str]] = []
    real = shutil.which("tensorflow_model_server")

    def start(bundle: Path) -> Server:
        if real is not None:
            return _start_real(real, bundle, running)
        model = bundle / "saved_model" / "1"
        command = [sys.executable, HERE / "prediction_service.py", c_loader.library, model]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        assert len(ports) == 2, "the service did not start"
        return Server(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")

    yield start
    for process in running:
        process.kill()
        process.communicate()


def _start_real(program: str, bundle: Path, running: list[subprocess.Popen[str]]) -> Server:
    grpc_port, rest_port = _free_port(), _free_port()
    running.append(
        subprocess.Popen(
            [
                program, f"--port={grpc_port}", f"--rest_api_port={rest_port}",
                "--model_name=gemma3", f"--model_base_path={bundle / 'saved_model'}",
                "--xla_cpu_compilation_enabled=true",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
        )
    )  # fmt: skip
    status = f"http://127.0.0.1:{rest_port}/v1/models/gemma3"
    for _ in range(600):
        try:
            with urllib.request.urlopen(status) as answer:
                if "AVAILABLE" in answer.read().decode():
                    return Server(f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}")
        except urllib.error.URLError:
            pass
        time.sleep(0.5)
    raise AssertionError("tensorflow_model_server did not get ready")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def server(serve: Callable[[Path], Server], bundle: Path) -> Server:
    return serve(bundle)
