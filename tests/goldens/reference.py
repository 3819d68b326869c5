"""Hugging Face transformers, driven one forward call at a time. Used by `make.py` alone."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, Gemma3ForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

BEST = 5


def versions() -> dict[str, str]:
    """Versions of what the numbers come from."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "gguf")}
    return found | {"python": platform.python_version()}


def significant(value: float) -> float:
    """`value` rounded to 7 significant decimals, all that float32 has."""
    return float(f"{value:.7g}")


def reset_rotary(model: Gemma3ForCausalLM) -> None:
    """Forget the longest sequence seen: `dynamic` would rotate the next one by it."""
    model.model.rotary_emb = Gemma3RotaryEmbedding(model.config)


def feed(model: Gemma3ForCausalLM, calls: Iterable[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Log-probabilities [vocab] after the last token of each forward call, one sequence's cache.

    `calls` is read lazily: the next call may depend on what this one gave.
    """
    reset_rotary(model)
    cache = DynamicCache(config=model.config)
    for tokens in calls:
        with torch.no_grad():
            out = model(
                torch.tensor([list(tokens)]),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        yield out.logits[0, -1].float().log_softmax(-1)


def split(tokens: Sequence[int], chunks: Sequence[int]) -> list[list[int]]:
    """`tokens` cut into pieces of the lengths `chunks`."""
    assert sum(chunks) == len(tokens)
    ends = [sum(chunks[: i + 1]) for i in range(len(chunks))]
    return [list(tokens[end - size : end]) for end, size in zip(ends, chunks, strict=True)]


def greedy(
    model: Gemma3ForCausalLM, prompt: Sequence[int], chunks: Sequence[int]
) -> Iterator[torch.Tensor]:
    """Endless log-probabilities each greedy token after `prompt` is chosen from.

    The token is their argmax; end tokens are tokens like any other.
    """
    token = 0

    def calls() -> Iterator[list[int]]:
        yield from split(prompt, chunks)
        while True:
            yield [token]

    for number, logprobs in enumerate(feed(model, calls()), start=1):
        if number >= len(chunks):
            token = int(logprobs.argmax())
            yield logprobs


def forced(
    model: Gemma3ForCausalLM,
    prompt: Sequence[int],
    chunks: Sequence[int],
    generated: Sequence[int],
) -> list[torch.Tensor]:
    """What `greedy` would choose from if `generated` had been chosen, step by step."""
    calls = split(prompt, chunks) + [[token] for token in generated[:-1]]
    return list(feed(model, calls))[len(chunks) - 1 :]


def best(logprobs: torch.Tensor, count: int = BEST) -> list[list[float]]:
    """The `count` most likely tokens as [id, log-probability], most likely first."""
    values, ids = logprobs.topk(count)
    return [
        [token, significant(value)]
        for token, value in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def gaps(logprobs: torch.Tensor, count: int) -> list[float]:
    """Differences between neighbours among the `count` most likely tokens."""
    values = logprobs.topk(count).values
    return (values[:-1] - values[1:]).tolist()


def score(model: Gemma3ForCausalLM, tokens: Sequence[int]) -> dict[str, Any]:
    """Log-probability of every token but the first given those before it, and their loss.

    One forward call; the loss is transformers' own.
    """
    reset_rotary(model)
    ids = torch.tensor([list(tokens)])
    with torch.no_grad():
        out = model(ids, labels=ids, use_cache=False)
    given = out.logits[0, :-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    assert abs(out.loss.item() + given.mean().item()) < 1e-5
    return {
        "tokens": list(tokens),
        "logprobs": [significant(value) for value in given.tolist()],
        "loss": significant(out.loss.item()),
    }


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Gemma3ForCausalLM:
    """The model of a checkpoint folder with eager attention; every tensor must find its place."""
    model, info = Gemma3ForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    inverse = model.model.rotary_emb.full_attention_inv_freq
    assert inverse.dtype == torch.float32, "angles must stay float32 whatever the weights are"
    return model.eval()
