"""llama.cpp as `pip install xllamacpp` brings it: a prebuilt library, slower than a native build.

The module is both sides: `PrebuiltLlama` starts this file as a child that holds the model and
answers one request a line.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CONTEXT = 9216


@dataclass(frozen=True)
class PrebuiltLlama:
    """The library, on `threads` threads."""

    threads: int
    label = "llama.cpp, xllamacpp (prebuilt)"

    def prefill(self, file: Path, tokens: int) -> float:
        """Tokens per second of a prompt."""
        return self._ask(file, [(tokens, 1)])[0]["prompt_per_second"]

    def decode(self, file: Path, contexts: list[int], tokens: int) -> dict[int, float]:
        """Tokens per second after each number of tokens of context."""
        answers = self._ask(file, [(max(context, 1), tokens) for context in contexts])
        return {c: a["predicted_per_second"] for c, a in zip(contexts, answers, strict=True)}

    def batch(self, file: Path, rows: int, prompt: int, tokens: int) -> None:
        """Not measured: the library's server does not time rows together."""

    def one_token(self, file: Path, prompt: str) -> tuple[float, int]:
        """Seconds of a whole process that writes one token, and its peak memory in bytes."""
        from .process import run

        done = run([sys.executable, __file__, file, str(self.threads), prompt])
        return done.seconds, done.peak_rss_bytes

    def _ask(self, file: Path, requests: list[tuple[int, int]]) -> list[dict]:
        child = subprocess.run(
            [sys.executable, __file__, str(file), str(self.threads)],
            input=json.dumps(requests), capture_output=True, text=True, check=True, timeout=400,
        )  # fmt: skip
        return [json.loads(line) for line in child.stdout.splitlines() if line.startswith('{"')]


def find_prebuilt(threads: int) -> PrebuiltLlama | None:
    """The library, if it is installed."""
    return PrebuiltLlama(threads) if importlib.util.find_spec("xllamacpp") else None


def _serve(file: str, threads: int, prompt: str | None) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx = CONTEXT if prompt is None else 512
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.cache_prompt = False
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    if prompt is not None:
        server.handle_completions({"prompt": prompt, "n_predict": 1, "cache_prompt": False})
        return
    for number, (context, new) in enumerate([(32, 4), *json.loads(sys.stdin.read())]):
        ids = [2, *((1000 + 7 * i + 13 * number) % 50000 for i in range(context - 1))]
        answer = server.handle_completions({
            "prompt": ids, "n_predict": new, "cache_prompt": False, "temperature": 0,
            "ignore_eos": True,
        })  # fmt: skip
        if isinstance(answer, str | bytes):
            answer = json.loads(answer)
        if number:  # the first one warms up
            print(json.dumps(answer["timings"]), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
