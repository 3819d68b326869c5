"""One small bundle with a SavedModel, and one server of it, for the whole run.

TensorFlow never enters the process of the tests: it would meet their JAX with its eight devices.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from gemma3_export.export.cli import main

from ..goldens.tiny import write_checkpoint
from ..runtime.conftest import compile_once  # noqa: F401

HERE = Path(__file__).parent
SLOTS = 8
Answer = dict[str, Any]
"""`outputs` by name, or `error` and its `code`."""


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run gemma3-export in this process; what builds the SavedModel has one of its own anyway."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it; this puts it back
        jobs = () if "--jobs" in arguments else ("--jobs", "1")  # each more imports JAX again
        command = ["gemma3-export", *map(str, arguments), *jobs]
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as left:
            main()
    assert "tensorflow" not in sys.modules
    status = int(left.value.code or 0)
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


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
    process, said = _tensorflow()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([str(folder), requests]) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    assert line, Path(said.name).read_text()[-4000:]
    return json.loads(line)


@functools.cache
def _tensorflow() -> tuple[subprocess.Popen[str], IO[str]]:
    """TensorFlow, which takes longer to import than to answer, for the whole run; what it says."""
    said = tempfile.NamedTemporaryFile("w")  # noqa: SIM115
    command = [sys.executable, HERE / "tf_requests.py"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
    )
    return process, said


@pytest.fixture(scope="session", autouse=True)
def _end_tensorflow() -> Iterator[None]:
    yield
    if _tensorflow.cache_info().currsize:
        process, said = _tensorflow()
        process.communicate()
        said.close()


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


@pytest.fixture(scope="module")
def raw_server() -> Iterator[tuple[str, list[bytes]]]:
    """A gRPC server that answers with whatever bytes it is told."""
    answers: list[bytes] = []

    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answers[-1])

    server = grpc.server(ThreadPoolExecutor(1), handlers=(Anything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", answers
    server.stop(None)


@pytest.fixture(scope="module")
def http_server() -> Iterator[tuple[str, list[bytes]]]:
    """A REST server that answers with whatever bytes it is told, header and all."""
    answers: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answers[-1])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()
