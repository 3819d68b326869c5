"""One cold run of llama.cpp (xllamacpp) in a process of its own; prints one JSON object.

python llama_cold.py MODEL.gguf PROMPT.json NEW_TOKENS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from gemma3_export.artifacts.memory import peak_rss_bytes
from gemma3_export.runtime.commands.stats import process_started_at


def main() -> None:
    """Load, take in the prompt, draw one token; then the same prompt again and NEW_TOKENS more."""
    model, prompt, count = sys.argv[1:]
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 2048
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.cpuparams_batch.n_threads = 2
    params.verbosity = -1
    server = xllamacpp.Server(params)
    loaded_s = time.monotonic() - process_started_at()
    tokens = json.loads(Path(prompt).read_text())
    complete(server, tokens, 1)
    first_token_s = time.monotonic() - process_started_at()
    # The first prompt stays in the server's cache; another one of the same length does not.
    timings = complete(server, [tokens[0], *reversed(tokens[1:])], int(count))["timings"]
    result = {
        "load_s": loaded_s,
        "first_token_s": first_token_s,
        "prefill_tok_s": timings["prompt_per_second"],
        "decode_tok_s": timings["predicted_per_second"],
        "peak_rss_bytes": peak_rss_bytes(),
        "version": xllamacpp.__version__,
    }
    print(json.dumps(result))


def complete(server: Any, tokens: list[int], count: int) -> dict[str, Any]:
    """The server's answer to greedy generation of `count` tokens, end tokens ignored."""
    request = {
        "prompt": tokens, "n_predict": count, "temperature": 0, "ignore_eos": True,
        "cache_prompt": False,
    }  # fmt: skip
    found = []
    server.handle_completions(json.dumps(request), found.append)
    answer = found[-1]
    return json.loads(answer) if isinstance(answer, str | bytes) else answer


if __name__ == "__main__":
    main()
