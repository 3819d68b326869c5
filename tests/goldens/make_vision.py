"""Goldens of the tiny multimodal checkpoints, and proof that they would notice mistakes."""

from __future__ import annotations

import copy
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import DynamicCache, Gemma3ForConditionalGeneration
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.models.gemma3 import modeling_gemma3

from .reference import best, gaps, significant, versions
from .tiny import fingerprint
from .tiny_vision import LAYOUTS, TINY_VISION, pixels, write_checkpoint

STEPS = 12
IMAGES = 3
NOTICED = 1e-2
Model = Gemma3ForConditionalGeneration

# Prompts as (text tokens, image, text tokens, image ...), BOS being the first text token.
PROMPTS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((5,), ()),
    ((4, 6), (0,)),
    ((4, 6), (1,)),  # the same lengths, another picture: a batch of two rows
    ((1, 3, 4), (2, 0)),
    ((13, 1, 9), (1, 2)),
    ((2, 0, 1), (0, 1)),
)


def make_vision() -> dict[str, Any]:
    """Content of data/vision.json."""
    with tempfile.TemporaryDirectory() as folder:
        models = [_model(name, Path(folder)) for name in TINY_VISION]
    return {"versions": versions(), "models": models}


def _model(name: str, folder: Path) -> dict[str, Any]:
    loaded = [_load(write_checkpoint(name, folder / name / layout, layout)) for layout in LAYOUTS]
    _check_layouts(loaded)
    model = loaded[0]
    prompts = [_prompt(model, name, texts, images) for texts, images in PROMPTS]
    _check_against_generate(model, name, prompts)
    _check_batch(model, name, prompts[1:3])
    _check_sensitive(model, name, prompts)
    features = _features(model, name, range(IMAGES))
    return {
        "name": name,
        "sha256": fingerprint(folder / name / next(iter(LAYOUTS))),
        "features": [
            [[significant(x) for x in token] for token in image] for image in features.tolist()
        ],
        "prompts": prompts,
    }


def _load(folder: Path) -> Model:
    model, info = Model.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def _check_layouts(models: Sequence[Model]) -> None:
    first = models[0].state_dict()
    for other in models[1:]:
        for key, value in other.state_dict().items():
            assert torch.equal(value, first[key]), key


def _features(model: Model, name: str, images: Sequence[int]) -> torch.Tensor:
    given = torch.from_numpy(pixels(name, IMAGES)[list(images)])
    with torch.no_grad():
        return model.get_image_features(given).pooler_output


def _tokens(name: str, texts: Sequence[int], attempt: int) -> list[int]:
    """BOS, random text and images' tokens, as `texts` says."""
    config = TINY_VISION[name]
    image = [config["boi_token_index"]]
    image += [config["image_token_index"]] * config["mm_tokens_per_image"]
    image += [config["eoi_token_index"]]
    key = hashlib.sha256(f"{name}/prompt/{texts}/{attempt}".encode()).digest()[:16]
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(sum(texts))
    text = iter((raw % np.uint64(247) + np.uint64(3)).tolist())
    parts = [list(itertools.islice(text, count)) for count in texts]
    parts[0][0] = 2
    return parts[0] + [token for part in parts[1:] for token in image + part]


def _feed(
    model: Model, name: str, tokens: Sequence[int], images: Sequence[int]
) -> Iterator[torch.Tensor]:
    """Endless log-probabilities each greedy token after the prompt is chosen from."""
    cache = DynamicCache(config=model.config.get_text_config())
    ids = torch.tensor([list(tokens)])
    given: dict[str, Any] = {}
    if images:
        given["pixel_values"] = torch.from_numpy(pixels(name, IMAGES)[list(images)])
        given["token_type_ids"] = (ids == model.config.image_token_index).long()
    while True:
        with torch.no_grad():
            out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **given)
        logprobs = out.logits[0, -1].float().log_softmax(-1)
        yield logprobs
        ids, given = logprobs.argmax()[None, None], {}


