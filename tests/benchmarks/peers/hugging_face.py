"""Hugging Face transformers, eager, on the weights of a bundle, in an environment of its own.

Run by the Python of an environment that has torch, transformers and safetensors:
`PYTHON hugging_face.py BUNDLE DEVICE PREFILL TOKENS` prints tokens per second as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

LABEL = "transformers, eager"


def measure(python: str, bundle: Path, device: str, prefill: int, tokens: int) -> dict[str, float]:
    """{"prefill", "decode", "torch", "transformers"} of a bundle's weights, decoding after the
    prompt."""
    from .process import run

    done = run([python, __file__, bundle, device, str(prefill), str(tokens)], timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def _main(bundle: Path, device: str, prefill: int, tokens: int) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file

    manifest = json.loads((bundle / "manifest.json").read_text())
    config = transformers.Gemma3TextConfig(**manifest["model"]["config"])
    if device == "cpu":
        torch.set_num_threads(2)
    with torch.device("meta"):
        model = transformers.Gemma3ForCausalLM(config)
    weights = load_file(bundle / "weights" / "model.safetensors")
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    for module in model.modules():  # buffers that no file holds
        if hasattr(module, "rope_init_fn") or type(module).__name__.endswith("RotaryEmbedding"):
            module.__init__(config)
        if type(module).__name__ == "Gemma3TextScaledWordEmbedding":
            module.embed_scale = torch.tensor(config.hidden_size**0.5, dtype=torch.bfloat16)
    model.load_state_dict(weights, strict=False)
    model = model.to(device).eval()
    ids = torch.arange(1000, 1000 + prefill, device=device)[None]

    def timed(work):
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        value = work()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started, value

    with torch.no_grad():
        model(ids[:, :32], use_cache=True)
        prefill_s, out = timed(lambda: model(ids, use_cache=True, logits_to_keep=1))
        state = {"cache": out.past_key_values, "token": out.logits[:, -1:].argmax(-1)}

        def step():
            out = model(state["token"], past_key_values=state["cache"], use_cache=True)
            state.update(cache=out.past_key_values, token=out.logits[:, -1:].argmax(-1))

        step()
        decode_s, _ = timed(lambda: [step() for _ in range(tokens)])
    print(json.dumps({
        "prefill": prefill / prefill_s, "decode": tokens / decode_s,
        "torch": torch.__version__, "transformers": transformers.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
