"""Goldens of the tiny checkpoints, and proof that they would notice what they are there for."""

from __future__ import annotations

import copy
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from .reference import best, forced, gaps, greedy, load, reset_rotary, score, versions
from .tiny import TINY, fingerprint, write_checkpoint

STEPS = 24
LONG = 40
CHUNKS = (16, 16, 8)
DISTINCT = 8
NOTICED = 1e-2
"""A wrong model must move some log-probability by this much, 100 times what tests allow."""


def make_tiny() -> dict[str, Any]:
    """Content of data/tiny.json."""
    with tempfile.TemporaryDirectory() as folder:
        models = [_model(name, Path(folder) / name) for name in TINY]
    return {"versions": versions(), "models": models}


def _model(name: str, folder: Path) -> dict[str, Any]:
    write_checkpoint(name, folder)
    model = load(folder)
    window = min(model.config.sliding_window, 8)
    cases = [(1, [1]), (5, [5]), (window + 3, [window + 3]), (LONG, [LONG])]
    by_length = _rope_type(model) in ("dynamic", "longrope")
    if by_length:
        cases.append((LONG, list(CHUNKS)))
    prompts = [_prompt(model, name, length, chunks) for length, chunks in cases]
    _check_against_generate(model, prompts[:4])
    if not by_length:
        _check_against_other_calls(model, prompts[3])
    _check_sensitive(model, folder, prompts)
    tokens = next(_candidates(name, LONG, model.config.vocab_size))
    print(f"{name}: {[len(prompt['tokens']) for prompt in prompts]}", flush=True)
    return {
        "name": name,
        "sha256": fingerprint(folder),
        "prompts": prompts,
        "score": score(model, tokens),
    }


def _rope_type(model: Gemma3ForCausalLM) -> str:
    return model.config.rope_parameters["full_attention"]["rope_type"]


def _candidates(name: str, length: int, vocab: int) -> Iterator[list[int]]:
    """Endless prompts of `length` tokens: BOS, then random ids (BOS replaced if it is alone)."""
    for attempt in range(100):
        key = hashlib.sha256(f"{name}/prompt/{length}/{attempt}".encode()).digest()[:16]
        raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(length)
        tokens = (raw % np.uint64(vocab - 3) + np.uint64(3)).tolist()
        if length > 1 or attempt == 0:
            tokens[0] = 2
        yield tokens


def _prompt(model: Gemma3ForCausalLM, name: str, length: int, chunks: list[int]) -> dict[str, Any]:
    """The first candidate of this length that wanders, and on whose way no leading tokens tie."""
    for tokens in _candidates(name, length, model.config.vocab_size):
        steps = list(itertools.islice(greedy(model, tokens, chunks), STEPS))
        generated = [int(logprobs.argmax()) for logprobs in steps]
        near = [gaps(logprobs, 6) for logprobs in steps]
        apart = min(gap[0] for gap in near) > 1e-3 and min(map(min, near)) > 3e-4
        if apart and len(set(generated)) >= DISTINCT:
            return {
                "tokens": tokens,
                "chunks": chunks,
                "generated": generated,
                "best": [best(logprobs) for logprobs in steps],
            }
    raise AssertionError(f"{name}: no prompt of {length} tokens will do")


def _check_against_generate(model: Gemma3ForCausalLM, prompts: list[dict[str, Any]]) -> None:
    """transformers' own generate() gives the same tokens."""
    for prompt in prompts:
        reset_rotary(model)
        ids = torch.tensor([prompt["tokens"]])
        out = model.generate(ids, max_new_tokens=STEPS, do_sample=False, eos_token_id=-1)
        assert out[0, ids.shape[1] :].tolist() == prompt["generated"]


def _check_against_other_calls(model: Gemma3ForCausalLM, prompt: dict[str, Any]) -> None:
    """The cache is sound: other chunks, and no cache at all, give the same."""
    with torch.no_grad():
        out = model(torch.tensor([prompt["tokens"] + prompt["generated"]]), use_cache=False)
    whole = out.logits[0].log_softmax(-1)[len(prompt["tokens"]) - 1 : -1]
    chunked = torch.stack(forced(model, prompt["tokens"], list(CHUNKS), prompt["generated"]))
    for other in (whole, chunked):
        assert _distance(prompt, list(other)) < 2e-5


def _distance(prompt: dict[str, Any], steps: list[torch.Tensor]) -> float:
    """Largest difference between the prompt's best log-probabilities and those in `steps`."""
    return max(
        abs(float(logprobs[int(token)]) - value)
        for logprobs, step in zip(steps, prompt["best"], strict=True)
        for token, value in step
    )


def _mutations(config: Gemma3TextConfig) -> dict[str, Callable[[Gemma3TextConfig], None]]:
    """Mistakes an implementation could make with this config, as changes to it."""

    def plain_rope(wrong: Gemma3TextConfig) -> None:
        theta = wrong.rope_parameters["full_attention"]["rope_theta"]
        wrong.rope_parameters["full_attention"] = {"rope_type": "default", "rope_theta": theta}

    def local_rope_scaled(wrong: Gemma3TextConfig) -> None:
        theta = wrong.rope_parameters["sliding_attention"]["rope_theta"]
        entry = wrong.rope_parameters["full_attention"] | {"rope_theta": theta}
        wrong.rope_parameters["sliding_attention"] = entry

    def one_theta(wrong: Gemma3TextConfig) -> None:
        theta = wrong.rope_parameters["full_attention"]["rope_theta"]
        wrong.rope_parameters["sliding_attention"]["rope_theta"] = theta

    def wider_window(wrong: Gemma3TextConfig) -> None:
        wrong.sliding_window += 1

    def other_scale(wrong: Gemma3TextConfig) -> None:
        wrong.query_pre_attn_scalar += 2

    def no_softcap(wrong: Gemma3TextConfig) -> None:
        wrong.final_logit_softcapping = None

    found = {"query scalar off by two": other_scale}
    rope = config.rope_parameters
    if rope["full_attention"]["rope_type"] != "default":
        found |= {"scaling ignored": plain_rope, "scaling on local layers": local_rope_scaled}
    if rope["full_attention"]["rope_theta"] != rope["sliding_attention"]["rope_theta"]:
        found["local theta ignored"] = one_theta
    if config.sliding_window < LONG:
        found["window one wider"] = wider_window
    if config.final_logit_softcapping is not None:
        found["softcap ignored"] = no_softcap
    return found


def _check_sensitive(model: Gemma3ForCausalLM, folder: Path, prompts: list[dict[str, Any]]) -> None:
    """Every mistake of `_mutations` shows in these goldens."""
    right = model.config
    for label, mutate in _mutations(right).items():
        wrong = copy.deepcopy(right)
        mutate(wrong)
        other = Gemma3ForCausalLM.from_pretrained(
            folder, config=wrong, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        moved = [
            _distance(p, forced(other, p["tokens"], p["chunks"], p["generated"])) for p in prompts
        ]
        print(f"{folder.name}: {label}: moves {max(moved):.3g}", flush=True)
        assert max(moved) > NOTICED, f"{folder.name}: {label}: {moved}"