def _prompt(model: Model, name: str, texts: Sequence[int], images: Sequence[int]) -> dict[str, Any]:
    """The first candidate on whose way no leading tokens tie."""
    for attempt in range(200):
        tokens = _tokens(name, texts, attempt)
        steps = list(itertools.islice(_feed(model, name, tokens, images), STEPS))
        generated = [int(logprobs.argmax()) for logprobs in steps]
        near = [gaps(logprobs, 6) for logprobs in steps]
        apart = min(gap[0] for gap in near) > 1e-3 and min(map(min, near)) > 3e-4
        if apart and len(set(generated)) >= STEPS // 2:
            print(f"{name}: {texts} with images {images}: candidate {attempt}", flush=True)
            return {
                "tokens": tokens,
                "images": list(images),
                "generated": generated,
                "best": [best(logprobs) for logprobs in steps],
            }
    raise AssertionError(f"{name}: no prompt of {texts} will do")


def _given(model: Model, name: str, prompts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ids = torch.tensor([prompt["tokens"] for prompt in prompts])
    images = [image for prompt in prompts for image in prompt["images"]]
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if images:
        given["pixel_values"] = torch.from_numpy(pixels(name, IMAGES)[images])
        given["token_type_ids"] = (ids == model.config.image_token_index).long()
    return given


def _check_against_generate(model: Model, name: str, prompts: Sequence[dict[str, Any]]) -> None:
    """transformers' own generate() gives the same tokens."""
    for prompt in prompts:
        out = model.generate(
            **_given(model, name, [prompt]), max_new_tokens=STEPS, do_sample=False, eos_token_id=-1
        )
        assert out[0, len(prompt["tokens"]) :].tolist() == prompt["generated"]


def _check_batch(model: Model, name: str, prompts: Sequence[dict[str, Any]]) -> None:
    """A batch of rows with different pictures is its rows one by one."""
    out = model.generate(
        **_given(model, name, prompts), max_new_tokens=STEPS, do_sample=False, eos_token_id=-1
    )
    length = len(prompts[0]["tokens"])
    assert [row[length:].tolist() for row in out] == [p["generated"] for p in prompts]


def _distance(model: Model, name: str, prompt: dict[str, Any], images: Sequence[int]) -> float:
    """How far the first step's log-probabilities are from the golden's."""
    logprobs = next(_feed(model, name, prompt["tokens"], images))
    return max(abs(float(logprobs[int(token)]) - value) for token, value in prompt["best"][0])


def _masks(rule: str) -> Callable[..., dict[str, Any]]:
    """`create_masks_for_vision_model` with a mistake."""
    right = modeling_gemma3.create_masks_for_vision_model

    def wrong(block_sequence_ids: torch.Tensor, **given: Any) -> dict[str, Any]:
        if rule == "causal":
            block_sequence_ids = torch.full_like(block_sequence_ids, -1)
        if rule == "images see each other":
            block_sequence_ids = block_sequence_ids.clamp(max=0)
        masks = right(block_sequence_ids=block_sequence_ids, **given)
        if rule == "an image sees back beyond the window":
            masks["sliding_attention"] = create_sliding_window_causal_mask(
                **given, block_sequence_ids=block_sequence_ids
            )
        return masks

    return wrong


def _check_sensitive(model: Model, name: str, prompts: Sequence[dict[str, Any]]) -> None:
    """Every mistake shows in some golden."""
    seen = [prompt for prompt in prompts if prompt["images"]]
    moved = {
        "other picture": [_distance(model, name, p, [2, 2][: len(p["images"])]) for p in seen[:2]]
    }
    moved["pictures in another order"] = [
        _distance(model, name, p, p["images"][::-1]) for p in seen[2:]
    ]
    rules = ["causal", "images see each other"]
    if (
        TINY_VISION[name]["mm_tokens_per_image"]
        > TINY_VISION[name]["text_config"]["sliding_window"]
    ):
        rules.append("an image sees back beyond the window")
    for rule in rules:
        with mock.patch.object(modeling_gemma3, "create_masks_for_vision_model", _masks(rule)):
            moved[rule] = [_distance(model, name, p, p["images"]) for p in seen]
    scaled = copy.deepcopy(model)
    projector = scaled.model.multi_modal_projector
    with torch.no_grad():
        projector.mm_input_projection_weight.mul_(model.config.text_config.hidden_size**0.5)
    moved["soft tokens scaled"] = [_distance(scaled, name, p, p["images"]) for p in seen]
    for label, distances in moved.items():
        print(f"{name}: {label}: moves {max(distances):.3g}", flush=True)
        assert max(distances) > NOTICED, f"{name}: {label}: {distances}"
